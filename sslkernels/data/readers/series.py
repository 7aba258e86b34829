# SPDX-License-Identifier: Apache-2.0
"""Reads time series from ``.ts`` files, the format of aeon, sktime and the UCR and UEA archives."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sslkernels.data.dataset import Dataset, check_memory, split
from sslkernels.data.scaling import standardised
from sslkernels.data.tables import numbered, read_text

MODALITY = "series"
TRAIN, TEST = "_TRAIN", "_TEST"


def load_series(path: Path) -> Dataset:
    """Labelled series in a ``.ts`` file; where its name ends in _TRAIN, the file that ends in _TEST is held out.

    Series of several lengths are padded to the longest, each channel with its own mean.
    """
    series, names = _read(path)
    beside = path.with_stem(path.stem.removesuffix(TRAIN) + TEST) if path.stem.endswith(TRAIN) else None
    if beside is None or not beside.is_file():
        classes, labels = numbered(names)
        several = len(classes) > 1
        return standardised(
            split(str(path), MODALITY, classes if several else (), _joined(path, series), labels if several else None)
        )
    test_series, test_names = _read(beside)
    whole = _joined(path, [*series, *test_series])
    classes, labels = numbered([*names, *test_names])
    count = len(series)
    known = (labels[:count], labels[count:]) if len(classes) > 1 else (None, None)
    inputs, test_inputs = whole[:count], whole[count:]
    return standardised(
        Dataset(str(path), MODALITY, inputs, known[0], test_inputs, known[1], classes if len(classes) > 1 else ())
    )


def _read(path: Path) -> tuple[list[Tensor], list[str]]:
    """Read series ``(channels, length)`` and their classes."""
    lines = read_text("series", path).splitlines()
    begin = next((at for at, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    if begin is None:
        raise ValueError(f"series: {path} has no line @data; pass a .ts file, such as aeon has.")
    labelled = not any(line.strip().lower().startswith("@classlabel false") for line in lines[:begin])
    found, names = [], []
    for number, line in enumerate(lines[begin + 1 :], begin + 2):
        if not line.strip():
            continue
        *channels, label = line.strip().split(":") if labelled else (*line.strip().split(":"), "")
        try:
            values = [[float(value) for value in channel.split(",")] for channel in channels]
        except ValueError as error:
            raise ValueError(f"series: line {number} of {path} holds what is no number ({error}).") from error
        if not values or len({len(channel) for channel in values}) != 1:
            raise ValueError(f"series: line {number} of {path} has channels of several lengths, or none.")
        found.append(torch.tensor(values))
        names.append(label)
        if len(found[0]) != len(values):
            raise ValueError(
                f"series: line {number} of {path} has {len(values)} channels and the first {len(found[0])}."
            )
    if len(found) < 2:
        raise ValueError(f"series: {path} has {len(found)} series; it needs at least 2.")
    return found, names


def _joined(path: Path, series: list[Tensor]) -> Tensor:
    """Pad to the longest by each channel's mean, so that a series does not jump where it ends."""
    channels = {len(each) for each in series}
    if len(channels) != 1:
        raise ValueError(f"series: {path} and its test file have {' and '.join(map(str, sorted(channels)))} channels.")
    longest = max(each.shape[1] for each in series)
    # Standardising holds the numbers in float64 beside those in float32.
    check_memory(
        f"series: those of {path}, all as long as the longest,",
        (len(series), *channels, longest),
        24,
        "cut the longest",
    )
    if not all(each.isfinite().all() for each in series):
        raise ValueError(f"series: {path} holds numbers that are not finite; fill them.")
    result = torch.empty(len(series), channels.pop(), longest)
    for place, each in enumerate(series):
        result[place, :, : each.shape[1]] = each
        result[place, :, each.shape[1] :] = each.mean(1, keepdim=True)
    return result
