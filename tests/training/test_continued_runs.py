# SPDX-License-Identifier: Apache-2.0
"""Runs are continued, on data that moved or changed and for longer than they were planned."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")

from small_runs import EPOCHS, STEPS, interrupt, refused, small_data  # noqa: E402

from sslkernels.cli import main  # noqa: E402
from sslkernels.data import Dataset, load  # noqa: E402
from sslkernels.training import resume, train  # noqa: E402
from sslkernels.training import run as running  # noqa: E402
from sslkernels.training.resume import differences, fingerprint  # noqa: E402


def test_data_that_changed_is_refused_and_the_change_named(copied, capsys, monkeypatch):
    images = np.load("small.npz")["images"]
    changes: dict[str, Callable[[], None]] = {
        "52 training images where there were 48": lambda: small_data(Path("small.npz"), more=6),
        "other training images, as many as before": lambda: small_data(Path("small.npz"), images=images[::-1]),
        "training images of 1x9x8 where there were such of 1x8x8": lambda: small_data(
            Path("small.npz"), images=np.zeros((60, 9, 8), np.uint8)
        ),
    }
    for words, change in changes.items():
        change()
        sentence = refused(capsys)
        assert (
            f"npz:small.npz is not what run/last.ckpt was trained on: {words}; pass --data with the place" in sentence
        )
    assert "digits is not what run/last.ckpt was trained on" in refused(capsys, "--data", "digits")
    small_data(Path("small.npz"))
    same = load("npz:small.npz")
    for labels, words in (
        (1 - same.labels, "other training labels, as many"),
        (None, "it has no training labels"),
    ):
        monkeypatch.setattr(resume, "load", lambda *_: replace(same, labels=labels))  # noqa: B023
        assert words in refused(capsys)


def test_what_is_known_of_samples_may_not_change_and_old_checkpoints_do_not_know_it():
    images, place = torch.rand(8, 1, 4, 4), torch.rand(8, 2)
    partners = torch.arange(8)[:, None] ^ 1
    data = Dataset("a", "images", images, None, images, None, extra={"place": place}, partners=partners)
    old = {name: each for name, each in fingerprint(data).items() if "of training" not in name}
    assert differences(data, fingerprint(data)) == differences(data, old) == []
    moved = replace(data, extra={"place": place.flip(0)})
    assert differences(moved, fingerprint(data)) == ["other place of training images, as many as before"]
    other = replace(data, partners=partners.flip(0))
    assert differences(other, fingerprint(data)) == ["other partners of training images, as many as before"]


def test_moved_data_and_more_epochs_continue_the_run(copied, capsys):
    Path("small.npz").rename("moved.npz")
    sentence = refused(capsys)
    assert "run/last.ckpt was trained on npz:small.npz, which is not there any more; pass --data with the" in sentence
    before = json.loads(Path("run/metrics.json").read_text())
    more = str(EPOCHS + 1)
    assert main(["train", "simclr", "--out", "run", "--resume", "--data", "npz:moved.npz", "--epochs", more]) == 0
    out = capsys.readouterr().out
    assert "2 epochs were planned and 2 are done: from here on the learning rate follows the schedule of 3\n" in out
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["loss"][: len(before["loss"])] == before["loss"]
    assert len(metrics["loss"]) == (EPOCHS + 1) * STEPS
    assert (metrics["data"], metrics["config"]["epochs"]) == ("npz:moved.npz", EPOCHS + 1)
    checkpoint = torch.load("run/last.ckpt", weights_only=True)
    assert checkpoint["config"]["data"] == "npz:moved.npz"
    # AdamW's last step took the rate of the new schedule, whose first of 9 steps is the warm-up.
    rate = 0.5 * (1 + np.cos(np.pi * (9 - 1) / (9 - 1))) * metrics["config"]["lr"]
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(rate, abs=1e-9)
    assert "--epochs is 2 and run/last.ckpt has 3 behind it; pass at least 3" in refused(capsys, "--epochs", "2")


def test_the_first_step_of_a_longer_run_follows_its_schedule(copied, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def noted(self, *arguments, **keywords):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments, **keywords)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    monkeypatch.setattr(running, "step_costs", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train("simclr", "run", resume=True, epochs=4, say=str)
    peak = torch.load("run/last.ckpt", weights_only=True)["config"]["lr"]
    # There are 12 steps, and the first is the warm-up; six are done.
    expected = [peak * 0.5 * (1 + np.cos(np.pi * (at - 1) / 11)) for at in range(6, 12)]
    assert rates == pytest.approx(expected)
