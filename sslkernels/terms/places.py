# SPDX-License-Identifier: Apache-2.0
"""Places: in which cell of the map was a picture taken?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_rows, check_size
from sslkernels.terms.term import Features, Term


class Places(Term):
    """Tell the cell of the map that a sample comes from (Geography-Aware SSL, Ayush et al. 2021, arXiv 2011.09980).

    Cells are the clusters of k-means over the places of all training samples; the term is the cross-entropy of a linear
    layer on the features of the first view.

    Args:
        feature_dim: features of the backbone.
        place: ``(N, 2)``, where each training sample was taken.
        cells: number of cells; the paper has 100.

    >>> import torch
    >>> from sslkernels.terms import Places
    >>> place = torch.rand(50, 2)
    >>> term = Places(feature_dim=64, place=place, cells=5)
    >>> term(torch.nn.Flatten(), [torch.rand(4, 1, 8, 8)], place=place[:4]).shape
    torch.Size([])
    """

    needs = ("place",)
    centres: Tensor

    def __init__(self, feature_dim: int, place: Tensor, *, cells: int = 100) -> None:
        super().__init__(feature_dim)
        check_rows("Places", "place", place, "(N, 2)")
        if not place.isfinite().all():
            raise ValueError("Places: place holds numbers that are not finite; leave out samples of unknown place.")
        cells = check_size("Places", "cells", cells, least=2)
        distinct = len(place.unique(dim=0))
        if distinct < cells:
            raise ValueError(f"Places: cells is {cells} and there are {distinct} places; pass at most {distinct}.")
        from sklearn.cluster import KMeans

        found = KMeans(cells, n_init=1, random_state=0).fit(place.double().cpu().numpy()).cluster_centers_
        self.register_buffer("centres", torch.from_numpy(found).to(torch.get_default_dtype()))
        self.head = nn.Linear(feature_dim, cells)

    def forward(self, features: Features, views: Sequence[Any], **given: Tensor) -> Tensor:
        logits = self.head(features(*self.taken(views)))
        # The fast way, by products, loses what sets places of one town apart: their distances are small beside degrees.
        exact = "donot_use_mm_for_euclid_dist"
        place = self.known(given, len(logits), self.centres.shape[1]).to(self.centres.dtype)
        return F.cross_entropy(logits, torch.cdist(place, self.centres, compute_mode=exact).argmin(1))
