# SPDX-License-Identifier: Apache-2.0
"""Features of two views that come near each other (Alice)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sslkernels.distributed import shard_of
from sslkernels.terms.term import Features, Term


class Agreement(Term):
    """Half the mean squared difference between the features of two views (Jiang et al. 2023, arXiv 2302.05615).

        1/2 mean_ij (f_ij - g_ij)^2

    Alice has this beside DINO's loss and that of patches, with weight 1. After the abstract: which embeddings differ
    there, and how cross-attention aligns them before, could not be looked up; the backbone's features are ours.

    >>> import torch
    >>> from sslkernels.terms import Agreement
    >>> Agreement(feature_dim=2)(torch.nn.Identity(), [torch.zeros(3, 2), torch.ones(3, 2)])
    tensor(0.5000)
    """

    views = 2

    def forward(self, features: Features, views: Sequence[Any], **given: Tensor) -> Tensor:
        first, second = (features(view) for view in self.taken(views))
        shard = shard_of(self.group, "Agreement", first)
        # The mean over ranks is that of all samples.
        share = shard.ranks * len(first) / shard.total(len(first))
        return 0.5 * share * (first - second).square().mean()
