# SPDX-License-Identifier: Apache-2.0
"""Losses and ops as pure functions."""

from sslkernels.functional.correlation import (
    barlow_twins,
    covariance_penalty,
    cross_correlation_sq,
    variance_hinge,
    vicreg,
)
from sslkernels.functional.covariance import frossl, tico, vcreg, vibcreg
from sslkernels.functional.sigreg import lejepa, sigreg
from sslkernels.functional.similarity import clip_loss, info_nce, nt_xent
from sslkernels.ops.similarity import logsumexp_similarity

__all__ = [
    "barlow_twins",
    "clip_loss",
    "covariance_penalty",
    "cross_correlation_sq",
    "frossl",
    "info_nce",
    "lejepa",
    "logsumexp_similarity",
    "nt_xent",
    "sigreg",
    "tico",
    "variance_hinge",
    "vcreg",
    "vibcreg",
    "vicreg",
]
