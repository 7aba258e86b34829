# SPDX-License-Identifier: Apache-2.0
"""A method with one more term in its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sslkernels.arguments import check_kind, check_weights
from sslkernels.methods.method import Method
from sslkernels.modules import Module
from sslkernels.ops.registry import Family
from sslkernels.terms import Term

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Auxiliary(Method):
    """A method whose loss has one more term: ``method + weight · term``, on the same features.

    The method takes as many of the views as it wants, the term the first ones of all. Features that both want of a view
    are computed once.

    Args:
        method: the method, with a backbone of its own.
        term: what is added; see `sslkernels.terms`.
        weight: weight of the term.

    >>> import torch
    >>> from sslkernels.methods import Auxiliary, SimCLR
    >>> from sslkernels.models import resnet_small
    >>> from sslkernels.terms import Rotation
    >>> method = Auxiliary(SimCLR(resnet_small(), feature_dim=128), Rotation(feature_dim=128), weight=0.5)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    def __init__(self, method: Method, term: Term, weight: float = 1.0) -> None:
        Module.__init__(self)  # the backbone is the method's
        self.method = check_kind("Auxiliary", "method", method, Method, "a method such as SimCLR(backbone, ...)")
        self.term = check_kind("Auxiliary", "term", term, Term, "a term such as sslkernels.terms.Rotation(feature_dim)")
        (self.weight,) = check_weights("Auxiliary", weight=weight)
        own_dim = getattr(method, "feature_dim", None)
        if own_dim is None:
            raise ValueError(
                f"Auxiliary: method is {type(method).__name__}, whose backbone gives tokens; pass one on features, "
                "such as SimCLR(backbone, ...)."
            )
        if term.feature_dim != own_dim:
            raise ValueError(
                f"Auxiliary: term has feature_dim {term.feature_dim} and method {own_dim}; pass both that of the "
                "backbone."
            )
        self.feature_dim = own_dim
        self.backend, self.group = method.backend, method.group
        term.backend, term.group = method.backend, method.group
        own, extra = method.views, term.views
        self.views = None if own is None else max(own, extra)
        self.needs = tuple(dict.fromkeys((*method.needs, *term.needs)))

    @property
    def family(self) -> Family:  # type: ignore[override]
        """The method's family of ops."""
        return self.method.family

    @property
    def backbone(self) -> Any:
        """The method's backbone."""
        return self.method.backbone

    def features(self, view: Any) -> Tensor:
        """Compute the features that the method computes."""
        return self.method.features(view)

    @contextmanager
    def each_view_once(self) -> Iterator[None]:
        """Let the method remember what it computed of each view."""
        with self.method.each_view_once():
            yield

    def forward(self, views: Sequence[Any], **given: Any) -> dict[str, Tensor | tuple[Tensor, ...]]:
        given = self.needed(given)
        views = self.some_views(views, len(views) if self.views is None else self.views)
        with self.each_view_once():
            out = self.method(views[: self.method.views], **{name: given[name] for name in self.method.needs})
            term = self.term(self.features, views, **{name: given[name] for name in self.term.needs})
        return {**out, "loss": out["loss"] + self.weight * term, "embeddings": (*out["embeddings"], term)}

    def loss(self, *embeddings: Tensor) -> Tensor:
        *own, term = embeddings
        return self.method.loss(*own) + self.weight * term

    def check_views(self, views: Sequence[Any]) -> None:
        self.method.check_views(views[: self.method.views])
        self.term.check_views(views)

    def before_epoch(self, embed: Callable[[], Tensor], epoch: int, epochs: int | None) -> None:
        self.method.before_epoch(embed, epoch, epochs)

    def before_step(self, step: int, total_steps: float) -> None:
        self.method.before_step(step, total_steps)

    def after_step(self, step: int, total_steps: float) -> None:
        self.method.after_step(step, total_steps)

    @property
    def moves(self) -> bool:
        """Tell if the method moves anything; the term does not."""
        return self.method.moves

    def picture(self, inputs: Tensor) -> Figure | None:
        return self.method.picture(inputs)

    def scores(self, inputs: Any, labels: Tensor | None, **given: Any) -> dict[str, float]:
        term = self.term.scores(self.method.features, inputs, labels)
        own = {name: value for name, value in given.items() if name in self.method.needs}
        return {**self.method.scores(inputs, labels, **own), **term}
