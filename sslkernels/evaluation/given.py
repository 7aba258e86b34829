# SPDX-License-Identifier: Apache-2.0
"""Holds what measures are taken of: features, labels, views and the encoder, each made when it is first asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_callable, check_kind, check_module, check_rows, shape_of
from sslkernels.data import Dataset
from sslkernels.evaluation.features import BATCH, encode

# Samples of which many views are drawn, and their number; samples of which two are. A covariance within samples needs
# several views of each, and one between views many more samples than features.
VIEWED, DRAWN, PAIRED = 512, 8, 4096
FEATURES, LABELS, VIEWS, ENCODER, IMAGES = "features", "labels", "views", "encoder", "images"


class Unfit(ValueError):
    """Says why a measure cannot be taken of what is given, which is no failure."""


class Given:
    """Hold what is known of an encoder: features and labels of ``dataset``, features of views, and the encoder itself.

    Args:
        encoder: maps samples to features ``(N, D)``; None if the samples of ``dataset`` are features already.
        dataset: samples to train probes on and to test them on, with labels if there are any.
        views: maps a batch to several views of it, as `sslkernels.data.TwoViews` does; None if there are none.
    """

    def __init__(
        self, encoder: nn.Module | None, dataset: Dataset, views: Callable[[Any], Sequence[Any]] | None
    ) -> None:
        self.encoder = None if encoder is None else check_module("report", "encoder", encoder)
        self.dataset = check_kind("report", "dataset", dataset, Dataset, "a sslkernels.data.Dataset, such as of load")
        self._views = None if views is None else copy.deepcopy(check_callable("report", "views", views))

    @cached_property
    def missing(self) -> dict[str, str]:
        """Name what measures need and is not there, each with its reason."""
        reasons = {}
        if len(self.dataset.classes) < 2 or self.dataset.labels is None or self.dataset.test_labels is None:
            reasons[LABELS] = "it needs labels of at least two classes, and the data has none"
        if self.encoder is None:
            reasons[ENCODER] = reasons[VIEWS] = reasons[IMAGES] = "it needs the encoder, and features alone came"
        elif self._views is None:
            reasons[VIEWS] = "it needs views of the samples, and none came"
        if self.encoder is not None and not _is_images(self.dataset.inputs):
            reasons[IMAGES] = "it needs images of equal sides in memory"
        return reasons

    @cached_property
    def features(self) -> Tensor:
        """Features ``(N, D)`` of the training samples."""
        return self._encoded("training samples", self.dataset.inputs)

    @cached_property
    def test_features(self) -> Tensor:
        """Features ``(M, D)`` of the test samples."""
        return self._encoded("test samples", self.dataset.test_inputs)

    @property
    def labels(self) -> Tensor:
        """Labels of the training samples; ask for them only if they are not among `missing`."""
        assert self.dataset.labels is not None
        return self.dataset.labels

    @property
    def test_labels(self) -> Tensor:
        """Labels of the test samples, as `labels`."""
        assert self.dataset.test_labels is not None
        return self.dataset.test_labels

    @property
    def labelled(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All that a probe takes, in its order."""
        return self.features, self.labels, self.test_features, self.test_labels

    @cached_property
    def views(self) -> Tensor:
        """Features ``(n, q, D)`` of ``q`` views of each of ``n`` training samples."""
        return self._drawn(self._evenly(VIEWED), DRAWN)

    @cached_property
    def paired(self) -> Tensor:
        """Rows of the training samples of which `pair` has views."""
        return self._evenly(PAIRED)

    @cached_property
    def pair(self) -> tuple[Tensor, Tensor]:
        """Features ``(n, D)`` of two views of many samples."""
        first, second = self._drawn(self.paired, 2).unbind(1)
        return first, second

    def _evenly(self, most: int) -> Tensor:
        """At most so many rows, evenly over all training samples."""
        count = len(self.dataset.inputs)
        return torch.linspace(0, count - 1, min(most, count), dtype=torch.float64).round().long()

    def _drawn(self, rows: Tensor, count: int) -> Tensor:
        """Features ``(n, count, D)`` of views of samples, drawn from a random state of their own."""
        with drawing_anew():
            return torch.cat([self._views_of(self.dataset.inputs[part], count) for part in rows.split(BATCH)])

    def _views_of(self, samples: Any, count: int) -> Tensor:
        assert self.encoder is not None and self._views is not None
        device = next((each.device for each in self.encoder.parameters()), torch.device("cpu"))
        found: list[Tensor] = []
        while len(found) < count:
            drawn = self._views(samples.to(device))
            # Small crops come after the whole views, and are not what is evaluated.
            alike = [view for view in drawn if _shape(view) == _shape(drawn[0])]
            found += [encode(self.encoder, view) for view in alike[: count - len(found)]]
        return torch.stack(found, 1)

    def _encoded(self, name: str, inputs: Any) -> Tensor:
        rows = inputs if self.encoder is None else encode(self.encoder, inputs)
        expected = "(N, D), a row for each sample"
        rows = check_rows("report", f"features of {name}", rows, expected).detach().float().cpu()
        bad = len(rows) - int(rows.isfinite().all(1).sum())
        if bad:
            raise ValueError(
                f"report: features of {name} have shape {shape_of(rows)} and {bad} rows with numbers that are not "
                "finite in float32; pass samples, or an encoder, without such rows."
            )
        return rows


@contextmanager
def drawing_anew() -> Iterator[None]:
    """Draw from the same random state each time, and leave torch's own as it was, on all devices."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(0)
        yield


def _shape(view: Any) -> tuple[int, ...] | None:
    return tuple(view.shape) if isinstance(view, Tensor) else None


def _is_images(inputs: Any) -> bool:
    return isinstance(inputs, Tensor) and inputs.dim() == 4 and inputs.shape[2] == inputs.shape[3]
