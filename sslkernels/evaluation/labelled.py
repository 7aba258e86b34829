# SPDX-License-Identifier: Apache-2.0
"""Checks rows and their labels for the probes, and draws the same few labelled rows for all encoders."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sslkernels.arguments import check_rows, check_tensor, shape_of


def labelled_rows(
    function: str, features: Tensor, labels: Tensor, test_features: Tensor, test_labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Check rows and their labels; the rows come back in float32 and without a graph."""
    for name, rows, labels_name, given in (
        ("features", features, "labels", labels),
        ("test_features", test_features, "test_labels", test_labels),
    ):
        check_rows(function, name, rows)
        check_labels(function, labels_name, given, name, rows)
        check_finite(function, name, rows)
    alike_features(function, features, test_features)
    return features.detach().float(), test_features.detach().float()


def check_labels(function: str, name: str, value: object, rows_name: str, rows: Tensor) -> Tensor:
    """Check int64 ``(N,)``, a label from 0 for each of at least one row."""
    given = check_tensor(function, name, value, "(N,), int64")
    if given.dtype != torch.int64:
        raise TypeError(f"{function}: {name} has dtype {given.dtype}; pass int64 labels.")
    if given.dim() != 1 or len(given) != len(rows) or not len(rows):
        raise ValueError(
            f"{function}: {name} has shape {shape_of(given)} and {rows_name} {shape_of(rows)}; "
            "every row needs one label, and there must be a row."
        )
    if given.min() < 0:
        raise ValueError(f"{function}: {name} holds {int(given.min())}; pass labels from 0 on.")
    return given


def check_classes(function: str, labels: Tensor) -> None:
    if len(labels.unique()) < 2:
        raise ValueError(f"{function}: labels holds one class; pass rows of at least two.")


def finite_rows(function: str, features: Tensor, test_features: Tensor) -> tuple[Tensor, Tensor]:
    """Check rows without their labels; they come back in float32 and without a graph."""
    for name, rows in (("features", features), ("test_features", test_features)):
        if not len(check_rows(function, name, rows)):
            raise ValueError(f"{function}: {name} has no row; pass at least one.")
        check_finite(function, name, rows)
    alike_features(function, features, test_features)
    return features.detach().float(), test_features.detach().float()


def check_finite(function: str, name: str, rows: Tensor) -> None:
    """Check that rows are finite in float32, in which probes compute, and do not vanish there."""
    narrow = rows.float()
    if not narrow.isfinite().all():
        raise ValueError(
            f"{function}: {name} holds numbers that are not finite in float32, in which it computes; leave those rows "
            "out, or scale all down."
        )
    if narrow is not rows and (rows.any(-1) & ~narrow.any(-1)).any():
        raise ValueError(
            f"{function}: {name} holds rows that are zeros in float32, in which it computes; scale all rows up."
        )


def alike_features(function: str, features: Tensor, test_features: Tensor) -> None:
    if features.shape[1] != test_features.shape[1]:
        raise ValueError(
            f"{function}: features has shape {shape_of(features)} and test_features {shape_of(test_features)}; "
            "both need the same number of features."
        )


def draws_of(labels: Tensor, shots: int, draws: int) -> Iterator[Tensor]:
    """Draw indices of ``shots`` rows of each class, ``draws`` times; nothing if a class is too small."""
    members = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
    if min(map(len, members)) < shots:
        return
    generator = torch.Generator().manual_seed(0)
    for _ in range(draws):
        yield torch.cat([rows[torch.randperm(len(rows), generator=generator)[:shots]] for rows in members])
