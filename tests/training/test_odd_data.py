# SPDX-License-Identifier: Apache-2.0
"""Runs on data without labels, on data that was read in part, and on data that no memory holds."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

from small_runs import EPOCHS, OPTIONS, STEPS, complaint, interrupt  # noqa: E402

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
