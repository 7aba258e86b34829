# SPDX-License-Identifier: Apache-2.0
"""A method gets what it needs of each sample, and its hooks come in order; a resumed run repeats what they draw."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

pytest.importorskip("lightning")

from lightning.pytorch import Trainer  # noqa: E402

from sslkernels.data import load  # noqa: E402
from sslkernels.evaluation import encode  # noqa: E402
from sslkernels.methods import METHODS, SimCLR  # noqa: E402
from sslkernels.training import LitMethod, train  # noqa: E402


class Watching(SimCLR):
    """SimCLR that keeps a record of what it is given, and draws a number in each epoch."""

    needs = ("index", "label")
    small = {"epochs": 3, "batch_size": 16, "lr": 1e-3, "projection_dim": 8}
    drawn: torch.Tensor

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register_buffer("drawn", torch.zeros(9))
        self.calls: list[tuple] = []
        self.seen: list[tuple] = []

    def forward(self, views, index, label):
        self.seen.append((index.clone(), label.clone()))
        return super().forward(views)

    def before_epoch(self, embed, epoch, epochs):
        features = embed()
        assert features.shape == (48, 128) and epochs == 3
        self.drawn[epoch] = torch.rand(())
        self.calls.append(("epoch", epoch))

    def before_step(self, step, total_steps):
        moved = self.projector[-1].weight.grad is not None
        self.calls.append(("before", step, moved))

    def after_step(self, step, total_steps):
        super().after_step(step, total_steps)
        self.calls.append(("after", step))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from small_runs import quick, small_data

    monkeypatch.chdir(tmp_path)
    small_data(Path("small.npz"))
    monkeypatch.setitem(METHODS, "watching", Watching)
    with quick():
        yield


def last(folder: str) -> dict[str, Any]:
    return torch.load(Path(folder) / "last.ckpt", weights_only=True)


def test_hooks_come_in_order_and_each_sample_brings_what_is_needed(small, monkeypatch):
    made = []
    monkeypatch.setattr(Watching, "__deepcopy__", lambda self, memo: made.append(self) or copied(self), raising=False)
    train("watching", "run", data="npz:small.npz", say=lambda line: None)
    method = made[0]
    assert method.calls[:7] == [("epoch", 0), ("before", 0, True), ("after", 0), ("before", 1, True), ("after", 1),
                                ("before", 2, True), ("after", 2)]  # fmt: skip
    assert [call for call in method.calls if call[0] == "epoch"] == [("epoch", 0), ("epoch", 1), ("epoch", 2)]
    labels = load("npz:small.npz").labels
    index = torch.cat([index for index, _ in method.seen[:3]])
    assert sorted(index.tolist()) == list(range(48))
    assert torch.equal(labels[index], torch.cat([label for _, label in method.seen[:3]]))


def copied(method: Watching) -> Watching:
    """Copy as usual, without the method that the test has put in the place of `copy.deepcopy`."""
    reduced = method.__reduce_ex__(4)
    twin = reduced[0](*reduced[1])
    twin.__dict__.update(copy.deepcopy(reduced[2]))
    return twin


def test_a_resumed_run_draws_the_same_in_each_epoch(small):
    options = {"data": "npz:small.npz", "say": lambda line: None}
    whole = train("watching", "whole", **options)
    train("watching", "part", **{**options, "epochs": 3})
    drawn = last("whole")["state_dict"]["method.drawn"]
    assert len(set(drawn[:3].tolist())) == 3 and json.dumps(whole["loss"])
    torch.manual_seed(99)
    longer = train("watching", "part", resume=True, **{**options, "epochs": 3})
    assert longer["loss"] == whole["loss"] and torch.equal(last("part")["state_dict"]["method.drawn"], drawn)


def test_an_interrupted_run_draws_the_same_in_each_epoch(small, monkeypatch):
    options = {"data": "npz:small.npz", "say": lambda line: None}
    train("watching", "whole", **options)
    with monkeypatch.context() as patch:
        patch.setattr(Watching, "after_step", stop_at(4))
        with pytest.raises(KeyboardInterrupt):
            train("watching", "run", **options)
    assert last("run")["epoch"] == 0
    torch.manual_seed(99)
    np.random.seed(99)
    train("watching", "run", resume=True, **options)
    assert torch.equal(last("run")["state_dict"]["method.drawn"], last("whole")["state_dict"]["method.drawn"])
    assert last("run")["loss"] == last("whole")["loss"]


def stop_at(number: int) -> Any:
    def after_step(self: Watching, step: int, total_steps: int) -> None:
        if step == number:
            raise KeyboardInterrupt

    return after_step


def test_data_that_lacks_what_is_needed_is_refused_and_nothing_is_written(small, tmp_path):
    images = np.random.default_rng(0).random((60, 8, 8)).astype(np.float32)
    np.savez("bare.npz", images=images)
    with pytest.raises(ValueError, match="train: watching needs label of each sample, and npz:bare.npz has index; "):
        train("watching", "run", data="npz:bare.npz", say=lambda line: None)
    assert not Path("run").exists()


def trainer(**options: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **quiet, **options)


def one(*parts: Any) -> DataLoader:
    """A loader of one batch."""
    return DataLoader([parts], batch_size=None)


class Plain(SimCLR):
    needs = ("index",)

    def forward(self, views, index):
        assert index.dtype == torch.int64
        return super().forward(views)


def test_a_loader_of_one_s_own_brings_it_in_a_dictionary_at_the_end():
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    views = torch.rand(8, 1, 8, 8), torch.rand(8, 1, 8, 8)
    module = LitMethod(Plain(backbone, feature_dim=8, projection_dim=4))
    trainer().fit(module, one(views, torch.zeros(8), {"index": torch.arange(8)}))
    assert len(module.losses) == 1
    for batch in ((views, {"label": torch.arange(8)}), (views, torch.arange(8))):
        with pytest.raises(ValueError, match="the method needs index of each sample and the batch ends in .*; pass a"):
            trainer().fit(LitMethod(Plain(backbone, feature_dim=8, projection_dim=4)), one(*batch))


class Preparing(SimCLR):
    def before_epoch(self, embed, epoch, epochs):
        self.features_of_all = embed()


def test_features_of_all_samples_need_a_datamodule_that_has_them():
    from sslkernels.data import TwoViews
    from sslkernels.training.loader import Batches

    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    module = LitMethod(Preparing(backbone, feature_dim=8, projection_dim=4), views=TwoViews(1, (8, 8)))
    with pytest.raises(ValueError, match="LitMethod: Preparing prepares an epoch by the features of all training samp"):
        trainer().fit(module, [torch.rand(8, 1, 8, 8)])
    dataset = load("digits")
    before = encode(backbone, dataset.inputs)
    trainer(limit_train_batches=1).fit(module, Batches(dataset, 64, 0))
    assert torch.equal(module.method.features_of_all, before)


@pytest.mark.parametrize("method", ["simclr", "byol", "mae"])
def test_autocast_to_bfloat16_gives_nearly_the_same_losses(small, method):
    options = {"data": "npz:small.npz", "epochs": 1, "batch_size": 16, "say": lambda line: None}
    exact = train(method, "exact", **options)["loss"]
    rounded = train(method, "rounded", precision="bf16-mixed", **options)["loss"]
    assert rounded != exact and rounded[0] == pytest.approx(exact[0], rel=0.02)
