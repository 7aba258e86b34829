# SPDX-License-Identifier: Apache-2.0
"""Helpers for runs of a second: their data, their command, and the files that they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sslkernels.cli import main
from sslkernels.training import measure, pictures

COMMAND = Path(sys.executable).with_name("sslkernels")
EPOCHS, STEPS = 2, 3  # epochs of a run, steps of an epoch
# Options of a run that takes a second: it trains on 48 images of 8x8.
OPTIONS = ("--data", "npz:small.npz", "--epochs", str(EPOCHS), "--batch-size", "16")


def small_data(path: Path, more: int = 0, **changes: Any) -> None:
    draw = np.random.default_rng(0)
    images = draw.random((60, 8, 8)).astype(np.float32)
    extra = draw.random((more, 8, 8)).astype(np.float32)
    labels = np.arange(60 + more) % 2
    np.savez(path, **{"images": np.concatenate([images, extra]), "labels": labels, **changes})


@contextmanager
def quick() -> Iterator[None]:
    """Make runs measure once and draw little, since these tests are not about timings and pictures."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("REPEATS", "LOSS_REPEATS", "WARMUPS"):
            patch.setattr(measure, name, 1)
        patch.setattr(measure, "peak_memory", lambda *_: 1)
        for name, value in (("MOST_POINTS", 50), ("QUERIES", 1), ("NEIGHBOURS", 2)):
            patch.setattr(pictures, name, value)
        yield


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def losses(folder: Path) -> list[float]:
    return json.loads((folder / "run" / "metrics.json").read_text())["loss"]


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    assert main(["train", "simclr", *arguments]) == code
    err = capsys.readouterr().err
    assert err.startswith("sslkernels: ") and err.count("\n") == 1, err
    return err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Resume a run that must refuse to begin: its sentence. It must have written nothing."""
    before = files(Path("run"))
    sentence = complaint(capsys, "--out", "run", "--resume", *arguments)
    assert files(Path("run")) == before
    return sentence


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a disk to fill needs the right to mount: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def start(folder: Path, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, "train", "simclr", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **more,
    )


def wait_for(process: subprocess.Popen[str], path: Path) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def finish(process: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, out, err
