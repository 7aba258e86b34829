# SPDX-License-Identifier: Apache-2.0
"""What every method is: a module from views to a loss, with a backbone to keep."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sslkernels.backends import USUAL
from sslkernels.distributed import GroupLike
from sslkernels.state import EMA


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

    def two_views(self, views: Sequence[Tensor]) -> Sequence[Tensor]:
        if len(views) != 2:
            raise ValueError(f"{type(self).__name__}: {len(views)} views came; pass two views of the same images.")
        return views


class Taught(Method):
    """A method whose ``teacher`` follows backbone and projector as their exponential moving average."""

    projector: nn.Module
    teacher: EMA

    @property
    def online(self) -> nn.Sequential:
        """Backbone and projector: what is trained, and what the teacher has a copy of."""
        return nn.Sequential(self.backbone, self.projector)

    def after_step(self, step: int, total_steps: int) -> None:
        self.teacher.update(self.online, step, total_steps)
