# SPDX-License-Identifier: Apache-2.0
"""Cuts the photographs that come with scikit-image into places, each taken several times as at other hours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sslkernels.arguments import check_flag, check_size
from sslkernels.data.dataset import Dataset, check_memory, held_out_fifth, split_by_group
from sslkernels.data.installed import Package

if TYPE_CHECKING:
    from PIL.Image import Image

MODALITY = "images"
PACKAGE = Package("scikit-image", "14 MB", "BSD-3, the photographs CC0 or public domain", module="skimage")
# The colour photographs in the package itself that are CC0 or public domain, or have no known restriction, as
# skimage.data says of each. The grey ones would be told from these by the lack of colour alone.
PHOTOGRAPHS = {
    "astronaut": "astronaut.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "galaxies": "hubble_deep_field.jpg",
    "tissue": "ihc.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
}
# Places of a photograph, about. All are brought to one area, so that none has most of the samples.
PLACES = 200
# A shot takes this share of a square's width and height at least, so that the middle is in all shots.
LEAST_SHARE = 0.8
# Grey levels by which the middle of a square varies at least: shots of an even sky would not show that they are alike.
LEAST_CONTRAST = 6.0


def load_places(*, size: int = 32, shots: int = 3, paired: bool = True) -> Dataset:
    """Places in 7 photographs, each in ``shots`` pictures of other frame and light (scikit-image; CC0, public domain).

    Labels are the photographs, and the partners of a picture are the other shots of its place. ``extra`` has the number
    of the place as ``spot``, and where it lies on one map of all photographs side by side as ``place``: down from 0 to
    1, and across from 0 to their number. A fifth of the spots of each photograph is held out. Unless they are
    ``paired``, pictures have no partners.
    """
    size = check_size("places", "size", size, least=8, most=256)
    shots = check_size("places", "shots", shots, least=2, most=1000)
    paired = check_flag("places", "paired", paired)
    most = len(PHOTOGRAPHS) * 2 * PLACES * shots
    check_memory("places: the pictures", (most, 3, size, size), 8, "pass a smaller size, or fewer shots")
    generator = torch.Generator().manual_seed(0)
    pictures, where, kinds = [], [], []
    for label, file in enumerate(PHOTOGRAPHS.values()):
        for square, down, across in _squares(file, 3 * size // 2):
            pictures += [_shot(square, size, generator) for _ in range(shots)]
            where.append((down, label + across))
            kinds.append(label)
    labels = torch.tensor(kinds)
    spots = torch.arange(len(kinds))
    rows = torch.arange(len(pictures)).view(-1, shots)
    others = torch.stack([rows.roll(-step, 1) for step in range(1, shots)], -1)  # (spots, shots, shots - 1)
    return split_by_group(
        "places",
        MODALITY,
        tuple(PHOTOGRAPHS),
        torch.stack(pictures),
        labels.repeat_interleave(shots),
        "spot",
        held_out_fifth("places", tuple(PHOTOGRAPHS), labels, len(kinds))[1].tolist(),
        others.flatten(0, 1) if paired else None,
        spot=spots.repeat_interleave(shots),
        place=torch.tensor(where).repeat_interleave(shots, 0),
    )


def _squares(file: str, side: int) -> Iterator[tuple[Image, float, float]]:
    """Cut a photograph into squares, without those of an even middle; each with where its middle is, in [0, 1]."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    with Pillow.open(PACKAGE.path("places", "data", file)) as opened:
        whole = opened.convert("RGB")
    columns = max(1, round((PLACES * whole.width / whole.height) ** 0.5))
    rows = max(1, round(PLACES / columns))
    whole = ImageOps.fit(whole, (columns * side, rows * side), Pillow.Resampling.LANCZOS)
    for row in range(rows):
        for column in range(columns):
            square = whole.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
            margin = round((1 - LEAST_SHARE) * side)
            middle = square.convert("L").crop((margin, margin, side - margin, side - margin))
            if float(np.asarray(middle).std()) >= LEAST_CONTRAST:
                yield square, (row + 0.5) / rows, (column + 0.5) / columns


def _shot(square: Image, size: int, generator: torch.Generator) -> Tensor:
    """Take a picture of a square: a part of it, under light of another strength and colour."""
    from PIL import Image as Pillow

    share, left, top, strength, warmth = torch.rand(5, generator=generator).tolist()
    part = square.width * (LEAST_SHARE + (1 - LEAST_SHARE) * share)
    left, top = left * (square.width - part), top * (square.width - part)
    taken = square.resize((size, size), Pillow.Resampling.BICUBIC, (left, top, left + part, top + part))
    pixels = torch.from_numpy(np.array(taken)).permute(2, 0, 1).float() / 255
    # Light has half to a little more than all of its strength, and is blue as at noon to red as in the evening.
    red = 0.85 + 0.3 * warmth
    light = (0.55 + 0.6 * strength) * torch.tensor([red, 1.0, 2.0 - red])
    return (pixels * light[:, None, None]).clamp(0, 1)
