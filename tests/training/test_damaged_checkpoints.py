# SPDX-License-Identifier: Apache-2.0
"""Damaged and foreign checkpoints are not resumed, and a sentence says what is wrong."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

from small_runs import refused  # noqa: E402

from sslkernels.training import run as running  # noqa: E402


def test_a_flipped_bit_of_a_real_checkpoint_is_not_resumed(copied, capsys, seed):
    content, draw = Path("run/last.ckpt").read_bytes(), random.Random(seed)
    for _ in range(5):
        at = draw.randrange(len(content) // 2)  # tensors and their pickle lie there
        Path("run/last.ckpt").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        if b"\0FB" in content[max(0, at - 64) : at + 64] or content[at : at + 1] == b"Z":
            continue  # this is padding, which holds nothing
        assert "run/last.ckpt is damaged, its entry" in refused(capsys)


@pytest.mark.parametrize("part", ["config", "loops", "epoch", "random_states", "loss", "state_dict", "data"])
def test_a_changed_part_of_a_real_checkpoint_is_not_resumed(copied, capsys, part):
    checkpoint = torch.load("run/last.ckpt", weights_only=True)
    for value in (None, -1, "x", [], {"x": 1}):
        torch.save({**checkpoint, part: value}, "run/last.ckpt")
        assert f"run/last.ckpt was changed after it was written, in its {part!r}" in refused(capsys)


def test_weights_of_another_architecture_are_named(copied, capsys):
    checkpoint = torch.load("run/last.ckpt", weights_only=True)
    weights = checkpoint["state_dict"]
    name = next(iter(weights))
    for changed in (
        {**weights, name: torch.zeros(3)},
        {**weights, "more": torch.zeros(3)},
        {other: value for other, value in weights.items() if other != name},
    ):
        running.AtomicCheckpointIO({}).save_checkpoint({**checkpoint, "state_dict": changed}, "run/last.ckpt")
        assert "and this version's simclr differ in " in refused(capsys)
