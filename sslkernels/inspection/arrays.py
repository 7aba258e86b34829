# SPDX-License-Identifier: Apache-2.0
"""Reads features and labels that lie in NumPy .npy files, without pickles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sslkernels.data.dataset import Dataset, split
from sslkernels.evaluation.features import MOST
from sslkernels.files import cause_of, open_regular

# A fifth is held out for tests, of which measures need a few.
LEAST = 10
# How the command line says what a file is for.
FEATURES, LABELS = "features:", "labels:"


def features_dataset(path: Path, labels: Path | None, warn: Callable[[str], Any]) -> Dataset:
    """A data set of features ``(N, D)``, a fifth of them held out, of each class where there are ``labels (N,)``."""
    came = f"{FEATURES}{path}"
    rows = _array(path, came)
    if rows.ndim != 2 or rows.shape[1] < 1 or rows.dtype.kind not in "fiu":
        raise ValueError(
            f"evaluate: {came} has shape {rows.shape} and dtype {rows.dtype}; pass a file of numbers of shape (N, D), "
            "a row for each sample."
        )
    if len(rows) < LEAST:
        raise ValueError(
            f"evaluate: {came} has {len(rows)} rows; pass a file of at least {LEAST}, of which a fifth is held out."
        )
    names = None if labels is None else _array(labels, f"{LABELS}{labels}")
    if names is not None and (names.shape != (len(rows),) or names.dtype.kind not in "iubU"):
        raise ValueError(
            f"evaluate: {LABELS}{labels} has shape {names.shape} and dtype {names.dtype}; pass a file of whole numbers "
            f"or words of shape (N,), one for each of the {len(rows)} rows of {path}."
        )
    kept = np.arange(len(rows))
    if len(rows) > 2 * MOST:
        warn(f"{came} has {len(rows)} rows; {2 * MOST} of them are evaluated, drawn once for all.")
        kept = np.sort(np.random.default_rng(0).permutation(len(rows))[: 2 * MOST])
    with np.errstate(over="ignore"):  # what float32 cannot hold is counted below
        features = torch.from_numpy(np.ascontiguousarray(rows[kept], dtype=np.float32))
    bad = len(features) - int(features.isfinite().all(1).sum())
    if bad:
        raise ValueError(
            f"evaluate: {came} has {bad} of {len(features)} rows with numbers that are not finite in float32; leave "
            "those rows out, or scale all down."
        )
    lost = int((rows[kept].any(1) & ~features.numpy().any(1)).sum())
    if lost:
        raise ValueError(
            f"evaluate: {came} has {lost} of {len(features)} rows that are zeros in float32; scale all rows up."
        )
    if names is None:
        return split("features", "features", (), features, None)
    classes, numbers = np.unique(names[kept], return_inverse=True)
    listed = tuple(map(str, classes)) if len(classes) > 1 else ()
    return split("features", "features", listed, features, torch.from_numpy(numbers).long() if listed else None)


def _array(path: Path, came: str) -> np.ndarray:
    """Map an array's file, which ``came`` as an argument, into memory; it must hold as much as its header says."""
    try:
        open_regular(path).close()  # a fifo would wait for its writer
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"evaluate: {came} does not exist; pass the path of a .npy file.") from error
    except Exception as error:  # a damaged file can fail in any way
        cause = (
            "it holds pickled objects" if "pickle" in str(error) or "Python objects" in str(error) else cause_of(error)
        )
        raise ValueError(
            f"evaluate: {came} cannot be read ({cause}); pass an array of numbers that numpy.save wrote."
        ) from error
    if not isinstance(found, np.ndarray):
        raise ValueError(f"evaluate: {came} is an archive of several arrays; pass one array that numpy.save wrote.")
    return found
