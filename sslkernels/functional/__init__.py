# SPDX-License-Identifier: Apache-2.0
"""Losses and ops as pure functions."""

from sslkernels.functional.similarity import clip_loss, info_nce, nt_xent
from sslkernels.ops.similarity import logsumexp_similarity

__all__ = ["clip_loss", "info_nce", "logsumexp_similarity", "nt_xent"]
