# SPDX-License-Identifier: Apache-2.0
"""Files that are damaged, that lie, that are no files or far too large get one sentence; nothing starts or hangs."""

from __future__ import annotations

import io
import os
import socket
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sslkernels.data import dataset, load, picture
from sslkernels.data.picture import read_picture

SIZE = 8


def refusal(call: Callable[[], object]) -> str:
    """Catch the one sentence. It comes within a few seconds; otherwise the reader waits for bytes that never come."""
    caught: list[Exception | None] = []

    def run() -> None:
        try:
            call()
            caught.append(None)
        except Exception as error:
            caught.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert caught, "it blocks"
    assert type(caught[0]) in (ValueError, FileNotFoundError, NotADirectoryError), repr(caught[0])
    message = str(caught[0])
    assert "\n" not in message and message.endswith("."), message
    return message


# Folders, fifos and devices in the place of a file


def be_fifo(path: Path) -> None:
    os.mkfifo(path)


def be_folder(path: Path) -> None:
    path.mkdir()


def be_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(path))


def be_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def be_dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def be_a_loop(path: Path) -> None:
    path.symlink_to(path.name)


def be_empty(path: Path) -> None:
    path.write_bytes(b"")


def be_noise(path: Path) -> None:
    path.write_bytes(np.random.RandomState(0).bytes(5000))


def be_unreadable(path: Path) -> None:
    path.write_bytes(b"secret")
    path.chmod(0)


PRETENDERS = [be_fifo, be_folder, be_socket, be_device, be_dangling, be_a_loop, be_empty, be_noise, be_unreadable]


def images_of(folder: Path) -> Path:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (9, 9), (number, 50, 60)).save(folder / name / f"{number}.png")
    return folder


def cifar_of(folder: Path) -> Path:
    folder.mkdir()
    records = np.zeros((10, 3073), np.uint8)
    records[:, 0] = range(10)
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        records.tofile(folder / name)
    return folder


def npz_of(path: Path) -> Path:
    np.savez_compressed(path, images=np.random.RandomState(0).rand(10, 4, 4), labels=np.arange(10) % 2)
    return path


@pytest.mark.parametrize("become", PRETENDERS)
@pytest.mark.parametrize("kind", ["image", "cifar10", "npz"])
def test_what_is_no_file_of_the_kind_is_named(kind, become, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's name must be short
    if kind == "image":
        spec, place = f"imagefolder:{images_of(tmp_path / 'x')}", Path("x/dog/2.png")
    elif kind == "cifar10":
        spec, place = f"cifar10:{cifar_of(tmp_path / 'x')}", Path("x/data_batch_3.bin")
    else:
        spec, place = f"npz:{npz_of(tmp_path / 'x.npz')}", Path("x.npz")
    place.unlink()
    become(place)
    if kind == "image" and become is be_folder:
        pytest.skip("a folder is walked, whatever its name is")
    message = refusal(lambda: load(spec, SIZE))
    assert str(place) in message or become in (be_dangling, be_a_loop)


# Pictures


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pictures() -> dict[str, bytes]:
    random = np.random.RandomState(0)
    colour = Image.fromarray(random.randint(0, 256, (12, 10, 3)).astype(np.uint8))
    deep = Image.fromarray(random.randint(0, 4096, (12, 10)).astype(np.uint16))
    exif = Image.Exif()
    exif[0x112] = 6
    found = {
        kind: encoded(colour, kind, exif=exif) for kind in ("PNG", "JPEG", "WEBP", "TIFF")
    } | {kind: encoded(colour, kind) for kind in ("BMP", "PPM")}  # fmt: skip
    found |= {f"TIFF {name}": encoded(colour, "TIFF", compression=name) for name in ("tiff_lzw", "jpeg", "packbits")}
    found |= {f"{kind} of 16 bits": encoded(deep, kind) for kind in ("PNG", "TIFF", "PPM")}
    found["GIF"] = encoded(colour, "GIF", save_all=True, append_images=[colour.rotate(90)])
    found["PNG of a palette"] = encoded(colour.convert("P"), "PNG", transparency=3)
    found["TIFF group4"] = encoded(colour.convert("1"), "TIFF", compression="group4")
    return found


PICTURES = pictures()


def damaged(content: bytes, random: np.random.RandomState) -> bytes:
    """Cut the content off, or change one to three bytes of it, half of the time in its first 200."""
    if random.randint(3) == 0:
        return content[: random.randint(len(content))]
    changed = bytearray(content)
    for _ in range(random.randint(1, 4)):
        changed[random.randint(min(len(changed), random.choice([200, len(changed)])))] = random.randint(256)
    return bytes(changed)


def fuzz_pictures(kind: str, file: Path, count: int, seed: int) -> None:
    random = np.random.RandomState(seed % 2**32)
    for number in range(count):
        file.write_bytes(damaged(PICTURES[kind], random))
        try:
            found = read_picture(file, SIZE)
        except ValueError as error:
            message = str(error)
            assert str(file) in message and "\n" not in message and message.endswith("."), f"{number}: {message}"
        else:
            assert found.pixels.shape == (3, SIZE, SIZE) and found.pixels.isfinite().all()


@pytest.fixture
def small_pictures(monkeypatch):
    """Refuse large pictures: damage makes one huge now and then, which takes seconds to decode."""
    monkeypatch.setattr(picture, "MOST_PIXELS", 1 << 20)


@pytest.mark.parametrize("kind", PICTURES)
def test_a_damaged_picture_is_read_or_named(kind, tmp_path, seed, small_pictures):
    fuzz_pictures(kind, tmp_path / "x.png", 40, seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PICTURES)
def test_many_damaged_pictures_are_read_or_named(kind, tmp_path, seed, small_pictures):
    fuzz_pictures(kind, tmp_path / "x.png", 700, seed)


@pytest.mark.parametrize("error", [KeyError, struct.error, MemoryError, OverflowError, RecursionError, zlib.error])
def test_whatever_a_decoder_raises_is_a_sentence(error, tmp_path, monkeypatch):
    def stumble(*_: object, **__: object) -> None:
        raise error("of\nsome kind")

    file = tmp_path / "x.png"
    file.write_bytes(PICTURES["PNG"])
    monkeypatch.setattr(Image.Image, "convert", stumble)
    assert f"{file} cannot be read" in refusal(lambda: read_picture(file, SIZE))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n10 10 moveto showpage\n%%EOF\n"


def test_a_picture_of_another_format_starts_no_program(tmp_path, monkeypatch):
    started = tmp_path / "started"
    for name in ("gs", "gswin64c"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {started}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for suffix in (".png", ".tif", ".jpg"):
        file = tmp_path / f"x{suffix}"
        file.write_bytes(EPS)
        assert "in none of the formats" in refusal(lambda: read_picture(file, SIZE))  # noqa: B023
    assert not started.exists()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(values: np.ndarray, depth: int, colour: int, size: tuple[int, int] | None = None) -> bytes:
    """Write a PNG by its specification, since Pillow writes no 16-bit colours; the header says ``size``."""
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in values)
    width, height = size or values.shape[1::-1]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("size", [(100_000, 100_000), (14_000, 14_000), (2**31 - 1, 1)])
@pytest.mark.parametrize("lifted", [False, True])
def test_a_picture_that_says_it_is_huge_is_refused_before_it_is_decoded(size, lifted, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None if lifted else Image.MAX_IMAGE_PIXELS)
    file = tmp_path / "x.png"
    file.write_bytes(png(np.zeros((1, 1)), 8, 0, size))
    assert "pixels" in refusal(lambda: read_picture(file, SIZE))


def test_more_images_than_memory_are_refused_before_the_first_is_read(tmp_path, monkeypatch):
    folder = images_of(tmp_path / "x")
    monkeypatch.setattr("sslkernels.data.pictures.read_picture", None)
    monkeypatch.setattr(dataset, "MEMORY", 10 * 3073)
    message = refusal(lambda: load(f"imagefolder:{folder}?stream=false"))
    assert "GiB, and this machine has" in message and "stream=true" in message
    monkeypatch.setattr(dataset, "MEMORY", 10 * 3073)
    assert "GiB, and this machine has" in refusal(lambda: load(f"cifar10:{cifar_of(tmp_path / 'cifar')}"))


# Archives of NumPy


def member(header: str, content: bytes) -> bytes:
    padded = header.encode().ljust(118 - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + content


def header(shape: str = "(10, 4, 4)", kind: str = "|u1") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"


GOOD = member(header(), bytes(160))
LABELS = member(header("(10,)"), bytes(i % 2 for i in range(10)))
MEMBERS = {
    "no array": (b"just text", "damaged"),
    "empty": (b"", "damaged"),
    "too few bytes": (member(header(), bytes(10)), "says shape"),
    "too many bytes": (member(header(), bytes(161)), "says shape"),
    "lying about a terabyte": (member(header("(1000000000, 32, 32)"), bytes(160)), "says shape"),
    "negative": (member(header("(-10, 4, 4)"), bytes(160)), "says shape"),
    "beyond 64 bits": (member(header(f"({10**30}, 4, 4)"), bytes(160)), "says shape"),
    "code for a shape": (member(header("__import__('os').getpid()"), bytes(160)), "damaged"),
    "a deep header": (member("(" * 110, bytes(160)), "damaged"),
    "objects": (member(header(kind="|O"), bytes(1280)), "holds objects"),
    "dates": (member(header(kind="<M8[s]"), bytes(1280)), "dtype datetime64"),
    "text": (member(header(kind="<U1"), bytes(640)), "dtype <U1"),
    "complex": (member(header(kind="<c8"), bytes(1280)), "dtype complex64"),
    "bools": (member(header(kind="|b1"), bytes(160)), "dtype bool"),
    "void": (member(header(kind="|V4"), bytes(640)), "dtype |V4"),
    "records": (
        member("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (10, 4, 4), }", bytes(640)),
        "dtype [('a', '<f4')]",
    ),
    "no images": (member(header("(0, 4, 4)"), b""), "has shape (0, 4, 4)"),
    "images of no size": (member(header("(10, 0, 4)"), b""), "has shape (10, 0, 4)"),
    "a number": (member(header("()"), b"1"), "has shape ()"),
    "nan": (member(header(kind="<f4"), np.full(160, np.nan, np.float32).tobytes()), "nan"),
    "infinity": (member(header(kind="<f4"), np.full(160, np.inf, np.float32).tobytes()), "inf"),
    "16 bits": (member(header(kind="<u2"), bytes(320)), "dtype uint16"),
    "version 9": (b"\x93NUMPY\x09" + GOOD[7:], "damaged"),
}


def archive(path: Path, members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, content in members:
            made.writestr(name, content)
    return path


@pytest.mark.parametrize("case", MEMBERS)
def test_a_member_that_is_no_array_of_images_is_named(case, tmp_path):
    content, words = MEMBERS[case]
    path = archive(tmp_path / "x.npz", [("images.npy", content), ("labels.npy", LABELS)])
    message = refusal(lambda: load(f"npz:{path}"))
    assert str(path) in message and words in message
    archive(path, [("images.npy", GOOD), ("labels.npy", content)])
    refusal(lambda: load(f"npz:{path}"))


@pytest.mark.parametrize("kind", ["|u1", "<f4", ">f4", ">f8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_byte_order_and_memory_order_is_read(kind, order, tmp_path):
    values = np.random.RandomState(0).randint(0, 2, (10, 4, 4))
    images = np.asarray(values * (255 if kind == "|u1" else 1), dtype=kind, order=order)
    np.savez(tmp_path / "x.npz", images=images, labels=(np.arange(10) % 2).astype(">i2"))
    data = load(f"npz:{tmp_path / 'x.npz'}")
    assert data.inputs.sum() + data.test_inputs.sum() == values.sum()
    assert data.labels.tolist().count(1) == 4


@pytest.mark.parametrize("name", ["labels", "test_images"])
def test_other_labels_and_test_images_meet_the_same_checks(name, tmp_path):
    with_tests = {"images": GOOD, "labels": LABELS, "test_images": GOOD, "test_labels": LABELS}
    for content, _ in MEMBERS.values():
        members = {**with_tests, name: content}
        path = archive(tmp_path / "x.npz", [(f"{each}.npy", value) for each, value in members.items()])
        refusal(lambda: load(f"npz:{path}"))  # noqa: B023


def test_members_twice_or_under_another_path_are_named(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = archive(tmp_path / "x.npz", [("images.npy", GOOD), ("images.npy", GOOD)])
    assert "holds images 2 times" in refusal(lambda: load(f"npz:{path}"))
    archive(path, [("../images.npy", GOOD), ("\x1b[31m.npy", GOOD)])
    message = refusal(lambda: load(f"npz:{path}"))
    assert "has no array 'images' among '../images', '\\x1b[31m'" in message
    archive(path, [("images.npy", GOOD), ("labels.npy", LABELS), ("/etc/x.npy", GOOD)])
    with pytest.warns(UserWarning, match="holds what is not read: '/etc/x'"):
        load(f"npz:{path}")
    assert [each.name for each in tmp_path.iterdir()] == ["x.npz"]


def test_an_encrypted_or_unknown_member_is_named(tmp_path):
    path = archive(tmp_path / "x.npz", [("images.npy", GOOD)], zipfile.ZIP_STORED)
    whole = path.read_bytes()
    at = whole.index(b"PK\x01\x02")
    for place, value, words in ((8, 1, "encrypted"), (10, 97, "compression")):
        changed = bytearray(whole)
        changed[at + place] = changed[place - 2] = value  # once in the directory and once before the member
        path.write_bytes(changed)
        assert words in refusal(lambda: load(f"npz:{path}"))


def test_a_bomb_is_refused_by_its_header(tmp_path, monkeypatch):
    """Five gigabytes of zeros compress to five megabytes. Here it is a million bytes, and the memory is smaller."""
    content = member(header("(1000, 32, 32)"), bytes(1000 * 32 * 32))
    path = archive(tmp_path / "x.npz", [("images.npy", content), ("unused.npy", content)])
    monkeypatch.setattr(dataset, "MEMORY", 9 * 1000 * 32 * 32 - 1)
    read = []
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: read.append(1))
    assert "GiB, and this machine has" in refusal(lambda: load(f"npz:{path}"))
    assert not read


def fuzz_npz(path: Path, count: int, seed: int) -> None:
    random = np.random.RandomState(seed % 2**32)
    whole = npz_of(path).read_bytes()
    expected = load(f"npz:{path}")
    for number in range(count):
        path.write_bytes(damaged(whole, random))
        try:
            found = load(f"npz:{path}")
        except ValueError as error:
            message = str(error)
            assert str(path) in message and "\n" not in message and message.endswith("."), f"{number}: {message}"
        else:  # checksums do not cover dates, nor the name of the labels, without which the split is another
            assert found.labels is None or (found.inputs == expected.inputs).all(), number


@pytest.mark.filterwarnings("ignore:npz")
def test_a_damaged_npz_is_never_read_wrongly(tmp_path, seed):
    fuzz_npz(tmp_path / "x.npz", 200, seed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:npz")
def test_many_damaged_npz_are_never_read_wrongly(tmp_path, seed):
    fuzz_npz(tmp_path / "x.npz", 5000, seed)


# Names of files and folders


def test_names_that_are_long_or_do_not_print_are_one_sentence():
    for name in ("x" * 5000, "new\nline", "\x1b]0;title\x07", "\udcff"):
        refusal(lambda: load(name))  # noqa: B023
        refusal(lambda: load(f"imagefolder:{name}"))  # noqa: B023
