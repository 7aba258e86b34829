# SPDX-License-Identifier: Apache-2.0
"""A full disk gets one sentence, and the older file stays whole."""

from __future__ import annotations

import builtins
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning")

from small_runs import EPOCHS, OPTIONS, complaint, files, finish, losses, small_disk, start  # noqa: E402

from sslkernels.cli import main  # noqa: E402


class Full:
    """A file on a full disk."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def write(self, content: bytes) -> int:
        self.file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["metrics.csv", "tfevents", "last.ckpt", "metrics.json", "report.html"])
def test_a_full_disk_is_one_sentence_and_keeps_the_older_file(copied, capsys, monkeypatch, name):
    before = files(Path("run"))
    opened, replaced = builtins.open, os.replace

    def full_open(path, *arguments, **keywords):
        file = opened(path, *arguments, **keywords)
        return Full(file) if name in str(path) and "logs" + os.sep in str(path) or "tfevents" in str(path) else file

    def full_replace(source, target):
        if str(target).endswith(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replaced(source, target)

    if name in ("metrics.csv", "tfevents"):
        monkeypatch.setattr(builtins, "open", full_open)
    monkeypatch.setattr(os, "replace", full_replace)
    sentence = complaint(capsys, "--out", "run", "--resume", "--epochs", str(EPOCHS + 1))
    monkeypatch.undo()
    assert name in sentence and "cannot be written: No space left on device" in sentence
    after = files(copied / "run")
    assert not [path for path in after if path.endswith(".partial")]
    changed = {path for path, content in before.items() if after[path] != content}
    assert changed <= {"last.ckpt", "metrics.json", "report.html"} - {name}


@pytest.mark.slow
@pytest.mark.parametrize("part", [0.5, 1.5])
def test_a_disk_that_fills_keeps_the_last_whole_checkpoint(copied, capsys, part):
    """The disk has room for half a checkpoint, or for one and a half while the second is written."""
    size = Path("run/last.ckpt").stat().st_size
    with small_disk(Path("disk"), int(part * size) >> 10):
        assert "disk/run/last.ckpt cannot be written: No space left" in complaint(capsys, *OPTIONS, "--out", "disk/run")
        assert not list(Path("disk/run").glob(".*"))
        if part < 1:
            assert not Path("disk/run/last.ckpt").exists()
            return
        shutil.copytree("disk/run", "moved")
    assert main(["train", "simclr", "--out", "moved", "--resume"]) == 0
    assert json.loads(Path("moved/metrics.json").read_text())["loss"] == losses(copied)


@pytest.mark.slow
def test_a_process_of_several_whose_disk_is_full_is_one_sentence(copied):
    with small_disk(copied / "disk", int(0.5 * Path("run/last.ckpt").stat().st_size) >> 10):
        code, _, err = finish(start(copied, *OPTIONS, "--devices", "2", "--out", "disk/run"))
    assert code == 2 and err.count("\n") == 1, err
    assert "disk/run/last.ckpt cannot be written: No space left on device; no older file was changed." in err
