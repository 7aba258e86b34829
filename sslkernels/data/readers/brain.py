# SPDX-License-Identifier: Apache-2.0
"""Cuts the template of a human brain that comes with nilearn into slices, each with the slices above and below it."""

from __future__ import annotations

import gzip

import numpy as np
import torch
from torch import Tensor

from sslkernels.arguments import check_size
from sslkernels.data.dataset import Dataset, check_memory, split_by_group
from sslkernels.data.installed import Package

MODALITY = "images"
PACKAGE = Package("nilearn", "11 MB", "BSD-3", module="nilearn")
TISSUES = ("grey matter", "white matter", "neither")
FILE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
# Voxels from one slice to the next in height and in the plane, and of a slab from front to back.
UP, ACROSS, SLAB = 3, 8, 48
# The middle of a slice, whose tissue is its label; a slice has at least this share of its voxels in the brain.
MIDDLE, LEAST_SHARE = 8, 0.5
HELD_OUT = 4  # every so many-th slab


def load_brain(*, size: int = 24, slices: int = 5) -> Dataset:
    """Slices of the left half of a brain, by the tissue in their middle (nilearn's ICBM 2009a T1 template, BSD-3).

    A slice has ``size`` voxels of a millimetre on each side, and ``extra`` the ``volume`` of ``slices`` around it,
    ``(1, slices, size, size)``, and the ``slab`` from front to back. A quarter of the slabs is held out. The template
    is symmetric, so that the right half would show the same again.
    """
    size = check_size("brain", "size", size, least=MIDDLE, most=SLAB)
    slices = check_size("brain", "slices", slices, least=1, most=51)
    head, grey, white = (_voxels(kind) for kind in ("t1", "gm", "wm"))
    height, length, width = head.shape
    corners = [
        (down, slab, front, left)
        for down in range(0, height - slices + 1, UP)
        for slab in range(length // SLAB)
        for front in range(slab * SLAB, (slab + 1) * SLAB - size + 1, ACROSS)
        for left in range(0, width // 2 - size + 1, ACROSS)
    ]
    check_memory("brain: the volumes", (len(corners), slices, size, size), 8, "pass a smaller size, or fewer slices")
    middle, margin = slices // 2, (size - MIDDLE) // 2
    volumes, labels, slabs = [], [], []
    for down, slab, front, left in corners:
        place = slice(front, front + size), slice(left, left + size)
        if (head[down + middle][place] > 0).float().mean() < LEAST_SHARE:
            continue
        inner = (down + middle, *(slice(each.start + margin, each.start + margin + MIDDLE) for each in place))
        shares = torch.stack([grey[inner].mean(), white[inner].mean()])
        block = (slice(down, down + slices), *place)
        volumes.append(head[block])
        labels.append(int(torch.cat([shares, 1 - shares.sum()[None]]).argmax()))
        slabs.append(slab)
    volume = torch.stack(volumes)[:, None]
    held_out = list(range(HELD_OUT - 1, length // SLAB, HELD_OUT))
    known = {"volume": volume, "slab": torch.tensor(slabs)}
    return split_by_group(
        "brain", MODALITY, TISSUES, volume[:, :, middle].clone(), torch.tensor(labels), "slab", held_out, **known
    )


def _voxels(kind: str) -> Tensor:
    """Read a map of the template: float32 (up, front, right) in [0, 1], out of a NIfTI file."""
    raw = gzip.decompress(PACKAGE.path("brain", "datasets", "data", FILE.format(kind)).read_bytes())
    width, length, height = np.frombuffer(raw, "<i2", 3, 42)
    (offset,) = np.frombuffer(raw, "<f4", 1, 108)
    voxels = np.frombuffer(raw, np.uint8, offset=int(offset)).reshape(height, length, width)
    return torch.from_numpy(voxels.astype(np.float32) / 255)
