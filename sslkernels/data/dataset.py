# SPDX-License-Identifier: Apache-2.0
"""A data set of any modality, and the fixed splits of data that comes without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from sslkernels.arguments import MEMORY

TEST_FRACTION = 0.2


class Inputs(Protocol):
    """Samples that are taken by rows: a tensor, graphs, or files that are read when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> Any:
        """Give the samples of a slice, of a list or of a tensor of row numbers, as a backbone takes them."""


@dataclass(frozen=True)
class Dataset:
    """Samples to train and to test on, of one modality. Labels int64 ``(N,)`` are read by the evaluation alone.

    Args:
        name: name of the data, for people.
        modality: a module of `sslkernels.recipes`: images, series, audio, tables, graphs, interactions or text.
        inputs, test_inputs: `Inputs`. Images are float32 ``(N, C, H, W)`` in [0, 1]; the file of each modality in
            `sslkernels.recipes` begins with the form of the others.
        labels, test_labels: None if there are none, or all are alike; ``classes`` is empty then.
        classes: the names of the labels.
        extra: more that is known of each training sample, by name, each ``(N, ...)``: subject, voice, action, place.
            A method that needs such a thing names it in `Method.needs`.
        test_extra: the same of each test sample, for probes and reports.
        group: the name in ``extra`` by which the data was split, so that no group is on both sides.
        partners: int64 ``(N, P)``, the rows of other training samples that show the same thing: another shot of a
            place, the next frames of a film. The views of a sample are drawn from it and from these, in turn.
    """

    name: str
    modality: str
    inputs: Any
    labels: Tensor | None
    test_inputs: Any
    test_labels: Tensor | None
    classes: tuple[str, ...] = ()
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    group: str | None = None
    partners: Tensor | None = None
    test_extra: Mapping[str, Tensor] = field(default_factory=dict)

    def only(self, rows: Tensor) -> Dataset:
        """Keep the training samples of these rows, int64, in their order; a partner that goes is the sample itself.

        >>> import torch
        >>> from sslkernels.data import load
        >>> load("digits").only(torch.arange(100)).labels.shape
        torch.Size([100])
        """
        partners = self.partners
        if partners is not None:
            place = torch.full((len(self.inputs),), -1).scatter_(0, rows, torch.arange(len(rows)))
            partners = place[partners[rows]]
            partners = torch.where(partners < 0, torch.arange(len(rows))[:, None], partners)
        return replace(
            self,
            inputs=self.inputs.only(rows) if hasattr(self.inputs, "only") else self.inputs[rows],
            labels=None if self.labels is None else self.labels[rows],
            extra={name: values[rows] for name, values in self.extra.items()},
            partners=partners,
        )


def split(
    name: str, modality: str, classes: tuple[str, ...], inputs: Any, labels: Tensor | None, **extra: Tensor
) -> Dataset:
    """Hold a fifth of the samples out for tests, of each class where there are classes."""
    kept, held_out = held_out_fifth(name, classes, labels, len(inputs))
    return _taken(name, modality, classes, inputs, labels, kept, held_out, extra, None)


def split_by_group(
    name: str,
    modality: str,
    classes: tuple[str, ...],
    inputs: Any,
    labels: Tensor | None,
    group: str,
    held_out: Sequence[int],
    partners: Tensor | None = None,
    **extra: Tensor,
) -> Dataset:
    """Hold out the samples whose ``extra[group]`` is in ``held_out``, so that no group is on both sides.

    ``partners`` are rows of ``inputs``, each of the group of its sample.
    """
    tested = torch.isin(extra[group], torch.tensor(list(held_out)))
    kept = (~tested).nonzero()[:, 0]
    dataset = _taken(name, modality, classes, inputs, labels, kept, tested.nonzero()[:, 0], extra, group)
    if partners is None:
        return dataset
    place = torch.full((len(tested),), -1).scatter_(0, kept, torch.arange(len(kept)))
    found = place[partners[kept]]
    if (found < 0).any():
        raise ValueError(f"{name}: a sample and its partner are of two {group}s; partners must be of one.")
    return replace(dataset, partners=found)


def _taken(
    name: str,
    modality: str,
    classes: tuple[str, ...],
    inputs: Any,
    labels: Tensor | None,
    kept: Tensor,
    held_out: Tensor,
    extra: Mapping[str, Tensor],
    group: str | None,
) -> Dataset:
    return Dataset(
        name,
        modality,
        inputs[kept],
        None if labels is None else labels[kept],
        inputs[held_out],
        None if labels is None else labels[held_out],
        () if labels is None else classes,
        {each: values[kept] for each, values in extra.items()},
        group,
        test_extra={each: values[held_out] for each, values in extra.items()},
    )


def held_out_fifth(name: str, classes: tuple[str, ...], labels: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """Indices of the samples kept, and of a fifth held out: of each class, or of all if there are no labels.

    The choice does not depend on the run's seed.
    """
    generator = torch.Generator().manual_seed(0)
    train, test = [], []
    groups = {"it": torch.arange(count)}
    if labels is not None:
        groups = {f"class {each!r}": (labels == label).nonzero()[:, 0] for label, each in enumerate(classes)}
    for group, members in groups.items():
        members = members[torch.randperm(len(members), generator=generator)]
        tested = round(TEST_FRACTION * len(members))
        if not 0 < tested < len(members):
            each = "" if labels is None else " of each class"
            raise ValueError(
                f"{name}: {group} has {len(members)} samples; a split into training and test needs at least 3{each}."
            )
        test.append(members[:tested])
        train.append(members[tested:])
    return torch.cat(train).sort().values, torch.cat(test).sort().values


def check_memory(what: str, shape: tuple[int, ...], itemsize: int, remedy: str) -> None:
    """Check, before any is read, that the memory holds so many numbers of ``itemsize`` bytes, all copies included."""
    needed = itemsize * prod(shape)
    if needed > MEMORY:
        raise ValueError(
            f"{what} of shape {shape} need {needed / 2**30:,.0f} GiB, and this machine has {MEMORY / 2**30:,.0f}; "
            f"{remedy}."
        )
