# SPDX-License-Identifier: Apache-2.0
"""Gradients are clipped and the weight decay rises as a loop written out here has it, and a resumed run goes on so."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

pytest.importorskip("lightning")

from lightning.pytorch import Callback, Trainer  # noqa: E402

from sslkernels.methods import Method, SimCLR  # noqa: E402
from sslkernels.models import ResNet  # noqa: E402
from sslkernels.training import LitMethod, run, train  # noqa: E402
from sslkernels.training.checkpoint import AtomicCheckpointIO, SaveLast  # noqa: E402
from sslkernels.training.config import TrainConfig  # noqa: E402

STEPS, CLIP, FIRST, LAST, LR = 6, 0.05, 0.5, 5.0, 1e-2
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


class Line(Method):
    """Two linear maps, the second of which stands still in the first two steps."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 4))
        self.second = nn.Linear(4, 4, bias=False)

    def forward(self, views: list[Tensor]) -> dict[str, Tensor]:
        return {"loss": (self.second(self.backbone(views[0])) - views[1]).square().mean()}

    def before_step(self, step: int, total_steps: float) -> None:
        if step < 2:
            self.second.weight.grad = None


def batches() -> list[list[Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [[torch.randn(8, 4, generator=draw), torch.randn(8, 4, generator=draw)] for _ in range(STEPS)]


def by_hand() -> dict[str, Tensor]:
    torch.manual_seed(0)
    method = Line()
    weights = [method.backbone.weight, method.second.weight]
    optimizer = torch.optim.AdamW([{"params": weights}, {"params": [method.backbone.bias], "weight_decay": 0.0}])
    for step, views in enumerate(batches()):
        method.zero_grad()
        method(views)["loss"].backward()
        method.before_step(step, STEPS)
        given = [weight.grad for weight in method.parameters() if weight.grad is not None]
        norm = math.sqrt(sum(grad.square().sum().item() for grad in given))
        assert norm > CLIP
        for grad in given:
            grad *= CLIP / norm
        done = (1 - math.cos(math.pi * step / STEPS)) / 2
        optimizer.param_groups[0]["weight_decay"] = FIRST + (LAST - FIRST) * done
        for group in optimizer.param_groups:
            # One step of warm-up, then half a cosine.
            group["lr"] = LR * (0.5 * (1 + math.cos(math.pi * (step - 1) / (STEPS - 1))) if step else 1.0)
        optimizer.step()
    return method.state_dict()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_under_lightning_is_the_loop_written_out(accumulate: int) -> None:
    torch.manual_seed(0)
    module = LitMethod(Line(), lr=LR, weight_decay=FIRST, final_weight_decay=LAST)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, gradient_clip_val=CLIP, accumulate_grad_batches=accumulate, **QUIET
    )
    halves = [[part[half] for part in views] for views in batches() for half in (slice(0, 4), slice(4, 8))]
    trainer.fit(module, DataLoader(batches() if accumulate == 1 else halves, batch_size=None))
    for name, value in by_hand().items():
        torch.testing.assert_close(module.method.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_sixteen_bits_are_clipped_too() -> None:
    module = LitMethod(SimCLR(ResNet(1, (4,), (1,)), feature_dim=4, projection_dim=4))
    trainer = Trainer(accelerator="cpu", max_epochs=1, gradient_clip_val=1.0, precision="bf16-mixed", **QUIET)
    trainer.fit(module, DataLoader([[torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8)]], batch_size=None))
    assert len(module.losses) == 1


class StopAfterTwo(Callback):
    """Ends a run after its second epoch, which is not saved then."""

    def on_train_epoch_end(self, trainer: Trainer, module: LitMethod) -> None:
        trainer.should_stop = trainer.current_epoch == 1


def three_epochs(folder: Path, *more: Callback, resume: bool = False) -> LitMethod:
    torch.manual_seed(0)
    module = LitMethod(Line(), lr=LR, weight_decay=FIRST, final_weight_decay=LAST)
    trainer = Trainer(
        accelerator="cpu", max_epochs=3, gradient_clip_val=CLIP, callbacks=[*more, SaveLast(folder)],
        plugins=[AtomicCheckpointIO({"format": 1})], **{**QUIET, "enable_checkpointing": True},
    )  # fmt: skip
    path = folder / "last.ckpt" if resume else None
    trainer.fit(module, DataLoader(batches(), batch_size=None), ckpt_path=path)
    return module


def test_a_resumed_run_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    whole = three_epochs(tmp_path / "whole")
    three_epochs(tmp_path / "parts", StopAfterTwo())
    resumed = three_epochs(tmp_path / "parts", resume=True)
    assert resumed.losses == whole.losses and len(whole.losses) == 3 * STEPS
    groups = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    expected = LAST - (LAST - FIRST) * (1 + math.cos(math.pi * (3 * STEPS - 1) / (3 * STEPS))) / 2
    assert (groups[0]["weight_decay"], groups[1]["weight_decay"]) == (pytest.approx(expected), 0)


class Asked(Exception):
    """What a run would have begun with."""


def test_the_options_of_a_run_reach_trainer_and_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(**options: object) -> None:
        raise Asked(options["gradient_clip_val"], made[0].weight_decay, made[0].final_weight_decay)

    made: list[LitMethod] = []
    monkeypatch.setattr(run, "LitMethod", lambda *given, **more: made.append(LitMethod(*given, **more)) or made[0])
    monkeypatch.setattr(run, "Trainer", stop)
    options = {"weight_decay": 0.1, "final_weight_decay": 0.3, "clip_gradients": 2.0, "threads": 1, "epochs": 1}
    with pytest.raises(Asked) as asked:
        train("simclr", tmp_path / "run", say=lambda line: None, **options)
    assert asked.value.args == (2.0, 0.1, 0.3)


def test_papers_numbers_are_taken_and_an_older_checkpoint_had_none() -> None:
    paper = TrainConfig.from_options("dino", {}, paper=True)
    assert (paper.weight_decay, paper.final_weight_decay, paper.clip_gradients) == (0.04, 0.4, 3.0)
    saved = TrainConfig.from_options("dino", {}).saved()
    for name in ("weight_decay", "final_weight_decay", "clip_gradients"):
        del saved[name]
    old = TrainConfig.from_saved(saved)
    assert old is not None
    assert (old.weight_decay, old.final_weight_decay, old.clip_gradients) == (1e-4, None, None)
    with pytest.raises(ValueError, match="^train: --clip-gradients is 2.0 and last.ckpt was trained with None;"):
        old.continued({"clip_gradients": 2.0}, "last.ckpt")
