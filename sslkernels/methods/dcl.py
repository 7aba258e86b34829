# SPDX-License-Identifier: Apache-2.0
"""DCL: SimCLR without the positive among the rows that an anchor is pushed from."""

from __future__ import annotations

from torch import Tensor

from sslkernels.functional import dcl
from sslkernels.methods.simclr import SimCLR


class DCL(SimCLR):
    """Decoupled Contrastive Learning. Yeh et al., ECCV 2022.

    In SimCLR's loss an anchor near its positive has a small gradient, and all the smaller the fewer negatives there
    are. Without the positive in the denominator small batches learn too.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone, and width of the projection's hidden layer.
        projection_dim: features that the loss compares.
        temperature: temperature of the loss; see `sslkernels.functional.dcl`.
        backend, group: see `Method`.

    >>> import torch
    >>> from sslkernels.methods import DCL
    >>> from sslkernels.models import resnet_small
    >>> method = DCL(resnet_small(), feature_dim=128)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Yeh et al. 2022"
    arxiv = "2110.06848"
    small = {**SimCLR.small, "batch_size": 128, "epochs": 40}
    paper_options = {"epochs": 200, "batch_size": 256, "lr": 1e-3}

    def loss(self, z0: Tensor, z1: Tensor) -> Tensor:  # type: ignore[override]
        return dcl(z0, z1, temperature=self.temperature, group=self.group, backend=self.backend)
