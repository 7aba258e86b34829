# SPDX-License-Identifier: Apache-2.0
"""A recipe: a method with the data, views, backbone and numbers of one paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from sslkernels.data import Dataset, Shots
from sslkernels.data.views.drawn import Drawn
from sslkernels.methods import Auxiliary, Method
from sslkernels.recipes.modality import Encoder, Modality
from sslkernels.settings import Setting, arguments_of, settings_of
from sslkernels.terms import Term

# Arguments of methods and terms that a run fills itself, from the backbone and from the data. Names of
# `sslkernels.data.Dataset.extra` are filled too.
FILLED = ("backend", "group", "feature_dim", "classes", "samples", "action_dim")


@dataclass(frozen=True)
class Recipe:
    """All that ``sslkernels train NAME`` takes. A method's own name is the plain recipe, its objective alone.

    Args:
        name: name on the command line.
        method: the class with the objective.
        modality: the form of its samples.
        paper, arxiv: the paper and its number on arXiv.
        data: spec of the data if a run is given none.
        options: arguments that make the recipe, over the method's defaults.
        small: numbers that two cores learn with: epochs, batch_size, lr, and arguments of method and backbone.
        paper_options: the paper's numbers, where they are not the method's defaults.
        parts: modules that the method takes as arguments, each made from the other arguments.
        encoder: another backbone than the modality's.
        encoders: networks of other forms of a sample, made from the data set, by their names in
            `sslkernels.data.Dataset.extra`. The method takes them as ``encoders``, and needs these forms.
        views: other views than the modality's; see `Modality`.
        term: a term that the loss has besides; see `sslkernels.methods.Auxiliary`. Its own arguments, and its
            ``weight``, are settings too.
        seeds: the numbers of the papers that the recipe serves, in docs/methods.md.
        after_abstract: whether the recipe follows a paper's abstract, and its numbers are ours.
    """

    name: str
    method: type[Method]
    modality: Modality
    paper: str
    arxiv: str
    data: str
    options: Mapping[str, Any] = field(default_factory=dict)
    small: Mapping[str, Any] = field(default_factory=dict)
    paper_options: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Callable[[Mapping[str, Any]], nn.Module]] = field(default_factory=dict)
    encoder: Encoder | None = None
    encoders: Mapping[str, Callable[[Dataset], nn.Module]] = field(default_factory=dict)
    views: Callable[..., nn.Module] | None = None
    term: type[Term] | None = None
    seeds: tuple[int, ...] = ()
    after_abstract: bool = False

    @classmethod
    def plain(cls, name: str, method: type[Method], modality: Modality, **changed: Any) -> Recipe:
        """The method itself on samples of ``modality``, or with some of its fields ``changed``."""
        small = {**method.small, **modality.small}
        recipe = cls(
            name,
            method,
            modality,
            method.paper,
            method.arxiv,
            modality.data,
            small=small,
            paper_options=method.paper_options,
            seeds=method.seeds,
            after_abstract=method.after_abstract,
        )
        return replace(recipe, **changed)

    @property
    def backbone(self) -> Encoder:
        """The backbone's kind; a ValueError says so if the modality has none of the kind that the method needs."""
        if self.encoder is not None:
            return self.encoder
        found = self.modality.encoders.get(self.method.encoder)
        if found is None:
            raise ValueError(
                f"train: {self.name} needs a backbone of {self.method.encoder}, and {self.modality.name} have none; "
                "pass other --data, or another method."
            )
        return found

    @property
    def settings(self) -> dict[str, Setting]:
        """The arguments of method, term, backbone and views that a run may set."""
        kinds: list[Callable[..., Any]] = [self.method, self.backbone.build, self.views or self.modality.views]
        if self.term is not None:
            kinds[1:1] = [self.term, _weighted]
        return {name: each for kind in kinds for name, each in self._own(kind).items()}

    def _own(self, kind: Callable[..., Any]) -> dict[str, Setting]:
        return settings_of(kind, leave=(*FILLED, *self.parts))

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of what method and term need besides the sample; see `sslkernels.methods.Method.needs`."""
        return tuple(dict.fromkeys((*self.method.needs, *self.encoders, *(self.term.needs if self.term else ()))))

    @property
    def count(self) -> int:
        """The number of views of a sample."""
        own = 2 if self.method.views is None else self.method.views
        return max(own, self.term.views if self.term else 0)

    def numbers(self, paper: bool) -> dict[str, Any]:
        """Epochs, batch_size, lr and arguments that a run takes if it is given none: the paper's, or small ones."""
        return {**self.options, **(self.paper_options if paper else self.small)}

    def fitted(self, dataset: Dataset) -> dict[str, Any]:
        """Settings of the backbone that depend on the data."""
        return self.backbone.fit(dataset)

    def build(
        self, dataset: Dataset, settings: Mapping[str, Any], backbone: nn.Module | None = None, **filled: Any
    ) -> Method:
        """Build method and term for ``dataset`` around ``backbone``, or around that of `build_backbone`."""

        def of(kind: Callable[..., Any], known: Mapping[str, Any]) -> dict[str, Any]:
            takes = arguments_of(kind)
            own = {name: value for name, value in settings.items() if name in self._own(kind)}
            return own | {name: value for name, value in known.items() if name in takes}

        backbone = self.build_backbone(dataset, settings) if backbone is None else backbone
        known = {**_known(dataset), "feature_dim": backbone.feature_dim}
        parts: dict[str, Any] = {name: make(settings) for name, make in self.parts.items()}
        if self.encoders:
            parts["encoders"] = {name: make(dataset) for name, make in self.encoders.items()}
        method = self.method(backbone, **of(self.method, known | filled), **parts)
        if self.term is None:
            return method
        return Auxiliary(method, self.term(**of(self.term, known)), **of(_weighted, {}))

    def build_backbone(self, dataset: Dataset, settings: Mapping[str, Any]) -> nn.Module:
        """Build the backbone alone, with the weights that `build` gives it after the same seed."""
        own = {name: value for name, value in settings.items() if name in self._own(self.backbone.build)}
        return self.backbone.build(dataset, **own)

    def build_views(self, dataset: Dataset, settings: Mapping[str, Any] | None = None) -> nn.Module:
        """Build the module that draws as many views of a batch as method and term take."""
        views = self.build_own_views(dataset, settings, self.count)
        return Shots(views, self.count) if dataset.partners is not None and isinstance(views, Drawn) else views

    def build_own_views(self, dataset: Dataset, settings: Mapping[str, Any] | None, count: int) -> nn.Module:
        """Build the module that draws ``count`` views of each sample itself, whatever its partners are."""
        kind = self.views or self.modality.views
        own = {name: value for name, value in (settings or {}).items() if name in self._own(kind)}
        return kind(dataset, count, self.method.whole_views, **own)


def _weighted(*, weight: float = 1.0) -> None:
    """Say what `Auxiliary` takes besides a method and a term."""


def _known(dataset: Dataset) -> dict[str, Any]:
    """Collect what the data says of arguments of methods and terms, by their names."""
    known: dict[str, Any] = {"classes": len(dataset.classes), "samples": len(dataset.inputs), **dataset.extra}
    if "action" in dataset.extra:
        known["action_dim"] = dataset.extra["action"].shape[1]
    return known
