# SPDX-License-Identifier: Apache-2.0
"""The base class of terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from sslkernels.arguments import check_count, check_given, check_list, check_tensor, shape_of
from sslkernels.distributed import GroupLike
from sslkernels.modules import Module

# Maps a view to the backbone's features ``(N, feature_dim)``.
Features = Callable[[Any], Tensor]


class Term(Module):
    """A term of a loss that the backbone's features give, beside the objective of a method.

    `sslkernels.methods.Auxiliary` adds it to a method, which gives it its backend and group.

    Args:
        feature_dim: features of the backbone.
    """

    # The fewest views of a sample that `forward` takes.
    views: ClassVar[int] = 1
    # `forward` takes these by keyword, as `sslkernels.methods.Method.needs` says.
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = check_count(type(self).__name__, "feature_dim", feature_dim, 1)
        self.backend: str | None = None
        self.group: GroupLike = None

    def forward(self, features: Features, views: Sequence[Any], **given: Tensor) -> Tensor:
        """Compute the term (0-dim) of the views; ``features`` maps each to the backbone's rows."""
        raise NotImplementedError

    def check_views(self, views: Sequence[Any]) -> None:
        """Raise a ValueError if the term cannot work on such views; called once, before the training."""

    def scores(self, features: Features, inputs: Any, labels: Tensor | None) -> dict[str, float]:
        """Compute figures of the term's own; see `sslkernels.methods.Method.scores`."""
        return {}

    def taken(self, views: Sequence[Any]) -> list[Any]:
        """Take as many of the views as the term wants, the first ones."""
        name, expected = type(self).__name__, f"{self.views} or more views of the same samples"
        listed = check_list(name, "views", views, expected)
        if len(listed) < self.views:
            raise ValueError(f"{name}: {len(listed)} views came; pass {expected}.")
        return listed[: self.views]

    def known(self, given: Mapping[str, Tensor], *shape: int) -> Tensor:
        """Take the one thing that the term needs of each sample, ``shape``, out of what `forward` was given."""
        (name,) = self.needs
        value = check_given(type(self).__name__, self.needs, given, "term(features, views")[name]
        check_tensor(type(self).__name__, name, value, str(shape))
        if value.shape != shape:
            raise ValueError(
                f"{type(self).__name__}: {name} has shape {shape_of(value)}; pass {shape}, one row for each sample."
            )
        return value
