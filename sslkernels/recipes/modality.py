# SPDX-License-Identifier: Apache-2.0
"""A modality: the form that samples have, and what a run on them takes unless it says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sslkernels.data import Dataset, Inputs

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _nothing(dataset: Dataset) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Encoder:
    """A kind of backbone.

    Args:
        build: maps a data set, and keyword-only settings, to the module; its ``feature_dim`` says what it gives.
        fit: settings of ``build`` that depend on the data, for those that nobody has set.
    """

    build: Callable[..., nn.Module]
    fit: Callable[[Dataset], dict[str, Any]] = _nothing


@dataclass(frozen=True)
class Modality:
    """All that a run on samples of one kind takes.

    Args:
        name: name of the modality, and of its file in `sslkernels.recipes`.
        data: spec of the data that a run takes if it is given none; a package of pip carries it.
        encoders: backbones by their kind, which `sslkernels.methods.Method.encoder` asks for.
        views: maps a data set, a number of views and ``whole`` (see `sslkernels.methods.Method.whole_views`), and
            keyword-only settings, to the module that draws so many views of a batch of inputs.
        raw: maps inputs to features ``(N, F)`` that nobody has learned, the floor of a report.
        small: numbers over those of a method, which were found on the digits.
        draw: draws a sample for the report; None if samples cannot be seen.
    """

    name: str
    data: str
    encoders: Mapping[str, Encoder]
    views: Callable[..., nn.Module]
    raw: Callable[[Inputs], Tensor]
    small: Mapping[str, Any] = field(default_factory=dict)
    draw: Callable[[Axes, Any], None] | None = None
