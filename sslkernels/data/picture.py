# SPDX-License-Identifier: Apache-2.0
"""Reads one picture as a viewer shows it: upright, on white, with its own range of brightness.

Pillow decodes it, with these differences. Only `FORMATS` are tried, whatever the file is called: others start programs
(EPS) or are rarely meant. EXIF's orientation is applied, transparent parts become white, and numbers of more than 8
bits keep their range. `Picture.left_out` lists what a viewer shows besides and we do not read.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from sslkernels.files import cause_of, open_regular

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# The most pixels of a picture, since it is decoded whole before it shrinks. Pillow has this limit, but can lift it.
MOST_PIXELS = 178_956_970
WHITE = 65535
# Numbers of TIFF's tags.
_BITS, _PHOTOMETRIC, _LARGEST, _LARGEST_OF_ANY_KIND = 258, 262, 281, 341
_WHITE_IS_ZERO = 0
# For each of Pillow's unpackers that read the upper byte of 16 bits, the one that reads the lower byte.
_LOWER_BYTE = {
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGB;16N": "RGB;16B" if sys.byteorder == "little" else "RGB;16L",
}


@dataclass(frozen=True)
class Picture:
    """A square picture.

    pixels: float32 ``(3, S, S)``, in [0, 1] if ``brightest`` is None.
    brightest: its largest whole number, if the file does not say which number is white.
    left_out: a few words for each thing that a viewer shows and we do not read.
    """

    pixels: Tensor
    brightest: int | None = None
    left_out: list[str] = field(default_factory=list)


def read_picture(file: str | Path, size: int, opener: Callable[[], BinaryIO] | None = None) -> Picture:
    """Read the middle square of ``file``, ``size`` pixels a side.

    ``opener`` opens what does not lie in a file of its own; ``file`` is then its name for people.

    Raises:
        ValueError: one sentence; the file cannot be read as a picture.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with open_regular(file) if opener is None else opener() as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of repairs, and of large pictures, which are refused below
            with Image.open(opened, formats=FORMATS) as image:
                return _shown(image, opened, size)
    except UnidentifiedImageError as error:
        raise ValueError(_unreadable(file, f"it is damaged, or in none of the formats {', '.join(FORMATS)}")) from error
    # On damaged bytes a decoder may raise anything: struct.error, zlib.error, KeyError, MemoryError, ...
    except Exception as error:
        raise ValueError(_unreadable(file, cause_of(error))) from error


def _unreadable(file: str | Path, cause: str) -> str:
    return f"{file} cannot be read as an image ({cause}); repair or remove it."


def holds_many_bits(opener: Callable[[], BinaryIO]) -> bool:
    """Tell by its header if a picture may have more than 8 bits; a damaged one has not."""
    from PIL import Image

    try:
        with opener() as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(opened, formats=FORMATS) as image:
                return image.mode.startswith("I") or _unpacker(image) in _LOWER_BYTE
    except Exception:
        return False


def _shown(image: Image, opened: BinaryIO, size: int) -> Picture:
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS}")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    left_out, unpacker, tags = _left_out(image), _unpacker(image), dict(getattr(image, "tag_v2", {}))
    image.load()  # this turns a TIFF, and drops its tiles and tags
    turn = _turn(image)
    if image.mode.startswith("I"):
        channels = [np.asarray(image).astype(np.int32)]
    elif unpacker in _LOWER_BYTE:
        lower = _with_unpacker(opened, unpacker, _LOWER_BYTE[unpacker])
        channels = list(np.moveaxis(256 * np.asarray(image).astype(np.int32) + lower, 2, 0))
    else:
        if ";16" in unpacker:
            left_out.append("the lower 8 of 16 bits")
        square = _square(_on_white(image), turn, size)
        return Picture(torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255, None, left_out)
    darkest, brightest = min(each.min() for each in channels), max(each.max() for each in channels)
    if darkest < 0 or brightest > WHITE:
        raise ValueError(f"values from {darkest} to {brightest} exceed 16 bits")
    white = _declared_white(image, tags)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        white = white or WHITE
        channels = [white - each for each in channels]
    pixels = _squares(channels, turn, size, white or int(brightest))
    return Picture(pixels / white if white else pixels, None if white else int(brightest), left_out)


def _left_out(image: Image) -> list[str]:
    found = []
    # The second picture in a phone's JPEG is a preview, which no viewer shows either.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        found.append("frames after the first")
    profile = image.info.get("icc_profile") or b""
    if profile and b"sRGB" not in profile.replace(b"\0", b""):  # UTF-16 puts zeros between the letters
        found.append("colour profiles")
    return found


def _unpacker(image: Any) -> str:
    """Pillow's name of the way from the file's bytes to pixels, such as ``RGB;16B``."""
    arguments = image.tile[0][3] if getattr(image, "tile", None) else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _with_unpacker(opened: BinaryIO, old: str, new: str) -> np.ndarray:
    from PIL import Image

    opened.seek(0)
    image: Any  # Pillow types only the images of files with tiles
    with Image.open(opened, formats=FORMATS) as image:
        tiles = []
        for tile in image.tile:
            *place, arguments = tile
            if isinstance(arguments, tuple):
                arguments = tuple(new if each == old else each for each in arguments)
            make = getattr(tile, "_make", tuple)  # from Pillow 11 on it is a named tuple
            tiles.append(make((*place, arguments if isinstance(arguments, tuple) else new)))
        image.tile = tiles
        return np.asarray(image).astype(np.int32)


def _declared_white(image: Image, tags: dict[int, Any]) -> int | None:
    """The number that is white, if the file tells it; in a TIFF, the largest of as many bits as are in use."""
    if image.format == "PPM":
        return WHITE  # Pillow has scaled all numbers to this
    bits, largest = (_first(tags.get(_BITS)), _first(tags.get(_LARGEST) or tags.get(_LARGEST_OF_ANY_KIND)))
    if bits is not None and 8 < bits < 16:
        return (1 << bits) - 1
    return (1 << largest.bit_length()) - 1 if largest is not None and 0 < largest <= WHITE else None


def _first(value: Any) -> int | None:
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else None


def _on_white(image: Image) -> Image:
    from PIL import Image as pillow

    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return pillow.alpha_composite(pillow.new("RGBA", image.size, "white"), image).convert("RGB")


def _turn(image: Image) -> Transpose | None:
    """Find the turn that makes the picture upright."""
    from PIL.Image import ExifTags, Transpose

    turns: dict[Any, Transpose] = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        return turns.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # the EXIF is damaged; viewers then show the picture as it is
        return None


def _square(image: Image, turn: Transpose | None, size: int) -> Image:
    from PIL import Image as pillow
    from PIL import ImageOps

    return ImageOps.fit(image if turn is None else image.transpose(turn), (size, size), pillow.Resampling.BICUBIC)


def _squares(channels: list[np.ndarray], turn: Transpose | None, size: int, most: int) -> Tensor:
    """Make float32 ``(3, S, S)`` from one or three channels; the filter's overshoot is cut off at ``most``."""
    from PIL import Image

    squares = [np.array(_square(Image.fromarray(each.astype(np.float32)), turn, size)) for each in channels]
    return torch.from_numpy(np.stack(squares)).clamp(0, most).expand(3, -1, -1)
