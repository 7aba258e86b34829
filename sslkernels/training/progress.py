# SPDX-License-Identifier: Apache-2.0
"""Shows how far a run is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sslkernels.terminal import say

LINES = 10
ENGINE_LOGGERS = ("lightning.pytorch", "lightning.fabric", "torch.multiprocessing.spawn")


def hush() -> None:
    """Silence what the engine says of devices, workers and itself; errors and other warnings come through."""
    for name in ENGINE_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")


class ShowProgress(Callback):
    """Shows the epochs done, the loss, and the time that is left."""

    def __init__(self) -> None:
        self.bar: Progress | None = None
        self.task: Any = None
        self.started = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size > 1:  # this process is new, and its engine is not silenced yet
            hush()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.monotonic()
        console = Console()
        if not trainer.is_global_zero or not console.is_terminal:
            return
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("epochs, loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self.task = self.bar.add_task("", total=trainer.max_epochs, completed=trainer.current_epoch, loss="...")
        self.bar.start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done, total = trainer.current_epoch + 1, trainer.max_epochs or 0
        loss = f"{float(trainer.callback_metrics['loss']):.4f}"
        if self.bar is not None:
            self.bar.update(self.task, completed=done, loss=loss)
        elif trainer.is_global_zero and (done == total or done * LINES // total > (done - 1) * LINES // total):
            say(f"epoch {done}/{total}  loss {loss}  {time.monotonic() - self.started:.0f} s")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bar is not None:
            self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)
