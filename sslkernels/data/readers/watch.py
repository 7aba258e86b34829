# SPDX-License-Identifier: Apache-2.0
"""Reads recordings of a wrist-worn sensor that come with seglearn (Burns et al. 2018)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from sslkernels.data.dataset import Dataset, split, split_by_group
from sslkernels.data.installed import Package
from sslkernels.data.scaling import standardised

MODALITY = "series"
PACKAGE = Package("seglearn", "11 MB", "BSD", module="seglearn")
EXERCISES = ("pendulum", "abduction", "forward elevation", "internal rotation", "external rotation",
             "trapezius extension", "upright row")  # fmt: skip
# Samples of a window, at 50 Hz, and from one window to the next.
WINDOW, STEP = 100, 50
# The subjects that are held out: three of ten.
HELD_OUT = (8, 9, 10)


def load_watch(*, split_by: Literal["subject", "sample"] = "subject") -> Dataset:
    """Two seconds of acceleration and rotation at the wrist, 7 shoulder exercises by 10 subjects (seglearn, BSD).

    ``extra`` has the ``subject`` and the ``side`` of each window. Windows overlap by half, so that a split by sample
    puts the same second on both sides.
    """
    # The package keeps an array of objects, which NumPy pickles; it is a file of an installed package, not a user's.
    content = np.load(PACKAGE.path("watch", "data", "watch_dataset.npy"), allow_pickle=True).item()
    windows, labels, subjects, sides = [], [], [], []
    columns = zip(content["X"], content["y"], content["subject"], content["side"], strict=True)
    for series, label, subject, side in columns:
        values = torch.from_numpy(np.asarray(series, dtype=np.float32))
        found = values.unfold(0, WINDOW, STEP)  # (windows, channels, WINDOW)
        windows.append(found)
        labels += [int(label)] * len(found)
        subjects += [int(subject)] * len(found)
        sides += [int(side)] * len(found)
    inputs = torch.cat(windows)
    known = {"subject": torch.tensor(subjects), "side": torch.tensor(sides)}
    names = (MODALITY, EXERCISES, inputs, torch.tensor(labels))
    if split_by == "sample":
        return standardised(split("watch", *names, **known))
    return standardised(split_by_group("watch", *names, "subject", HELD_OUT, **known))
