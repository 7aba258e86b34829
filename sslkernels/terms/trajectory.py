# SPDX-License-Identifier: Apache-2.0
"""Trajectory: the features of three neighbouring poses lie on a straight line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sslkernels.functional import negative_cosine_similarity
from sslkernels.terms.term import Features, Term


class Trajectory(Term):
    """Let the features of three neighbouring poses go on in one direction (Wang et al. 2024, arXiv 2403.14973).

    ``−cos(f₁ − f₀, f₂ − f₁)``, the mean over samples. This form is after the abstract, which speaks of a smooth
    trajectory of adjacent views; nobody here could verify it.

    >>> import torch
    >>> from sslkernels.terms import Trajectory
    >>> line = [torch.full((2, 1), step) * torch.ones(3) for step in (0.0, 1.0, 3.0)]
    >>> Trajectory(feature_dim=3)(torch.nn.Identity(), line)
    tensor(-1.0000)
    """

    views = 3

    def forward(self, features: Features, views: Sequence[Any], **given: Tensor) -> Tensor:
        first, middle, last = (features(view) for view in self.taken(views))
        return negative_cosine_similarity(middle - first, last - middle, group=self.group, backend=self.backend)
