# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: whole or not there, never unpickled, and the random state in them."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")

from sslkernels.training.checkpoint import (  # noqa: E402
    PARTS,
    AtomicCheckpointIO,
    random_state,
    read_checkpoint,
    set_random_state,
)

WHOLE = {**dict.fromkeys(PARTS, 0), "format": 1, "method": "simclr"}


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    writer = AtomicCheckpointIO({"format": 1})
    writer.save_checkpoint({"step": 1}, path)

    def half(value, target):
        target.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        writer.save_checkpoint({"step": 2}, path)
    assert writer.load_checkpoint(path) == {"step": 1, "format": 1}
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_random_state_survives_a_file(tmp_path):
    draws = lambda: (torch.rand(2).tolist(), np.random.randn(3).tolist(), random.random())  # noqa: E731
    np.random.randn(1)  # leaves a cached gauss behind
    torch.save(random_state(), tmp_path / "state")
    expected = draws()
    set_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert draws() == expected


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({**WHOLE, "method": "moco"}, "is a checkpoint of method 'moco', not 'simclr'"),
        ({**WHOLE, "format": 2}, "has format 2 and this version reads format 1"),
        ({"format": 1, "method": "simclr"}, "lacks state_dict, optimizer_states"),
        ({"state_dict": {}}, "is not a checkpoint of sslkernels train"),
        ([1, 2], "is not a checkpoint of sslkernels train"),
        ({**WHOLE, "state_dict": Bomb()}, "is truncated or not a checkpoint"),
    ],
)
def test_a_foreign_checkpoint_is_named(tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "last.ckpt")
    with pytest.raises(ValueError) as caught:
        read_checkpoint(Path("last.ckpt"), "simclr")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("exploded").exists()


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_truncated_checkpoint_is_named(tmp_path, kept):
    path = tmp_path / "last.ckpt"
    torch.save(WHOLE, path)
    assert read_checkpoint(path, "simclr") == WHOLE
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="last.ckpt is truncated or not a checkpoint; start anew"):
        read_checkpoint(path, "simclr")


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="--resume came and .*last.ckpt does not exist"):
        read_checkpoint(tmp_path / "last.ckpt", "simclr")
