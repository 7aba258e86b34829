# SPDX-License-Identifier: Apache-2.0
"""What every method is: a module from views to a loss, with a backbone to keep."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sslkernels.arguments import check_list, check_module, check_size, check_tensor, shape_of
from sslkernels.backends import USUAL, check_backend
from sslkernels.distributed import GroupLike, check_group
from sslkernels.modules import Module
from sslkernels.schedules import check_step, check_total
from sslkernels.state import EMA


class Method(Module):
    """A self-supervised method. Call it on the views, step the optimizer, call `after_step`.

    Args:
        backbone: images to features ``(N, feature_dim)``; what is left when training is over.
        backend: which kernels the loss runs on; None takes the fastest that can run.
        group: ranks whose rows count in the loss; see `sslkernels.functional.nt_xent`.
    """

    # What the method's ops have kernels for, the fastest first.
    backends: tuple[str, ...] = USUAL
    feature_dim: int

    def __init__(self, backbone: nn.Module, *, backend: str | None = None, group: GroupLike = None) -> None:
        super().__init__()
        self.backbone = check_module(type(self).__name__, "backbone", backbone)
        self.backend = check_backend(backend)
        self.group = check_group(group)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        """``{"loss": 0-dim tensor, "embeddings": what `loss` was called with}``."""
        raise NotImplementedError

    def loss(self, *embeddings: Tensor) -> Tensor:
        """The loss of the embeddings alone, so that it can be timed apart from the network."""
        raise NotImplementedError

    def after_step(self, step: int, total_steps: float) -> None:
        """Called once after optimizer step number ``step`` (from 0): teachers, centres and queues move here.

        ``total_steps`` is a whole number, or ``math.inf`` where no end is known: what should change till the end stays
        as it began. After the end it stays as it ended.
        """
        check_step(type(self).__name__, step)
        check_total(type(self).__name__, total_steps)

    def check_feature_dim(self, feature_dim: int) -> int:
        """How many features the backbone gives, as `features` then holds it to."""
        name = type(self).__name__
        self.feature_dim = check_size(name, "feature_dim", feature_dim)
        known = getattr(self.backbone, "feature_dim", feature_dim)
        if known != feature_dim:
            raise ValueError(f"{name}: feature_dim is {feature_dim} and the backbone has {known}; pass {known}.")
        return self.feature_dim

    def features(self, view: Tensor) -> Tensor:
        """The backbone's features ``(N, feature_dim)`` of a view."""
        name, features = type(self).__name__, self.backbone(view)
        check_tensor(name, "what backbone gives", features, "(N, feature_dim)")
        if features.shape != (view.shape[0], self.feature_dim):
            raise ValueError(
                f"{name}: feature_dim is {self.feature_dim} and the backbone gives features of shape "
                f"{shape_of(features)} for {view.shape[0]} images; pass one to (N, {self.feature_dim}), or the "
                "feature_dim of this one."
            )
        return features

    def one_view(self, views: Sequence[Tensor]) -> Tensor:
        (view,) = self._checked(views, 1, "one view of the images, as [images]")
        return view

    def two_views(self, views: Sequence[Tensor]) -> list[Tensor]:
        return self._checked(views, 2, "two views of the same images")

    def _checked(self, views: Sequence[Tensor], count: int, expected: str) -> list[Tensor]:
        name = type(self).__name__
        listed = check_list(name, "views", views, expected)
        if len(listed) != count:
            raise ValueError(f"{name}: {len(listed)} views came; pass {expected}.")
        for place, view in enumerate(listed):
            check_tensor(name, f"views[{place}]", view, "(N, ...)")
            if view.dim() == 0 or view.shape[0] == 0:
                raise ValueError(f"{name}: views[{place}] has shape {shape_of(view)}; pass at least one sample.")
            if view.shape[0] != listed[0].shape[0]:
                raise ValueError(
                    f"{name}: views[0] has shape {shape_of(listed[0])} and views[{place}] {shape_of(view)}; "
                    "all need the same samples."
                )
        return listed


class Taught(Method):
    """A method whose ``teacher`` follows backbone and projector as their exponential moving average."""

    projector: nn.Module
    teacher: EMA

    @property
    def online(self) -> nn.Sequential:
        """Backbone and projector: what is trained, and what the teacher has a copy of."""
        return nn.Sequential(self.backbone, self.projector)

    def embed(self, view: Tensor) -> Tensor:
        """The projector's rows of a view, as the student has them."""
        return self.projector(self.features(view))

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        self.teacher.update(self.online, step, total_steps)
