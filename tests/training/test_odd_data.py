# SPDX-License-Identifier: Apache-2.0
"""Runs on data without labels, on data that was read in part, and on data that no memory holds."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

from small_runs import EPOCHS, OPTIONS, STEPS, complaint, interrupt, small_data  # noqa: E402

from sslkernels.cli import main  # noqa: E402
from sslkernels.data import Dataset, load  # noqa: E402
from sslkernels.training import resume, train  # noqa: E402
from sslkernels.training import run as running  # noqa: E402


@pytest.mark.parametrize("classes", [(), ("all",)])
def test_images_without_classes_are_trained_on_and_the_probes_left_out(copied, capsys, monkeypatch, classes):
    labels = [torch.zeros(count, dtype=torch.int64) if classes else None for count in (48, 12)]
    images = torch.rand(60, 1, 8, 8)
    unlabelled = Dataset("x", classes, images[:48], labels[0], images[48:], labels[1])
    monkeypatch.setattr(resume, "load", lambda *_: unlabelled)
    assert main(["train", "simclr", *OPTIONS, "--out", "other"]) == 0
    out = capsys.readouterr().out
    assert "the probes are left out: they compare classes, and the data has no labels, or one class\n" in out
    metrics = json.loads(Path("other/metrics.json").read_text())
    probes = [probe + of for probe in ("few_shot", "linear", "knn") for of in ("", "_untrained", "_pixels")]
    assert [metrics[name] for name in probes] == [None] * 9 and len(metrics["loss"]) == EPOCHS * STEPS
    text = Path("other/report.html").read_text()
    assert "Not measured: the probes compare classes, and the data has no labels, or one class." in text
    assert text.count("<img") == 4 and "Colours are the labels" not in text and "share the label" not in text


@pytest.mark.parametrize(
    ("method", "settings", "sides", "words"),
    [
        (
            "pretext",
            (),
            (8, 9),
            "cannot train on npz:odd.npz: Rotation: inputs has shape (2, 1, 8, 9); pass squares",
        ),
        ("pretext", ("tasks=reversal",), (8, 8), "Reversal: inputs has shape (2, 1, 8, 8); expected series"),
        ("pretext", ("tasks=jigsaw,context",), (8, 8), "Context: images have 8 x 8 pixels; pass at least 9 a side"),
        ("scatsimclr", ("grid=3",), (8, 2), "Jigsaw: images have 8 x 2 pixels; pass at least 3 a side"),
    ],
)
def test_images_that_a_task_cannot_change_are_refused_before_anything_is_written(
    copied, capsys, method, settings, sides, words
):
    small_data(Path("odd.npz"), images=torch.rand(60, *sides).numpy())
    options = [each for setting in settings for each in ("--set", setting)]
    assert main(["train", method, "--data", "npz:odd.npz", *options, "--out", "other"]) == 2
    out, err = capsys.readouterr()
    assert words in err and err.count("\n") == 1 and not out and not Path("other").exists()


def test_what_was_left_out_of_the_data_is_said(copied, monkeypatch):
    def load_less(*_):
        warnings.warn("npz: small.npz holds what is not read: 'more'.", stacklevel=2)
        return load("npz:small.npz")

    said = []
    monkeypatch.setattr(resume, "load", load_less)
    monkeypatch.setattr(running, "prepare", interrupt)
    for resumes in (False, True):
        with pytest.raises(KeyboardInterrupt):
            train("simclr", "run" if resumes else "other", data="npz:small.npz", resume=resumes, say=said.append)
    assert said == ["warning: npz: small.npz holds what is not read: 'more'."] * 2


@pytest.mark.parametrize("ask", [lambda: torch.empty(1 << 46), lambda: bytearray(1 << 60)])
def test_what_no_memory_holds_is_one_sentence(copied, capsys, monkeypatch, ask):
    monkeypatch.setattr(running, "prepare", lambda *_: ask())
    assert "there is not enough memory for this; pass smaller images" in complaint(capsys, *OPTIONS, "--out", "other")
    assert not Path("other").exists()
