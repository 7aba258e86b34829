# SPDX-License-Identifier: Apache-2.0
"""The base classes of methods: a method is a module from views to a loss, with a backbone to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_given, check_kind, check_list, check_module, check_size, check_tensor, shape_of
from sslkernels.backends import check_backend
from sslkernels.distributed import GroupLike, check_group
from sslkernels.models import ViT
from sslkernels.modules import Module
from sslkernels.ops.registry import Family
from sslkernels.ops.tokens import TOKENS
from sslkernels.schedules import check_step, check_total
from sslkernels.state import EMA

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Method(Module):
    """A self-supervised method. Call it on the views, step the optimizer, call `after_step`.

    A view is what the backbone takes: a tensor ``(N, ...)``, or another value with a length, such as
    `sslkernels.data.Graphs`.

    Args:
        backbone: maps a view to features ``(N, feature_dim)``; it is what you keep when training is over.
        backend: kernels that the loss runs on; None takes the fastest that can run.
        group: ranks whose rows count in the loss; see `sslkernels.functional.nt_xent`.
    """

    # The paper, for people, and its number on arXiv. Lists name methods in this order, the oldest first.
    paper: ClassVar[str]
    arxiv: ClassVar[str]
    # The numbers of the papers that it serves in docs/methods.md.
    seeds: ClassVar[tuple[int, ...]] = ()
    # Where this is True, the formula follows a paper's abstract, and the docstring says which part is ours.
    after_abstract: ClassVar[bool] = False
    # The family of ops that the loss is made of, and so the backends that have kernels for it.
    family: Family
    # How many views of a sample `forward` takes; None for any number.
    views: int | None = 2
    # `forward` takes these besides, by keyword: "index" (the row of each sample), "label", or names of
    # `sslkernels.data.Dataset.extra`.
    needs: tuple[str, ...] = ()
    # The kind of backbone: one that gives "features", or one whose `embed` and `encode` work on some "tokens", as a
    # `sslkernels.models.ViT` does.
    encoder: ClassVar[str] = "features"
    # Where this is True, views of writing show the whole of it: cropped or erased digits cost such a method 4 to 20
    # points of few_shot.
    whole_views: ClassVar[bool] = False
    # With these numbers the method learns the digits within two minutes on two cores (found with seeds 0 to 2): epochs,
    # batch_size, lr, and arguments of the method.
    small: ClassVar[Mapping[str, Any]]
    # The paper's numbers where they are not the defaults of the arguments, weight_decay, final_weight_decay and
    # clip_gradients of a run among them. All train by AdamW here: where the paper has another optimizer, the rate is
    # one that AdamW takes.
    paper_options: ClassVar[Mapping[str, Any]]
    feature_dim: int
    _computed: dict[int, tuple[Any, Tensor]] | None = None

    def __init__(self, backbone: nn.Module, *, backend: str | None = None, group: GroupLike = None) -> None:
        super().__init__()
        self.backbone = check_module(type(self).__name__, "backbone", backbone)
        self.backend = check_backend(backend)
        self.group = check_group(group)

    def forward(self, *views: Any, **given: Any) -> dict[str, Tensor | tuple[Tensor, ...]]:
        """Compute ``{"loss": 0-dim tensor, "embeddings": the arguments of `loss`}`` of ``forward(views, **given)``.

        ``given`` holds what `needs` names. Further 0-dim tensors in the result are figures that a run logs.
        """
        raise NotImplementedError

    def loss(self, *embeddings: Tensor) -> Tensor:
        """Compute the loss from the embeddings alone, so that it can be timed apart from the network."""
        raise NotImplementedError

    def check_views(self, views: Sequence[Any]) -> None:
        """Refuse views that the method cannot work on, such as images that are too small to be cut up.

        A run calls it with two samples before it writes anything.
        """

    def before_epoch(self, embed: Callable[[], Tensor], epoch: int, epochs: int | None) -> None:
        """Prepare epoch number ``epoch``, which counts from 0, of ``epochs`` (None if nobody knows).

        ``embed()`` gives the backbone's features ``(N, feature_dim)`` of all training samples in order, on every rank:
        for clusters, pseudo-labels and banks. Keep what is made of them in buffers, so that a run resumes with it.
        """

    def before_step(self, step: int, total_steps: float) -> None:
        """Prepare optimizer step number ``step``: called when the gradients are there and the weights have not moved.

        ``total_steps`` is as in `after_step`.
        """

    def after_step(self, step: int, total_steps: float) -> None:
        """Move teachers, centres and queues; called once after optimizer step number ``step``, which counts from 0.

        ``total_steps`` is a whole number, or ``math.inf`` where no end is known. Schedules then keep their first value;
        after the end they keep their last.
        """
        check_step(type(self).__name__, step)
        check_total(type(self).__name__, total_steps)

    @property
    def moves(self) -> bool:
        """Tell if `after_step` moves anything."""
        return type(self).after_step is not Method.after_step

    def picture(self, inputs: Tensor) -> Figure | None:
        """Draw what the method makes of a few samples, for the report; None if there is nothing to see."""
        return None

    def scores(self, inputs: Any, labels: Tensor | None, **given: Any) -> dict[str, float]:
        """Compute figures of the method's own on held-out samples, for the report; empty if there are none.

        The accuracy of a pretext task is one. The method is in evaluation mode; ``labels`` are None if the data has
        none, and ``given`` holds what of `needs` the data knows of held-out samples too.
        """
        return {}

    def needed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Take what `needs` names out of what `forward` was given."""
        return check_given(type(self).__name__, self.needs, given, "method(views")

    @contextmanager
    def each_view_once(self) -> Iterator[None]:
        """Let `features` remember what it computed of each view, until the end of the outermost ``with``."""
        before = self._computed
        self._computed = {} if before is None else before
        try:
            yield
        finally:
            self._computed = before

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
        if self._computed is not None and id(view) in self._computed:
            return self._computed[id(view)][1]
        name, features = type(self).__name__, self.backbone(view)
        check_tensor(name, "what backbone gives", features, "(N, feature_dim)")
        if features.shape != (len(view), self.feature_dim):
            raise ValueError(
                f"{name}: feature_dim is {self.feature_dim} and the backbone gives features of shape "
                f"{shape_of(features)} for {len(view)} samples; pass one to (N, {self.feature_dim}), or the "
                "feature_dim of this one."
            )
        if self._computed is not None:
            self._computed[id(view)] = view, features  # the view is kept, so that no other one gets its id
        return features

    def features_of(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Compute what `features` does of each view, of all views of one shape in one pass."""
        rows = in_one_pass(self.features, views)
        if self._computed is not None:
            self._computed |= {id(view): (view, each) for view, each in zip(views, rows, strict=True)}
        return rows

    def some_views(self, views: Sequence[Tensor], count: int) -> list[Tensor]:
        return self._checked(views, count, f"{count} views of the same samples")

    def any_views(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Check views of which there may be any number from two on."""
        listed = check_list(type(self).__name__, "views", views, "two or more views of the same samples")
        return self.some_views(listed, max(2, len(listed)))

    def one_view(self, views: Sequence[Tensor]) -> Tensor:
        (view,) = self._checked(views, 1, "one view of the samples, as [images]")
        return view

    def two_views(self, views: Sequence[Tensor]) -> list[Tensor]:
        return self._checked(views, 2, "two views of the same samples")

    def _checked(self, views: Sequence[Tensor], count: int, expected: str) -> list[Tensor]:
        name = type(self).__name__
        listed = check_list(name, "views", views, expected)
        if len(listed) != count:
            raise ValueError(f"{name}: {len(listed)} views came; pass {expected}.")
        for place, view in enumerate(listed):
            if isinstance(view, Tensor) or not hasattr(view, "to"):  # graphs, for instance, are moved as tensors are
                check_tensor(name, f"views[{place}]", view, "(N, ...)")
                if view.dim() == 0 or view.shape[0] == 0:
                    raise ValueError(f"{name}: views[{place}] has shape {shape_of(view)}; pass at least one sample.")
            if len(view) != len(listed[0]):
                raise ValueError(
                    f"{name}: views[0] has {_size(listed[0])} and views[{place}] {_size(view)}; "
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
    views = 1
    encoder = "tokens"
    backbone: ViT

    def __init__(self, backbone: ViT, *, backend: str | None = None, group: GroupLike = None) -> None:
        super().__init__(backbone, backend=backend, group=group)
        expected = "a sslkernels.models.ViT, which encodes the patches that it is given"
        if check_kind(type(self).__name__, "backbone", backbone, ViT, expected).ahead:
            raise ValueError(
                f"{type(self).__name__}: backbone has a class token or registers, which this method would not train; "
                "pass a ViT without."
            )


def in_one_pass(network: Callable[[Any], Tensor], views: Sequence[Any]) -> list[Tensor]:
    """Call a network on several views of the same samples, on all of one shape at once."""
    alike: dict[Any, list[int]] = {}
    for place, view in enumerate(views):
        alike.setdefault(view.shape[1:] if isinstance(view, Tensor) else place, []).append(place)
    found: dict[int, Tensor] = {}
    for places in alike.values():
        joined = views[places[0]] if len(places) == 1 else torch.cat([views[place] for place in places])
        found |= zip(places, network(joined).chunk(len(places)), strict=True)
    return [found[place] for place in range(len(views))]


def _size(view: Any) -> str:
    return f"shape {shape_of(view)}" if isinstance(view, Tensor) else f"{len(view)} samples"
