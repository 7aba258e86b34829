# SPDX-License-Identifier: Apache-2.0
"""Keeps some of the training samples of any data set: ``?subset=sas:0.8`` or ``?subset=curated:5000``."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import came
from sslkernels.data.dataset import Dataset
from sslkernels.data.raw import RAW
from sslkernels.data.sas import sas_subset
from sslkernels.functional import balanced_sample, hierarchical_kmeans, kmeans

ACCEPTED = "subset=sas:SHARE, such as sas:0.8, or subset=curated:COUNT, such as curated:500"
# Clusters that stand for the classes where the data names none.
CLASSES = 10
# Samples in a cluster of the lower level on average, clusters of it in one of the upper, and the most of the lower.
MEMBERS, MOST_CLUSTERS = 10, 1000


def kept(text: str, dataset: Dataset) -> Tensor:
    """Find the rows of training samples that the setting ``text`` keeps; no label is read, and the seed is fixed.

    ``sas:SHARE`` keeps a share by `sas_subset`, whose latent classes are clusters of spherical k-means, as many as
    there are classes. ``curated:COUNT`` keeps so many by `balanced_sample` of two levels of `hierarchical_kmeans`.
    Both work on raw features: pixels, statistics of channels, counts of words.
    """
    kind, _, amount = text.partition(":")
    try:
        share = float(amount) if kind == "sas" else int(amount) if kind == "curated" else None
    except ValueError:
        share = None
    rows = len(dataset.inputs)
    if share is None or not (0 < share <= 1 if kind == "sas" else 1 <= share <= rows):
        raise ValueError(
            f"data {dataset.name}: subset is {came(text)} and there are {rows} training samples; pass {ACCEPTED}."
        )
    raw = RAW[dataset.modality](dataset.inputs).float()
    generator = torch.Generator().manual_seed(0)
    if kind == "sas":
        clusters = min(rows, len(dataset.classes) or CLASSES)
        latent = kmeans(raw, clusters, metric="cosine", generator=generator)[1]
        return sas_subset(raw, latent, share)
    lower = max(1, min(rows // MEMBERS, MOST_CLUSTERS))
    upper = max(min(lower, CLASSES), lower // MEMBERS)
    levels = hierarchical_kmeans(raw, (lower, upper), generator=generator)
    return balanced_sample([assignment for _, assignment in levels], int(share), generator=generator)
