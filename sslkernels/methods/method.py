# SPDX-License-Identifier: Apache-2.0
"""What every method is: a module from views to a loss, with a backbone to keep."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sslkernels.backends import USUAL
from sslkernels.distributed import GroupLike


class Method(nn.Module):
    """A self-supervised method. Call it on the views, step the optimizer, call `after_step`.

    Args:
        backbone: images to features ``(N, feature_dim)``; what is left when training is over.
        backend: which kernels the loss runs on; None takes the fastest that can run.
        group: ranks whose rows count in the loss; see `sslkernels.functional.nt_xent`.
    """

    # What the method's ops have kernels for, the fastest first.
    backends: tuple[str, ...] = USUAL

    def __init__(self, backbone: nn.Module, *, backend: str | None = None, group: GroupLike = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.backend = backend
        self.group = group

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        """``{"loss": 0-dim tensor, "embeddings": what `loss` was called with}``."""
        raise NotImplementedError

    def loss(self, *embeddings: Tensor) -> Tensor:
        """The loss of the embeddings alone, so that it can be timed apart from the network."""
        raise NotImplementedError

    def after_step(self, step: int, total_steps: int) -> None:
        """Called once after optimizer step number ``step`` (from 0): teachers, centres and queues move here."""
