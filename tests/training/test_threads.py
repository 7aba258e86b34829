# SPDX-License-Identifier: Apache-2.0
"""The number of threads is that of the fastest step, and a run keeps it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

from small_runs import quick, small_data  # noqa: E402

from sslkernels.training import run as running  # noqa: E402
from sslkernels.training import train  # noqa: E402
from sslkernels.training.threads import fastest_threads  # noqa: E402


class Clock:
    """A clock that a step moves on by what it takes with so many threads."""

    def __init__(self, takes):
        self.takes, self.now, self.tried = takes, 0.0, []

    def step(self):
        self.now += self.takes[torch.get_num_threads()]
        self.tried.append(torch.get_num_threads())

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    ("takes", "most", "expected"),
    [
        ({1: 1.0, 2: 0.6}, 2, 2),
        ({1: 1.0, 2: 25.0}, 2, 1),  # somebody else is at work
        ({1: 1.0, 2: 0.97}, 2, 1),  # not worth it
        ({1: 1.0, 2: 0.6, 4: 0.4, 6: 0.39}, 6, 4),
        ({1: 1.0}, 1, 1),
    ],
)
def test_the_fewest_threads_that_are_fast_are_taken(takes, most, expected):
    clock, before = Clock(takes), torch.get_num_threads()
    assert fastest_threads(clock.step, most, clock) == expected
    assert torch.get_num_threads() == before
    assert set(clock.tried) == (set(takes) if most > 1 else set())


def test_one_slow_step_decides_nothing():
    clock = Clock({1: 1.0, 2: 0.5})
    plain, count = clock.step, iter(range(100))

    def step():
        plain()
        clock.now += 60.0 if next(count) == 4 else 0.0

    assert fastest_threads(step, 2, clock) == 2


def test_threads_are_left_as_they_were_when_a_step_fails():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        fastest_threads(lambda: 1 / 0, 4)
    assert torch.get_num_threads() == before


def test_a_run_keeps_its_number_and_measuring_changes_no_loss(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_data(Path("small.npz"))
    options = {"data": "npz:small.npz", "epochs": 2, "batch_size": 16, "say": lambda line: None}
    before = torch.get_num_threads()
    try:
        with quick():
            torch.set_num_threads(2)
            asked = []
            monkeypatch.setattr(running, "fastest_threads", lambda step, most: asked.append(most) or step() or 1)
            train("byol", "measured", **options)
            assert asked == [2]
            train("byol", "given", threads=1, **options)
            train("byol", "measured", resume=True, **{**options, "epochs": 3})
            train("byol", "given", resume=True, **{**options, "epochs": 3})
            assert asked == [2]
    finally:
        torch.set_num_threads(before)
    metrics = [json.loads(Path(f"{name}/metrics.json").read_text()) for name in ("measured", "given")]
    assert metrics[0]["config"]["threads"] == metrics[0]["threads"] == 1
    assert metrics[0]["loss"] == metrics[1]["loss"] and len(metrics[0]["loss"]) == 9


@pytest.mark.slow
def test_a_compiled_run_resumes_uncompiled_names_and_learns_alike(tmp_path, monkeypatch):
    """torch.compile works in place, so the checkpoint has the names of a run without it."""
    monkeypatch.chdir(tmp_path)
    small_data(Path("small.npz"))
    options = {"data": "npz:small.npz", "epochs": 2, "batch_size": 16, "threads": 1, "say": lambda line: None}
    small = {"widths": (4, 8), "blocks": (1, 1)}
    with quick():
        train("simclr", "plain", **options, **small)
        train("simclr", "compiled", compile=True, **options, **small)
        train("simclr", "compiled", resume=True, **{**options, "epochs": 3})
    plain, compiled = (torch.load(f"{name}/last.ckpt", weights_only=True) for name in ("plain", "compiled"))
    assert set(plain["state_dict"]) == set(compiled["state_dict"])
    # Compiled views draw other numbers, so only the first losses are near, those of weights that have hardly moved.
    assert compiled["loss"][0] == pytest.approx(plain["loss"][0], rel=0.2) and len(compiled["loss"]) == 9
