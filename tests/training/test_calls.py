# SPDX-License-Identifier: Apache-2.0
"""train() called from Python takes paths as text, and answers every wrong call with one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lightning")

from small_runs import interrupt  # noqa: E402

from sslkernels.training import run as running  # noqa: E402
from sslkernels.training import train  # noqa: E402


def test_a_call_from_python_takes_text_for_a_path(copied, monkeypatch):
    said = []
    monkeypatch.setattr(running, "step_costs", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train("simclr", "other", data="npz:small.npz", epochs=np.int64(1), batch_size=16, say=said.append)
    assert Path("other/last.ckpt").is_file() and said[-1] == "measuring a training step"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"out": None}, TypeError, "train: out is None; pass the path of a file or folder."),
        ({"out": b"run"}, TypeError, "train: out is b'run'; pass the path"),
        ({"epochs": 1.5}, ValueError, "train: --epochs is 1.5; pass a whole number of at least 1."),
        ({"epoch": 1}, ValueError, "train: simclr has no option epoch; did you mean epochs?"),
        ({"say": None}, TypeError, "train: say is None; pass something that can be called."),
        ({"resume": "yes"}, TypeError, "train: resume is 'yes'; pass True or False."),
        ({"method": None}, ValueError, "train: method is None; accepted are action_simclr"),
        ({"data": 3}, TypeError, "pass a name such as digits"),
        ({"lr": "fast"}, TypeError, "train: --lr is a str; pass a number."),
        ({"out": "file"}, FileExistsError, "train: --out is file, which is not an empty folder"),
        ({"out": "file/run"}, ValueError, "file/run, which cannot be created (Not a directory); pass another."),
    ],
)
def test_a_wrong_call_from_python_is_one_sentence(tmp_path, monkeypatch, options, error, words):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    with pytest.raises(error) as caught:
        train(**{"method": "simclr", "out": "run", "epochs": 1, **options})
    assert str(caught.value).startswith("train: ") and words in str(caught.value)
    assert "\n" not in str(caught.value) and os.listdir() == ["file"]
