# SPDX-License-Identifier: Apache-2.0
"""Heads: from the backbone's features to the space of the loss."""

from __future__ import annotations

from torch import nn

from sslkernels.arguments import check_count, check_flag, check_widths


class ProjectionHead(nn.Sequential):
    """``layers`` linear maps with BatchNorm and ReLU between them.

    Two layers make SimCLR's projection (Chen et al. 2020, section 4.2) and BYOL's projector and predictor (Grill et al.
    2020, section 3.3). Three without ``bias`` make Barlow Twins' projector (Zbontar et al. 2021, section 2.2) and
    VICReg's expander (Bardes et al. 2022, section 4.2). Three with ``norm_out`` make the projector of SimSiam (Chen and
    He 2021, section 3) and MoCo v3 (Chen et al. 2021, section 3).

    Args:
        in_dim, hidden_dim, out_dim: features ``(N, in_dim)`` become ``(N, out_dim)``.
        layers: number of linear maps, at least one.
        bias: give the last map a bias; a loss that centres its columns has no use for it.
        norm_out: end with a BatchNorm without weights, in place of the last map's bias.

    >>> import torch
    >>> from sslkernels.models import ProjectionHead
    >>> ProjectionHead(64, 64, 32)(torch.randn(8, 64)).shape
    torch.Size([8, 32])
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        out_dim: int,
        *,
        layers: int = 2,
        bias: bool = True,
        norm_out: bool = False,
    ) -> None:
        in_dim, hidden_dim, out_dim = check_widths(
            "ProjectionHead", in_dim=in_dim, hidden_dim=hidden_dim, out_dim=out_dim
        )
        layers = check_count("ProjectionHead", "layers", layers, hidden_dim**2)
        bias, norm_out = check_flag("ProjectionHead", "bias", bias), check_flag("ProjectionHead", "norm_out", norm_out)
        modules: list[nn.Module] = []
        width = in_dim
        for _ in range(layers - 1):
            modules += [
                nn.Linear(width, hidden_dim, bias=False),  # the BatchNorm that follows brings the bias
                nn.BatchNorm1d(hidden_dim),
                nn.ReLU(inplace=True),
            ]
            width = hidden_dim
        modules.append(nn.Linear(width, out_dim, bias=bias and not norm_out))
        if norm_out:
            modules.append(nn.BatchNorm1d(out_dim, affine=False))
        super().__init__(*modules)
