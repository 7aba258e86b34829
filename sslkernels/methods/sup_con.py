# SPDX-License-Identifier: Apache-2.0
"""SupCon: SimCLR with labels, in which all views of a class are each other's positives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkernels.functional import sup_con
from sslkernels.functional.labelled import check_labels
from sslkernels.methods.simclr import SimCLR


class SupCon(SimCLR):
    """Supervised Contrastive Learning. Khosla et al., NeurIPS 2020.

    The loss is that of the paper's equation 2. Its second stage, a linear classifier on the frozen backbone, is what
    the evaluation of a run measures.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone, and width of the projection's hidden layer.
        projection_dim: features that the loss compares.
        temperature: temperature of the loss; see `sslkernels.functional.sup_con`.
        backend, group: see `Method`.

    >>> import torch
    >>> from sslkernels.methods import SupCon
    >>> from sslkernels.models import resnet_small
    >>> method = SupCon(resnet_small(), feature_dim=128)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views, label=torch.arange(16) % 3)["loss"].shape
    torch.Size([])
    """

    paper = "Khosla et al. 2020"
    arxiv = "2004.11362"
    needs = ("label",)
    small = {**SimCLR.small, "epochs": 30}
    paper_options = {"epochs": 700, "batch_size": 6144, "lr": 1e-3}

    def forward(self, views: Sequence[Tensor], **given: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        z0, z1 = (self.projector(self.features(view)) for view in self.two_views(views))
        embeddings = z0, z1, check_labels("SupCon", "label", self.needed(given)["label"], z0)
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def loss(self, z0: Tensor, z1: Tensor, label: Tensor) -> Tensor:  # type: ignore[override]
        rows, labels = torch.cat([z0, z1]), label.repeat(2)
        return sup_con(rows, labels, temperature=self.temperature, group=self.group, backend=self.backend)
