# SPDX-License-Identifier: Apache-2.0
"""LitMethod under Lightning keeps steps and schedule, and a resumed one repeats every loss, its queue included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("lightning")

from lightning.pytorch import Callback, Trainer, seed_everything  # noqa: E402

from sslkernels import MemoryQueue  # noqa: E402
from sslkernels.data import Dataset, TwoViews  # noqa: E402
from sslkernels.evaluation import collapse_warning, feature_spread  # noqa: E402
from sslkernels.functional import info_nce  # noqa: E402
from sslkernels.methods import BYOL, SCE, Method, MoBY, MoCoV2, SimCLR  # noqa: E402
from sslkernels.models import DirectPred, ResNet, ViT  # noqa: E402
from sslkernels.training import LitMethod  # noqa: E402
from sslkernels.training.checkpoint import AtomicCheckpointIO, SaveLast  # noqa: E402
from sslkernels.training.loader import Batches  # noqa: E402
from sslkernels.training.optimizer import warmup_cosine  # noqa: E402

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


def of(images):
    """A data set of images alone."""
    return Dataset("images", "images", images, None, images, None)


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
    trainer.fit(module, Batches(of(images), 10, seed=3), ckpt_path=folder / "last.ckpt" if resume else None)
    return module


def test_resumed_losses_and_weights_are_those_of_one_run(tmp_path):
    whole = fit(tmp_path / "whole")
    fit(tmp_path / "parts", stop=2)
    torch.rand(7)  # the resumed process has drawn other random numbers
    resumed = fit(tmp_path / "parts", resume=True)
    assert len(whole.losses) == 20
    assert resumed.losses == whole.losses
    assert len(whole.feature_std) == len(whole.effective_rank) == 4
    assert (resumed.feature_std, resumed.effective_rank) == (whole.feature_std, whole.effective_rank)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


TAUGHT = {
    "moco_v2": lambda: MoCoV2(ResNet(1, (4,), (1,)), feature_dim=4, projection_dim=4, queue_size=33),
    "moby": lambda: MoBY(ResNet(1, (4,), (1,)), feature_dim=4, hidden_dim=8, projection_dim=4, queue_size=33),
    "sce": lambda: SCE(ResNet(1, (4,), (1,)), feature_dim=4, projection_dim=4, queue_size=33),
    "byol with DirectPred": lambda: BYOL(
        ResNet(1, (4,), (1,)), feature_dim=4, hidden_dim=8, projection_dim=4, predictor=DirectPred(4)
    ),
}


@pytest.mark.parametrize("name", TAUGHT)
def test_teachers_and_queues_resume_in_the_middle_of_a_lap(tmp_path, name):
    whole = fit(tmp_path / "whole", accumulate=2, method=TAUGHT[name])
    fit(tmp_path / "parts", stop=2, accumulate=2, method=TAUGHT[name])
    torch.rand(7)
    resumed = fit(tmp_path / "parts", accumulate=2, resume=True, method=TAUGHT[name])
    assert resumed.losses == whole.losses and len(whole.losses) == 12
    for key, value in whole.state_dict().items():
        same = (
            value == resumed.state_dict()[key]
            if isinstance(value, dict)
            else torch.equal(value, resumed.state_dict()[key])
        )
        assert same, key
    assert whole.method.teacher.step == 11  # it counts the optimizer's steps, not micro-batches
    if hasattr(whole.method, "queue"):
        assert int(whole.method.queue.position) == 4 * 50 % 33


def test_a_checkpoint_from_before_the_features_were_watched_resumes(tmp_path):
    whole = fit(tmp_path / "whole")
    fit(tmp_path / "parts", stop=2)
    path = tmp_path / "parts" / "last.ckpt"
    older = torch.load(path, weights_only=True)
    del older["feature_std"], older["effective_rank"]
    torch.save(older, path)
    resumed = fit(tmp_path / "parts", resume=True)
    assert resumed.losses == whole.losses
    assert resumed.feature_std == [None, *whole.feature_std[1:]]  # a run that is stopped early does not save its epoch
    assert resumed.effective_rank == [None, *whole.effective_rank[1:]]


class Counting(Queued):
    """Counts its micro-batches in a figure."""

    def forward(self, views):
        self.seen = getattr(self, "seen", -1) + 1
        return {**super().forward(views), "seen": torch.tensor(self.seen), "first": torch.tensor(float(self.seen == 0))}


def test_figures_of_a_method_are_kept_for_every_epoch(tmp_path):
    whole = fit(tmp_path / "whole", method=Counting)
    assert [each["seen"] for each in whole.figures] == [2, 7, 12, 17]
    assert [each["first"] for each in whole.figures] == pytest.approx([0.2, 0, 0, 0])
    fit(tmp_path / "parts", stop=2, method=Counting)
    resumed = fit(tmp_path / "parts", resume=True, method=Counting)
    assert resumed.figures[0] == whole.figures[0] and len(resumed.figures) == 4
    path = tmp_path / "parts" / "last.ckpt"
    older = torch.load(path, weights_only=True)
    del older["figures"]
    torch.save(older, path)
    assert fit(tmp_path / "parts", epochs=5, resume=True, method=Counting).figures[:4] == [{}] * 4


class Disturbed(ResNet):
    """Draws random numbers even in evaluation, where its last part is frozen, and keeps the images that it saw."""

    def __init__(self):
        super().__init__(1, (4,), (1,))
        self.last = nn.BatchNorm1d(4)
        self.train()

    def train(self, mode=True):
        super().train(mode)
        self.last.eval()
        return self

    def forward(self, images):
        if not self.training:
            self.seen = images
        return self.last(super().forward(images)) + 1e-3 * torch.rand(())


class Watched(SimCLR):
    def __init__(self):
        super().__init__(Disturbed(), feature_dim=4)

    def forward(self, views):
        assert self.backbone.training and not self.backbone.last.training
        return super().forward(views)


def test_watching_the_features_changes_nothing(tmp_path, monkeypatch):
    watched = fit(tmp_path / "watched", epochs=3, method=Watched)
    monkeypatch.setattr(LitMethod, "_watch_features", lambda self: None)
    alone = fit(tmp_path / "alone", epochs=3, method=Watched)
    assert watched.losses == alone.losses
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert alone.feature_std == [] and len(watched.feature_std) == 3


def test_what_is_watched_is_the_backbone_on_the_last_first_views(tmp_path):
    class Kept(Watched):
        def forward(self, views):
            self.first = views[0]
            return super().forward(views)

    module = fit(tmp_path, epochs=1, method=Kept)
    backbone = module.method.backbone.eval()
    assert torch.equal(backbone.seen, module.method.first)
    with torch.no_grad():
        spread = feature_spread(backbone(module.method.first))
    assert (module.feature_std[-1], module.effective_rank[-1]) == pytest.approx(spread, rel=1e-2)


class Alike(Method):
    """Asks two views for the same features, and lets nothing keep those of two images apart."""

    def __init__(self):
        super().__init__(ViT((8, 8), 4, 1, width=16, depth=1, heads=2))

    def forward(self, views):
        z0, z1 = map(self.backbone, views)
        return {"loss": (z0 - z1).square().mean() + (z0 - z1.mean(0)).square().mean()}


@pytest.mark.slow
def test_features_that_collapse_are_warned_of_and_others_not(tmp_path):
    collapsed = fit(tmp_path / "alike", epochs=30, method=Alike)
    assert collapse_warning(collapsed.feature_std, collapsed.effective_rank)
    sound = fit(tmp_path / "sound", epochs=30, method=lambda: SimCLR(ResNet(1, (4,), (1,)), feature_dim=4))
    assert collapse_warning(sound.feature_std, sound.effective_rank) is None


def test_an_epoch_may_end_before_its_last_batch(tmp_path):
    module = LitMethod(SimCLR(ResNet(1, (4,), (1,)), feature_dim=4))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*torch.rand(2, 8, 1, 8, 8)), batch_size=2)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_steps=3, enable_model_summary=False, default_root_dir=tmp_path, **quiet)
    trainer.fit(module, loader)
    assert len(module.losses) == 3 and len(module.feature_std) == 1


def test_seed_decides_the_run(tmp_path):
    assert fit(tmp_path / "a", epochs=1).losses == fit(tmp_path / "b", epochs=1).losses


def test_after_step_runs_once_per_optimizer_step(tmp_path):
    module = fit(tmp_path, epochs=2, accumulate=2)
    # An epoch has five batches: two pairs, and one that is left.
    assert module.method.calls == [(step, 6) for step in range(6)]
    assert len(module.losses) == 6
    assert module.trainer.optimizers[0].param_groups[0]["lr"] < 1e-4  # the schedule counts them too


def test_every_epoch_has_its_own_order():
    batches = Batches(of(torch.arange(20.0)[:, None]), 5, seed=0)
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
    module.trainer = type("", (), {"estimated_stepping_batches": 10, "gradient_clip_val": None})()
    decayed, kept = module.configure_optimizers()["optimizer"].param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0)
    assert {weight.dim() for weight in decayed["params"]} == {2, 4}
    assert len(decayed["params"]) + len(kept["params"]) == len(list(method.parameters()))
