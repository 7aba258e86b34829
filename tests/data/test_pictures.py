# SPDX-License-Identifier: Apache-2.0
"""The model sees a picture as a viewer shows it, or a sentence says what was left out."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from sslkernels.data import load
from sslkernels.data.picture import read_picture

SIZE = 8
RANDOM = np.random.RandomState(0)
COLOURS = RANDOM.randint(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
# Numbers that use every one of 12 bits.
DEEP = RANDOM.randint(0, 4096, (SIZE, SIZE))
DEEP[0, 0] = 4095
DEEP_COLOURS = RANDOM.randint(0, 4096, (SIZE, SIZE, 3))
DEEP_COLOURS[0, 0] = 4095


def seen(file: Path) -> torch.Tensor:
    found = read_picture(file, SIZE)
    assert found.brightest is None and found.left_out == []
    return found.pixels


def planes(values: np.ndarray, white: float) -> torch.Tensor:
    """Make float32 ``(3, S, S)`` of grey or coloured numbers."""
    colours = values if values.ndim == 3 else np.repeat(values[:, :, None], 3, axis=2)
    return torch.from_numpy(colours.transpose(2, 0, 1) / white).float()


def close(found: torch.Tensor, expected: torch.Tensor, apart: float = 1e-6) -> bool:
    return bool((found - expected).abs().max() <= apart)


# EXIF defines its eight orientations by the sides where row 0 and column 0 of the stored pixels are seen.
ORIENTATIONS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x.transpose(1, 0, 2)[:, ::-1],
    7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda x: x.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pictures_stand_upright(kind, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x112] = orientation
    file = tmp_path / f"x.{kind}"
    Image.fromarray(COLOURS).save(file, exif=exif, **({"lossless": True} if kind == "webp" else {}))
    assert close(seen(file), planes(ORIENTATIONS[orientation](COLOURS), 255))


def test_damaged_exif_hides_no_picture(tmp_path):
    for exif in (b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0"):
        Image.fromarray(COLOURS).save(tmp_path / "x.png", exif=exif)
        assert close(seen(tmp_path / "x.png"), planes(COLOURS, 255))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "RGB", "1"])
def test_what_is_transparent_is_white(mode, tmp_path):
    file = tmp_path / "x.png"
    options = {}
    if mode in ("RGBA", "LA"):
        image = Image.new("RGBA", (SIZE, SIZE), (10, 10, 10, 0)).convert(mode)
    elif mode == "PA":
        image, file = Image.new("RGBA", (SIZE, SIZE), (10, 10, 10, 0)), tmp_path / "x.gif"
    else:
        image = Image.new(mode, (SIZE, SIZE), 0)
        if mode == "P":
            image.putpalette([10] * 768)
        options = {"transparency": (0, 0, 0) if mode == "RGB" else 0}
    image.save(file, **options)
    assert (seen(file) == 1).all()


def test_half_transparent_is_half_white(tmp_path):
    Image.new("RGBA", (SIZE, SIZE), (0, 100, 200, 128)).save(tmp_path / "x.png")
    expected = torch.tensor([0, 100, 200]) / 255 * 128 / 255 + 127 / 255
    assert close(seen(tmp_path / "x.png"), expected.view(3, 1, 1).expand(3, SIZE, SIZE), 1.01 / 255)


def test_inks_of_a_jpeg_are_colours(tmp_path):
    for inks, colour in (((0, 0, 0, 0), (1, 1, 1)), ((255, 0, 0, 0), (0, 1, 1)), ((0, 0, 0, 255), (0, 0, 0))):
        Image.new("CMYK", (16, 16), inks).save(tmp_path / "x.jpg", quality=100)
        assert close(seen(tmp_path / "x.jpg"), torch.tensor(colour).view(3, 1, 1).float(), 3 / 255)


def test_one_bit_is_black_or_white(tmp_path):
    values = COLOURS[:, :, 0] > 127
    Image.fromarray(values).save(tmp_path / "x.png")
    assert close(seen(tmp_path / "x.png"), planes(values, 1))


# More than eight bits


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(values: np.ndarray, colour: int, bits: int | None = None) -> bytes:
    """Write a PNG of 16 bits by its specification; the chunk sBIT says that ``bits`` of them are significant."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))]
    parts += [chunk(b"sBIT", bytes([bits] * (3 if colour == 2 else 1)))] if bits else []
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def tiff(
    values: np.ndarray, order: str, photometric: int, kind: str = "u2", packed: bool = False, **tags: int
) -> bytes:
    """Write a TIFF by its specification; ``tags`` are _NUMBER=VALUE."""
    data = values.astype(order + kind).tobytes()
    data = zlib.compress(data) if packed else data
    height, width = values.shape[:2]
    channels, bits = (values.shape[2] if values.ndim == 3 else 1), 8 * int(kind[1])
    fields = {256: [width], 257: [height], 258: [bits] * channels, 259: [8 if packed else 1], 262: [photometric]}
    fields |= {273: [8], 277: [channels], 278: [height], 279: [len(data)]}
    fields |= {339: [{"u": 1, "i": 2, "f": 3}[kind[0]]] * channels}
    fields |= {int(name[1:]): [value] for name, value in tags.items()}
    after, entries = b"", b""
    end = 8 + len(data) + 2 + 12 * len(fields) + 4
    for tag, found in sorted(fields.items()):
        content = struct.pack(f"{order}{len(found)}H", *found)
        if len(content) > 4:
            entries += struct.pack(f"{order}HHII", tag, 3, len(found), end + len(after))
            after += content
        else:
            entries += struct.pack(f"{order}HHI", tag, 3, len(found)) + content.ljust(4, b"\0")
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(data))
    return start + data + struct.pack(f"{order}H", len(fields)) + entries + bytes(4) + after


def deep_files() -> dict[str, tuple[str, bytes, np.ndarray]]:
    """Pictures of more than 8 bits by their kind: suffix, content, and the 12 bits of it that should be seen."""
    grey, colours = DEEP, DEEP_COLOURS
    found = {
        "png": ("png", png(grey, 0), grey),
        "png with sBIT": ("png", png(grey, 0, 12), grey),
        "png of colours": ("png", png(colours, 2), colours),
        "pgm": ("pgm", b"P5 8 8 4095\n" + grey.astype(">u2").tobytes(), grey),
        "ppm": ("ppm", b"P6 8 8 4095\n" + colours.astype(">u2").tobytes(), colours),
        "plain pgm": ("pgm", b"P2 8 8 4095\n" + b" ".join(b"%d" % x for x in grey.ravel()), grey),
        "tiff with a largest value": ("tif", tiff(grey, "<", 1, _281=4095), grey),
        "tiff of 32 bits": ("tif", tiff(grey, "<", 1, "i4"), grey),
    }
    for order in "<>":
        found[f"tiff {order}"] = ("tif", tiff(grey, order, 1), grey)
        for packed in (False, True):
            found[f"tiff of colours {order} {packed}"] = ("tif", tiff(colours, order, 2, packed=packed), colours)
    return found


DEEP_FILES = deep_files()


@pytest.mark.parametrize("name", DEEP_FILES)
def test_twelve_bits_are_as_bright_as_eight(name, tmp_path):
    suffix, content, values = DEEP_FILES[name]
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(4):
            (tmp_path / label / f"{number}.{suffix}").write_bytes(content)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        image = load(f"imagefolder:{tmp_path}", SIZE).inputs[0]
    # Pillow scales the 12 bits of a pgm to 16, and those of a ppm to 8.
    apart = {"pgm": 0.51 / 65535, "plain pgm": 0.51 / 65535, "ppm": 0.51 / 255}.get(name, 1e-6)
    assert close(image, planes(values, 4095), apart)
    declared = "pgm" in name or name in ("ppm", "tiff with a largest value")
    assert [str(each.message) for each in told] == [
        f"imagefolder: {tmp_path} has 8 images of 16 or 32 bits, and none is brighter than 4095; "
        "they are read as 12 bits, with white at 4095."
    ] * (not declared)


@pytest.mark.parametrize(("largest", "white"), [(1, 255), (255, 255), (256, 1023), (9000, 16383), (40000, 65535)])
def test_the_brightest_picture_of_all_decides_how_deep_they_are(largest, white, tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    for label, value in (("a", largest), ("b", largest // 3)):
        for number in range(4):
            values = np.full((SIZE, SIZE), value, np.int32)
            (tmp_path / label / f"{number}.tif").write_bytes(tiff(values, "<", 1, "i4"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        data = load(f"imagefolder:{tmp_path}", SIZE)
    assert len(told) == (white < 65535)
    bright, dark = (data.inputs[data.labels == label] for label in (0, 1))
    assert close(bright, torch.tensor(largest / white)) and close(dark, torch.tensor(largest // 3 / white))


def test_a_declared_range_is_kept_however_dark_the_picture_is(tmp_path):
    (tmp_path / "x.pgm").write_bytes(b"P5 8 8 65535\n" + DEEP.astype(">u2").tobytes())
    assert close(seen(tmp_path / "x.pgm"), planes(DEEP, 65535))
    (tmp_path / "x.tif").write_bytes(tiff(DEEP, "<", 0))  # here zero is white
    assert close(seen(tmp_path / "x.tif"), planes(65535 - DEEP, 65535))


@pytest.mark.parametrize(("kind", "values"), [("f4", DEEP / 4095), ("i4", DEEP * 1000), ("i2", DEEP - 4000)])
def test_numbers_without_a_range_are_refused(kind, values, tmp_path):
    (tmp_path / "x.tif").write_bytes(tiff(values, "<", 1, kind))
    with pytest.raises(ValueError, match="cannot be read as an image .*(no agreed range|exceed 16 bits)"):
        read_picture(tmp_path / "x.tif", SIZE)


def test_what_a_viewer_shows_besides_is_counted_in_one_sentence(tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number, kind in enumerate(("gif", "webp", "png", "tif")):
            frames = [Image.fromarray(COLOURS), Image.fromarray(COLOURS[::-1])]
            frames[0].save(tmp_path / label / f"{number}.{kind}", save_all=True, append_images=frames[1:])
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        frames[0].save(tmp_path / label / "4.png", icc_profile=lab)
        frames[0].save(tmp_path / label / "5.png", icc_profile=srgb)
        frames[0].save(tmp_path / label / "6.jpg", "MPO", save_all=True, append_images=frames[1:])
        (tmp_path / label / "7.png").write_bytes(png(RANDOM.randint(0, 65536, (SIZE, SIZE, 4)), 6))
    with pytest.warns(UserWarning) as told:
        load(f"imagefolder:{tmp_path}", SIZE)
    (message,) = (str(each.message) for each in told)
    assert message == (
        f"imagefolder: {tmp_path} holds what is not read: frames after the first (8), "
        "colour profiles (2), the lower 8 of 16 bits (2)."
    )
