# SPDX-License-Identifier: Apache-2.0
"""LitMethod under Lightning: steps, schedule, and a resume that repeats every loss, queue included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("lightning")

from lightning.pytorch import Callback, Trainer, seed_everything  # noqa: E402

from sslkernels import MemoryQueue  # noqa: E402
from sslkernels.data import TwoViews  # noqa: E402
from sslkernels.functional import info_nce  # noqa: E402
from sslkernels.methods import Method, SimCLR  # noqa: E402
from sslkernels.models import ResNet  # noqa: E402
from sslkernels.training import LitMethod  # noqa: E402
from sslkernels.training.checkpoint import AtomicCheckpointIO, SaveLast  # noqa: E402
from sslkernels.training.loader import ImageBatches  # noqa: E402
from sslkernels.training.module import warmup_cosine  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Queued(Method):
    """A method with a queue that moves after each step, and a dropout that draws random numbers."""

    def __init__(self):
        super().__init__(ResNet(1, (4,), (1,)))
        self.queue = MemoryQueue(40, 4)
        self.dropout = nn.Dropout(0.2)
        self.calls = []

    def forward(self, views):
        query, self.newest = (self.dropout(self.backbone(view)) for view in views)
        return {"loss": info_nce(query, self.newest, negatives=self.queue.keys)}

    def after_step(self, step, total_steps):
        self.calls.append((step, total_steps))
        self.queue.enqueue(self.newest.detach())


class StopAfter(Callback):
    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def fit(folder, *, epochs=4, stop=99, accumulate=1, resume=False, method=Queued):
    seed_everything(3)
    images = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    module = LitMethod(method(), views=TwoViews(1, (8, 8)), lr=1e-2)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        callbacks=[StopAfter(stop), SaveLast(folder)],
        plugins=[AtomicCheckpointIO({"format": 1})],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, ImageBatches(images, 10, seed=3), ckpt_path=folder / "last.ckpt" if resume else None)
    return module


def test_resumed_losses_and_weights_are_those_of_one_run(tmp_path):
    whole = fit(tmp_path / "whole")
    fit(tmp_path / "parts", stop=2)
    torch.rand(7)  # the resumed process stands elsewhere in its random numbers
    resumed = fit(tmp_path / "parts", resume=True)
    assert len(whole.losses) == 20
    assert resumed.losses == whole.losses
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_seed_decides_the_run(tmp_path):
    assert fit(tmp_path / "a", epochs=1).losses == fit(tmp_path / "b", epochs=1).losses


def test_after_step_runs_once_per_optimizer_step(tmp_path):
    module = fit(tmp_path, epochs=2, accumulate=2)
    # Five batches an epoch: two pairs and the one that is left.
    assert module.method.calls == [(step, 6) for step in range(6)]
    assert len(module.losses) == 6
    assert module.trainer.optimizers[0].param_groups[0]["lr"] < 1e-4  # so does the schedule


def test_every_epoch_has_its_own_order():
    batches = ImageBatches(torch.arange(20.0)[:, None], 5, seed=0)
    loader = batches.train_dataloader()
    loader.sampler.set_epoch(0)
    first = torch.cat(list(loader)).flatten().tolist()
    loader.sampler.set_epoch(1)
    second = torch.cat(list(loader)).flatten().tolist()
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


def test_views_may_come_from_the_loader(tmp_path):
    module = LitMethod(SimCLR(ResNet(1, (4,), (1,)), feature_dim=4))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*torch.rand(2, 8, 1, 8, 8)), batch_size=4)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, loader)
    assert len(module.losses) == 2


def test_schedule_warms_up_then_falls_to_zero():
    factors = [warmup_cosine(step, 200) for step in range(201)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1
    assert factors[105] == pytest.approx(0.5)
    assert factors[200] == pytest.approx(0)
    assert all(later < earlier for earlier, later in zip(factors[10:], factors[11:], strict=False))
    assert warmup_cosine(0, 1) == 1


def test_biases_and_norms_are_not_decayed():
    method = SimCLR(ResNet(1, (4,), (1,)), feature_dim=4)
    module = LitMethod(method, weight_decay=0.1)
    module.trainer = type("", (), {"estimated_stepping_batches": 10})()
    decayed, kept = module.configure_optimizers()["optimizer"].param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0)
    assert {weight.dim() for weight in decayed["params"]} == {2, 4}
    assert len(decayed["params"]) + len(kept["params"]) == len(list(method.parameters()))
