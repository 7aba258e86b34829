# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are whole or not there and are never unpickled; they hold the random state."""

from __future__ import annotations

import os
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")

from sslkernels.training.checkpoint import (  # noqa: E402
    DIGESTS,
    PARTS,
    AtomicCheckpointIO,
    digest,
    random_state,
    read_checkpoint,
    set_random_state,
)

WHOLE = {
    **dict.fromkeys(PARTS, 0),
    "format": 1,
    "method": "simclr",
    "state_dict": {"weight": torch.arange(6.0).view(2, 3), "steps": torch.tensor(3)},
    "loss": [0.5, float("nan")],
    "random_states": [{"python": (3, (1, 2), None)}],
}


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def write(path: Path, **changes: object) -> None:
    AtomicCheckpointIO({}).save_checkpoint({**WHOLE, **changes}, path)


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        read_checkpoint(path, "simclr")
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.startswith("train: ") and sentence.endswith(".")
    return sentence


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    writer = AtomicCheckpointIO({"format": 1})
    writer.save_checkpoint({"step": 1}, path)
    before = path.read_bytes()

    def half(value, target):
        target.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        writer.save_checkpoint({"step": 2}, path)
    assert path.read_bytes() == before and writer.load_checkpoint(path)["step"] == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_random_state_survives_a_file(tmp_path):
    draws = lambda: (torch.rand(2).tolist(), np.random.randn(3).tolist(), random.random())  # noqa: E731
    np.random.randn(1)  # this leaves a cached gauss behind
    torch.save(random_state(), tmp_path / "state")
    expected = draws()
    set_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert draws() == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({**WHOLE, "method": "moco"}, "is a checkpoint of method 'moco', not 'simclr'"),
        ({**WHOLE, "method": torch.zeros(2)}, "is a checkpoint of method a tensor of shape (2,)"),
        ({**WHOLE, "format": 2}, "has format 2 and this version reads format 1"),
        ({**WHOLE, "format": torch.ones(2)}, "has format a tensor of shape (2,)"),
        ({**WHOLE, "format": True}, "has format True and"),
        ({"format": 1, "method": "simclr"}, "lacks config, data, epoch, state_dict, optimizer_states"),
        (WHOLE, "lacks digests"),
        ({"state_dict": {}}, "is not a checkpoint of sslkernels train"),
        ([1, 2], "is not a checkpoint of sslkernels train"),
        ({**WHOLE, "state_dict": Bomb()}, "is truncated or not a checkpoint"),
    ],
)
def test_a_foreign_checkpoint_is_named(tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "last.ckpt")
    assert words in refusal(Path("last.ckpt"))
    assert not Path("exploded").exists()


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_truncated_checkpoint_is_named(tmp_path, kept):
    path = tmp_path / "last.ckpt"
    write(path)
    assert set(read_checkpoint(path, "simclr")) == {*WHOLE, DIGESTS}
    path.write_bytes(path.read_bytes()[:kept])
    assert "last.ckpt is truncated or not a checkpoint; start anew" in refusal(path)


def contents(path: Path) -> list[tuple[str, range]]:
    """Find where the bytes of every entry lie."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        places = []
        for entry in archive.infolist():
            file.seek(entry.header_offset + 26)
            start = entry.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
            places.append((entry.filename, range(start, start + entry.file_size)))
    return places


def flipped(whole: bytes, at: int, bit: int) -> bytes:
    return whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]


def test_a_flipped_bit_of_every_entry_is_refused_by_its_name(tmp_path, seed):
    path = tmp_path / "last.ckpt"
    write(path)
    whole, draw = path.read_bytes(), random.Random(seed)
    places = contents(path)
    assert len(places) >= 6
    for name, place in places:
        for at in draw.sample(place, min(8, len(place))):
            path.write_bytes(flipped(whole, at, draw.randrange(8)))
            assert f"last.ckpt is damaged, its entry {name!r} is not what was written" in refusal(path)


def check_flips(path: Path, seed: int, step: int) -> None:
    """Check that a flipped bit in headers, directory or padding is refused, or changes nothing that is read."""
    write(path)
    whole, draw = path.read_bytes(), random.Random(seed)
    expected = digest(read_checkpoint(path, "simclr"))
    inside = {at for _, place in contents(path) for at in place}
    outside = [at for at in range(len(whole)) if at not in inside]
    refused = 0
    for at in outside[draw.randrange(step) :: step]:
        path.write_bytes(flipped(whole, at, draw.randrange(8)))
        try:
            assert digest(read_checkpoint(path, "simclr")) == expected
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 0


def test_a_flipped_bit_elsewhere_is_refused_or_harmless(tmp_path, seed):
    check_flips(tmp_path / "last.ckpt", seed, step=20)


@pytest.mark.slow
def test_a_flipped_bit_in_every_byte_elsewhere_is_refused_or_harmless(tmp_path, seed):
    check_flips(tmp_path / "last.ckpt", seed, step=1)


WRONG = [
    None, True, -1, 10**30, 1.5, float("nan"), "x", b"x", [], [None], {}, {"x": {}}, (), torch.zeros(3),
    torch.zeros(3).to_sparse(), {"weight": torch.zeros(2, 3)}, {"weight": torch.zeros(3, 2)}, [0.5, 0.5],
]  # fmt: skip


@pytest.mark.parametrize("part", [*sorted(set(WHOLE) - {"format", "method"}), DIGESTS])
def test_every_part_with_every_wrong_value_is_refused_by_its_name(tmp_path, part):
    path = tmp_path / "last.ckpt"
    write(path)
    whole = torch.load(path, weights_only=True)
    for value in WRONG:
        torch.save({**whole, part: value}, path)
        assert "last.ckpt was changed after it was written, in its " in (sentence := refusal(path))
        assert repr(part) in sentence or part == DIGESTS
    torch.save({name: value for name, value in whole.items() if name != part}, path)
    assert f"lacks {part}" in refusal(path)


def test_what_was_added_or_taken_is_named(tmp_path):
    path = tmp_path / "last.ckpt"
    write(path, callbacks={})
    whole = torch.load(path, weights_only=True)
    for more, words in (({"hooks": 1}, "'hooks'"), ({3: 1}, "its 3"), ({"callbacks": ...}, "'callbacks'")):
        changed = {name: value for name, value in {**whole, **more}.items() if value is not ...}
        torch.save(changed, path)
        assert f"was changed after it was written, in its {words.removeprefix('its ')}" in refusal(path)


VALUES = [
    None, True, 1, 1.0, 0, -0.0, 0.0, float("nan"), "1", "", b"1", [], (), {}, [1], (1,), [[1], 2], [[1, 2]], [1, [2]],
    {"a": 1}, {1: "a"}, {"a": 1, "b": 2}, {"b": 2, "a": 1}, torch.tensor(1.0), torch.tensor([1.0]), torch.tensor([1]),
    torch.tensor([[1.0]]), torch.zeros(0), torch.zeros(0, 2), torch.ones(2, dtype=torch.bfloat16), torch.ones(2).bool(),
    torch.tensor([0.0]), torch.tensor([-0.0]), "tensor torch.float32 ():", ["a", "b"], ["a;b"],
]  # fmt: skip


def test_different_values_have_different_digests_and_a_file_changes_none(tmp_path):
    digests = [digest(value) for value in VALUES]
    assert len(set(digests)) == len(VALUES)
    torch.save(VALUES, tmp_path / "values")
    assert [digest(value) for value in torch.load(tmp_path / "values", weights_only=True)] == digests
    strided = torch.arange(6.0).view(2, 3).T
    assert digest(strided) == digest(strided.contiguous()) != digest(strided.flip(0))


def test_an_archive_that_swells_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    write(path)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "b", "w", zipfile.ZIP_DEFLATED) as swelling:
        for entry in archive.infolist():
            swelling.writestr(entry.filename, archive.read(entry))
    assert "is damaged, its entry" in refusal(tmp_path / "b")


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="--resume came and .*last.ckpt does not exist"):
        read_checkpoint(tmp_path / "last.ckpt", "simclr")
