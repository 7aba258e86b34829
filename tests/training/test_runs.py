# SPDX-License-Identifier: Apache-2.0
"""A run ignores schedulers, writes apart from its pictures, and loads its own weights only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from sslkernels.data import LogMixupExp, Views
from sslkernels.methods import BYOL, SimCLR
from sslkernels.models import SpectrogramNet, resnet_small
from sslkernels.training import LitMethod, train
from sslkernels.training.config import TrainConfig
from sslkernels.training.devices import SCHEDULED, strategy_of
from sslkernels.training.resume import Resumed


@pytest.mark.parametrize("devices", (1, 2))
def test_what_a_scheduler_says_of_ranks_is_hidden_and_comes_back(devices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning took a run with RANK=1 for the second of a cluster, and wrote no logs."""
    for name in SCHEDULED:
        monkeypatch.setenv(name, "3")
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    config = TrainConfig.from_options("simclr", {"devices": devices})
    with strategy_of(config, None):
        assert not set(SCHEDULED) & set(os.environ) and rank_zero_only.rank == 0
        os.environ["MASTER_PORT"] = "1"  # Lightning sets this
    assert {os.environ[name] for name in SCHEDULED} == {"3"}


@pytest.mark.parametrize("inside", ("run", "a/run", "."))
def test_results_inside_the_pictures_are_refused(inside: str, tmp_path: Path) -> None:
    """Otherwise the next run, and a resumed one, would read them as a class."""
    (tmp_path / "a").mkdir()
    with pytest.raises((ValueError, FileExistsError), match="--out is"):
        train("simclr", tmp_path / inside, data=f"imagefolder:{tmp_path}")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a"]


def test_epochs_whose_steps_cannot_be_counted_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--epochs is 9223372036854775807; pass at most"):
        train("simclr", tmp_path / "run", epochs=2**63 - 1)


def test_the_weights_of_a_method_with_a_teacher_are_those_of_its_checkpoint(tmp_path: Path) -> None:
    """The teacher's step stands among them and has no shape."""
    module = LitMethod(BYOL(resnet_small(), feature_dim=128, hidden_dim=8, projection_dim=8))
    state = module.state_dict()
    resumed = Resumed(tmp_path / "last.ckpt", TrainConfig.from_options("byol", {}), {"state_dict": state})
    resumed.check_fits(module)
    del state["method.teacher.module.0.stem.0.weight"]
    with pytest.raises(ValueError, match="differ in method.teacher.module.0.stem.0.weight"):
        resumed.check_fits(module)


def test_a_checkpoint_brings_the_memory_that_new_views_lack(tmp_path: Path) -> None:
    """Its shape is that of the sounds, which only a batch tells."""

    def module(memory: int) -> LitMethod:
        return LitMethod(SimCLR(SpectrogramNet((4, 4)), feature_dim=8), views=Views(LogMixupExp(memory=memory)))

    trained = module(8)
    trained.views(torch.rand(3, 1, 8, 8))
    state = trained.state_dict()
    Resumed(tmp_path / "last.ckpt", TrainConfig.from_options("simclr", {}), {"state_dict": state}).check_fits(module(8))
    again = module(8)
    again.load_state_dict(state)
    assert torch.equal(again.views.transform.sounds, trained.views.transform.sounds)
    state["views.transform.other"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"differ in views.transform.other"):
        Resumed(tmp_path / "last.ckpt", TrainConfig.from_options("simclr", {}), {"state_dict": state}).check_fits(again)
