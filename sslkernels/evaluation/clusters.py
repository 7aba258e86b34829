# SPDX-License-Identifier: Apache-2.0
"""Compares the clusters that features fall into with their classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.arguments import check_rows, check_size
from sslkernels.evaluation.directions import directions
from sslkernels.evaluation.labelled import check_finite, check_labels
from sslkernels.functional import kmeans


class Clustering(NamedTuple):
    """The result of `clustering`."""

    nmi: float
    ari: float
    purity: float


@torch.no_grad()
def clustering(
    features: Tensor, labels: Tensor, k: int | None = None, *, iterations: int = 50, restarts: int = 5
) -> Clustering:
    """Cluster rows by spherical k-means, and compare the clusters with the labels.

    ``nmi`` is the mutual information of clusters and labels over the mean of both entropies, ``ari`` the share of pairs
    of rows on which they agree, 0 for chance and 1 at best (Hubert and Arabie 1985), and ``purity`` the share of rows
    with the most frequent label of their cluster, ``1/N sum_k max_y |k and y|``: it grows with k.

    Args:
        features: rows ``(N, D)``, any floating-point dtype.
        labels: int64 ``(N,)``, from 0.
        k: clusters, at most N; as many as there are labels if None.
        iterations: of `sslkernels.functional.kmeans`, at most.
        restarts: how often it starts; the clusters of the largest mean cosine to their centroids count.

    Raises:
        ValueError, TypeError: unlike shapes, labels below 0, numbers that are not finite.

    Cost: ``restarts`` times that of `kmeans`.

    >>> import torch
    >>> from sslkernels.evaluation import clustering
    >>> clustering(torch.eye(3).repeat(4, 1), torch.tensor([0, 1, 1]).repeat(4), k=3).purity
    1.0
    """
    function = "clustering"
    check_rows(function, "features", features)
    check_labels(function, "labels", labels, "features", features)
    check_finite(function, "features", features)
    k = min(len(labels.unique()) if k is None else check_size(function, "k", k, most=len(features)), len(features))
    iterations = check_size(function, "iterations", iterations, least=0)
    restarts = check_size(function, "restarts", restarts)
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    unit = directions(features.detach().float())
    best, found = -torch.inf, torch.zeros_like(labels)
    for seed in range(restarts):
        generator = torch.Generator().manual_seed(seed)
        centroids, assignment = kmeans(unit, k, metric="cosine", iterations=iterations, generator=generator)
        near = float((unit * centroids[assignment]).sum())
        if near > best:
            best, found = near, assignment
    known, clusters = labels.cpu().numpy(), found.cpu().numpy()
    table = contingency_matrix(known, clusters)
    return Clustering(
        float(normalized_mutual_info_score(known, clusters)),
        float(adjusted_rand_score(known, clusters)),
        float(table.max(0).sum() / len(known)),
    )
