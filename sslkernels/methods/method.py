# SPDX-License-Identifier: Apache-2.0
"""The base classes of methods: a method is a module from views to a loss, with a backbone to keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_kind, check_list, check_module, check_size, check_tensor, shape_of
from sslkernels.backends import check_backend
from sslkernels.data import OneView, TwoViews
from sslkernels.distributed import GroupLike, check_group
from sslkernels.methods.options import SHARED, Option
from sslkernels.models import ViT, resnet_small
from sslkernels.modules import Module
from sslkernels.ops.registry import Family
from sslkernels.ops.tokens import TOKENS
from sslkernels.schedules import check_step, check_total
from sslkernels.state import EMA

# Patches along an image's height and width. Attention to four times as many costs too much for a first try.
MOST_PATCHES = 8


class Method(Module):
    """A self-supervised method. Call it on the views, step the optimizer, call `after_step`.

    Args:
        backbone: maps images to features ``(N, feature_dim)``; it is what you keep when training is over.
        backend: kernels that the loss runs on; None takes the fastest that can run.
        group: ranks whose rows count in the loss; see `sslkernels.functional.nt_xent`.
    """

    # The paper's number on arXiv. The help names methods in this order, the oldest first.
    arxiv: ClassVar[str]
    # With these numbers the method learns the digits within two minutes on two cores (found with seeds 0 to 2): epochs,
    # batch_size, lr, and its own options, which are arguments of the method or of its backbone.
    preset: ClassVar[Mapping[str, Any]]
    # Describes options in the preset that no other method has.
    options: ClassVar[Mapping[str, Option]] = {}
    # Where this is True, views of writing show the whole of it: cropped or erased digits cost such a method 4 to 20
    # points of few_shot.
    whole_views: ClassVar[bool] = False
    # The family of ops that the loss is made of, and so the backends that have kernels for it.
    family: ClassVar[Family]
    feature_dim: int

    @classmethod
    def own_options(cls) -> dict[str, Option]:
        """The options in the preset that belong to this method and not to every run."""
        return {name: option for name, option in {**SHARED, **cls.options}.items() if name in cls.preset}

    @classmethod
    def fitting(cls, image_size: tuple[int, int]) -> dict[str, Any]:
        """Values that replace the preset's where they depend on the size of the images."""
        return {}

    @classmethod
    def small(cls, channels: int, image_size: tuple[int, int], **options: Any) -> Method:
        """Build the method on a backbone that two cores can train, for images of so many channels and this size."""
        # Convolutions of small images run a sixth faster on the CPU in this layout.
        backbone = resnet_small(channels).to(memory_format=torch.channels_last)
        return cls(backbone, feature_dim=backbone.feature_dim, **options)  # type: ignore[call-arg]

    @classmethod
    def make_views(cls, channels: int, image_size: tuple[int, int]) -> nn.Module:
        """Build the module that maps images to the views of them that `forward` takes."""
        return TwoViews(channels, image_size, whole=cls.whole_views)

    def __init__(self, backbone: nn.Module, *, backend: str | None = None, group: GroupLike = None) -> None:
        super().__init__()
        self.backbone = check_module(type(self).__name__, "backbone", backbone)
        self.backend = check_backend(backend)
        self.group = check_group(group)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        """Compute ``{"loss": 0-dim tensor, "embeddings": the arguments of `loss`}``."""
        raise NotImplementedError

    def loss(self, *embeddings: Tensor) -> Tensor:
        """Compute the loss from the embeddings alone, so that it can be timed apart from the network."""
        raise NotImplementedError

    def after_step(self, step: int, total_steps: float) -> None:
        """Move teachers, centres and queues; called once after optimizer step number ``step``, which counts from 0.

        ``total_steps`` is a whole number, or ``math.inf`` where no end is known. Schedules then keep their first value;
        after the end they keep their last.
        """
        check_step(type(self).__name__, step)
        check_total(type(self).__name__, total_steps)

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor] | None:
        """Give the pixels that the method saw, bool as ``images``, and the images with the others as it paints them.

        The result is None if the method paints nothing.
        """
        return None

    def check_feature_dim(self, feature_dim: int) -> int:
        """Check the number of the backbone's features, and keep it for `features`."""
        name = type(self).__name__
        self.feature_dim = check_size(name, "feature_dim", feature_dim)
        known = getattr(self.backbone, "feature_dim", feature_dim)
        if known != feature_dim:
            raise ValueError(f"{name}: feature_dim is {feature_dim} and the backbone has {known}; pass {known}.")
        return self.feature_dim

    def features(self, view: Tensor) -> Tensor:
        """Compute the backbone's features ``(N, feature_dim)`` of a view, and check their shape."""
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
    """A method whose ``teacher`` is the exponential moving average of backbone and projector."""

    projector: nn.Module
    teacher: EMA

    @property
    def online(self) -> nn.Sequential:
        """Backbone and projector, of which the teacher has a copy."""
        return nn.Sequential(self.backbone, self.projector)

    def embed(self, view: Tensor) -> Tensor:
        """Compute the student's rows of a view: the projector's, of the backbone's features."""
        return self.projector(self.features(view))

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        self.teacher.update(self.online, step, total_steps)


class Masked(Method):
    """A method on one view that hides patches; the backbone, a ViT, encodes the others."""

    family = TOKENS
    backbone: ViT

    def __init__(self, backbone: ViT, *, backend: str | None = None, group: GroupLike = None) -> None:
        super().__init__(backbone, backend=backend, group=group)
        expected = "a sslkernels.models.ViT, which encodes the patches that it is given"
        check_kind(type(self).__name__, "backbone", backbone, ViT, expected)

    @classmethod
    def fitting(cls, image_size: tuple[int, int]) -> dict[str, Any]:
        """The smallest patch of at least 2 pixels that cuts images into at most 8 rows and columns, or the largest if
        none does. It has 2 pixels for the digits' 8x8, and 4 for 32x32.
        """
        side = math.gcd(*image_size)
        sizes = [size for size in range(2, side + 1) if side % size == 0 and max(image_size) <= MOST_PATCHES * size]
        return {"patch_size": sizes[0] if sizes else side}

    @classmethod
    def small(cls, channels: int, image_size: tuple[int, int], **options: Any) -> Method:
        patch_size = options.pop("patch_size")
        return cls(ViT(image_size, patch_size, channels), **options)

    @classmethod
    def make_views(cls, channels: int, image_size: tuple[int, int]) -> nn.Module:
        return OneView(channels, image_size)
