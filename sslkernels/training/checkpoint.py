# SPDX-License-Identifier: Apache-2.0
"""The checkpoint of a run: written whole or not at all, read without unpickling code, and the random state in it."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from sslkernels.evaluation.collapse import Spread
from sslkernels.files import write_atomically

FORMAT = 1
NAME = "last.ckpt"
PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "random_states", "loss", "config")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint under a temporary name, then renamed, with ``stamp`` (format, method, config) in it."""

    def __init__(self, stamp: dict[str, Any]) -> None:
        super().__init__()
        self.stamp = stamp

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), partial(torch.save, {**checkpoint, **self.stamp}))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return torch.load(path, map_location=map_location, weights_only=True)


class SaveLast(Checkpoint):
    """Saves ``last.ckpt`` after each epoch of finite losses: as a `Checkpoint` it runs after the module's epoch end."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / NAME

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.should_stop:
            trainer.save_checkpoint(self.path)


def read_checkpoint(path: Path, method: str) -> dict[str, Any]:
    """The checkpoint at ``path`` if it is a whole one of ``method``; a ValueError that says what it is otherwise."""
    if not path.is_file():
        raise FileNotFoundError(f"train: --resume came and {path} does not exist; pass the --out of an earlier run.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(f"train: {path} is truncated or not a checkpoint; start anew with another --out.") from error
    if not isinstance(checkpoint, dict) or "format" not in checkpoint:
        raise ValueError(f"train: {path} is not a checkpoint of sslkernels train; start anew with another --out.")
    if checkpoint["format"] != FORMAT:
        raise ValueError(
            f"train: {path} has format {checkpoint['format']} and this version reads format {FORMAT}; "
            "resume it with the version that wrote it."
        )
    if checkpoint.get("method") != method:
        raise ValueError(
            f"train: {path} is a checkpoint of method {checkpoint.get('method')!r}, not {method!r}; "
            "train that method, or start anew with another --out."
        )
    missing = [part for part in PARTS if part not in checkpoint]
    if missing:
        raise ValueError(f"train: {path} lacks {', '.join(missing)}; start anew with another --out.")
    return checkpoint


def saved_spread(checkpoint: dict[str, Any]) -> dict[str, list[float | None]]:
    """``feature_std`` and ``effective_rank`` of every epoch; None where the checkpoint is older than they are."""
    unknown = [None] * (checkpoint["epoch"] + 1)
    return {name: list(checkpoint.get(name, unknown)) for name in Spread._fields}


def random_state() -> dict[str, Any]:
    """The state of torch's, NumPy's and Python's generators, in types that load without unpickling code."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),  # type: ignore[union-attr]
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
