# SPDX-License-Identifier: Apache-2.0
"""The head of DINO and its kin: a perceptron into a bottleneck, and one row of weights for each prototype."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_choice, check_count, check_flag, check_widths
from sslkernels.prototypes import Prototypes

LASTS = ("unit", "scaled", "linear")


class DINOHead(nn.Module):
    """Map features ``(N, in_dim)`` to unit rows ``(N, bottleneck_dim)``, beside which it holds the prototypes.

    ``logits = head(x) @ head.weight.T`` are those of Caron et al. 2021 (arXiv 2104.14294, appendix C). They are left to
    the loss, which need not store them: ``prototype_cross_entropy(head(x), head.weight, ...)``. Prototype k is
    ``w_k = g_k v_k / |v_k|``.

    Args:
        in_dim: features of a row.
        out_dim: number of prototypes.
        hidden_dim, bottleneck_dim, layers: sizes of the perceptron, with GELU between its linear maps.
        batch_norm: normalise the hidden layers over the batch. A convolutional network's features have a long common
            mean, which otherwise leaves all rows much alike, and a teacher that is sure of nothing.
        last: "unit" keeps every g_k at 1 (DINO, iBOT); "scaled" trains it (DINOv2); "linear" trains w_k as a whole
            (DINOv3).

    The state has the names of the official heads of dino, ibot, dinov2 and dinov3, ``mlp.*`` and ``last_layer.*``; it
    takes both pairs of names under which torch saves a weight norm.

    >>> import torch
    >>> from sslkernels.models import DINOHead
    >>> head = DINOHead(64, 512, hidden_dim=128, bottleneck_dim=32)
    >>> head(torch.randn(8, 64)).shape, head.weight.shape
    (torch.Size([8, 32]), torch.Size([512, 32]))
    """

    __jit_unused_properties__: ClassVar = ["weight"]  # TorchScript knows none of `Prototypes`

    def __init__(
        self,
        in_dim: int,
        out_dim: int = 65536,
        *,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        layers: int = 3,
        batch_norm: bool = False,
        last: Literal["unit", "scaled", "linear"] = "unit",
    ) -> None:
        super().__init__()
        in_dim, hidden_dim, bottleneck_dim = check_widths(
            "DINOHead", in_dim=in_dim, hidden_dim=hidden_dim, bottleneck_dim=bottleneck_dim
        )
        out_dim = check_count("DINOHead", "out_dim", out_dim, bottleneck_dim)
        layers = check_count("DINOHead", "layers", layers, hidden_dim**2)
        check_choice("DINOHead", "last", last, LASTS)
        norm = check_flag("DINOHead", "batch_norm", batch_norm)
        widths = [in_dim, *[hidden_dim] * (layers - 1), bottleneck_dim]
        modules: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            modules += [nn.Linear(before, after), *([nn.BatchNorm1d(after)] if norm else []), nn.GELU()]
        # A single layer has no number in the official state, and the last one nothing behind it.
        self.mlp = modules[0] if layers == 1 else nn.Sequential(*modules[: -2 if norm else -1])
        self.mlp.apply(_init)
        self.last_layer = Prototypes(bottleneck_dim, out_dim, kind=last)

    @property
    def weight(self) -> Tensor:
        """The prototypes ``(out_dim, bottleneck_dim)``, with a graph to what is trained of them."""
        return self.last_layer.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.mlp(x), dim=-1)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        # The official 0.02 is for 2,048 inputs. In narrower layers it would leave so small a signal that biases, which
        # begin at 0, drown it within ten steps of Adam, and all rows point the same way.
        nn.init.trunc_normal_(module.weight, std=0.02 * (2048 / module.in_features) ** 0.5)
        nn.init.zeros_(module.bias)
