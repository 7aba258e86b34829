# SPDX-License-Identifier: Apache-2.0
"""Runs on pictures that stay in their files: same order, same losses, flat memory, sentences for what is damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("lightning")

from small_runs import complaint, quick  # noqa: E402

from sslkernels.cli import main  # noqa: E402
from sslkernels.data import load  # noqa: E402
from sslkernels.training import train  # noqa: E402
from sslkernels.training.checkpoint import DIGESTS, digest  # noqa: E402


@pytest.fixture
def photos(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    for index in range(60):
        folder = tmp_path / "photos" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (10, 12, 3), dtype=np.uint8)).save(folder / f"{index:02d}.png")
    monkeypatch.chdir(tmp_path)
    with quick():
        yield tmp_path / "photos"


OPTIONS = {"epochs": 2, "batch_size": 16, "widths": (4, 8), "blocks": (1, 1), "say": lambda line: None}
STREAMED = "imagefolder:photos?size=8&stream=true"


def losses(folder: str) -> list[float]:
    return json.loads((Path(folder) / "metrics.json").read_text())["loss"]


def test_losses_do_not_depend_on_where_pictures_are_nor_on_who_reads_them(photos):
    train("simclr", "held", data="imagefolder:photos?size=8", **OPTIONS)
    train("simclr", "alone", data=STREAMED, workers=0, **OPTIONS)
    train("simclr", "beside", data=STREAMED, workers=2, **OPTIONS)
    assert losses("held") == losses("alone") == losses("beside")
    longer = {**OPTIONS, "epochs": 3}
    train("simclr", "whole", data=STREAMED, workers=0, **longer)
    train("simclr", "beside", data=STREAMED, workers=0, resume=True, **longer)
    train("simclr", "alone", data=STREAMED, workers=1, resume=True, **longer)
    assert losses("beside") == losses("alone") and len(losses("alone")) == 9


def test_a_run_of_a_version_that_held_the_pictures_goes_on(photos):
    data = "imagefolder:photos?size=8"
    train("simclr", "run", data=data, **OPTIONS)
    before = torch.load("run/last.ckpt", weights_only=True)["data"]
    whole = load(data)
    assert before["training images"] == [list(whole.inputs.shape), digest(whole.inputs)]
    train("simclr", "run", data=STREAMED, resume=True, **{**OPTIONS, "epochs": 3})
    assert len(losses("run")) == 9
    Image.new("RGB", (9, 9)).save(photos / "a" / "00.png")
    with pytest.raises(ValueError, match="is not what run/last.ckpt was trained on: other training images"):
        train("simclr", "run", data=STREAMED, resume=True, **{**OPTIONS, "epochs": 4})
    assert DIGESTS in torch.load("run/last.ckpt", weights_only=True)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_damaged_picture_ends_the_run_in_one_sentence_or_is_skipped(photos, capsys, workers):
    file = photos / "a" / "04.png"
    file.write_bytes(file.read_bytes()[:50])
    few = ["--epochs", "1", "--batch-size", "16", "--workers", workers, "--set", "widths=4,8", "blocks=1,1"]
    sentence = complaint(capsys, "--data", STREAMED, "--out", "run", *few)
    assert "photos/a/04.png cannot be read as an image" in sentence and "Traceback" not in sentence
    assert main(["train", "simclr", "--data", STREAMED + "&damaged=skip", "--out", "other", *few]) == 0


PEAK = """
import sys
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from sslkernels.cli import main
from sslkernels.training import measure, pictures
measure.REPEATS = measure.LOSS_REPEATS = measure.WARMUPS = 1
pictures.MOST_POINTS = 50
assert main(sys.argv[1:]) == 0
print("peak", getrusage(RUSAGE_SELF).ru_maxrss + getrusage(RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_is_flat_in_the_size_of_a_folder(photos, tmp_path):
    """Ten times as many files take no more: those of 20,000 would be 245 MB. Most are links to the same 60 pictures."""
    pictures = sorted(photos.rglob("*.png"))
    peaks = {}
    for count in (2_000, 20_000):
        for index in range(count):
            picture = pictures[index % len(pictures)]
            folder = tmp_path / str(count) / picture.parent.name
            folder.mkdir(parents=True, exist_ok=True)
            os.link(picture, folder / f"{index}.png")
        options = ["--epochs", "1", "--batch-size", "64", "--set", "widths=4,8", "blocks=1,1", "--out", f"run{count}"]
        command = [
            sys.executable,
            "-c",
            PEAK,
            "train",
            "simclr",
            "--data",
            f"imagefolder:{count}?stream=true",
            *options,
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks[count] = int(done.stdout.rpartition("peak ")[2]) / 1024
    print(f"peak memory in MiB: {peaks}")
    # The evaluation sees 10,000 pictures at most, of which raw pixels and their copy for the probe are the most.
    assert peaks[20_000] - peaks[2_000] < 12 * 32**2 * 8_400 * 3 / 2**20
