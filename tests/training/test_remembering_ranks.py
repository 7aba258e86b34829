# SPDX-License-Identifier: Apache-2.0
"""Views that remember samples do so on each of two ranks, and a resumed run has what each rank remembered."""

from __future__ import annotations

import json
import os
import pickle
import threading
import time
import wave
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")

from small_runs import quick  # noqa: E402

from sslkernels.cli import main  # noqa: E402
from sslkernels.state import MemoryQueue  # noqa: E402

NAME = "last.ckpt"


def sounds(folder: Path) -> None:
    """Write sounds of a quarter of a second: noises of different colour and loudness."""
    draw = np.random.default_rng(0)
    for number in range(40):
        path = folder / f"class{number % 2}" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            noise = np.convolve(draw.standard_normal(2000), np.ones(1 + number % 7), "same")
            file.writeframes((1000 * (1 + number % 3) * noise).clip(-32000, 32000).astype(np.int16).tobytes())


def keep_first(path: Path, kept: Path, ended: threading.Event) -> None:
    """Link the first checkpoint, which the next one replaces and does not change."""
    while not ended.is_set():
        try:
            os.link(path, kept)
            return
        except FileNotFoundError:
            time.sleep(0.005)


def test_a_process_that_starts_another_shares_no_memory_with_it():
    queue = MemoryQueue(4, 2)
    queue.keys.zero_()
    started = pickle.loads(ForkingPickler.dumps(queue))  # as ranks are started
    started.enqueue(torch.ones(3, 2))
    assert int(started.position) == 3 and int(queue.position) == 0 and not queue.keys.any()


@pytest.mark.slow
def test_two_ranks_resume_with_the_sounds_that_each_remembered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sounds(Path("sounds"))
    data = "audiofolder:sounds?rate=8000&seconds=0.25"
    small = ["--batch-size", "8", "--threads", "1", "--set", "widths=4,4,4", "--set", "hidden_dim=16"]
    arguments = ["train", "byol_a", "--epochs", "4", "--devices", "2", "--data", data, *small]
    ended = threading.Event()
    watcher = threading.Thread(target=keep_first, args=(Path("run") / NAME, Path("first.ckpt"), ended))
    watcher.start()
    with quick():
        assert main([*arguments, "--out", "run"]) == 0
        ended.set()
        watcher.join()
        Path("again").mkdir()
        os.rename("first.ckpt", Path("again") / NAME)
        assert main([*arguments, "--out", "again", "--resume"]) == 0
    whole, resumed = (json.loads((Path(out) / "metrics.json").read_text())["loss"] for out in ("run", "again"))
    assert resumed == whole
