# SPDX-License-Identifier: Apache-2.0
"""Continues a run: what it takes from its checkpoint, and what must agree with it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from sslkernels.data import Dataset, Pictures, load
from sslkernels.modules import Remembering
from sslkernels.training.checkpoint import digest, read_checkpoint
from sslkernels.training.config import TrainConfig

Fingerprint = dict[str, Any]
OLDEST = ("training images", "training labels", "test images", "test labels")


def load_data(config: TrainConfig, warn: Callable[[str], Any]) -> Dataset:
    """Load the data; ``warn`` is called with a sentence on what was left out of the files."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        dataset = load(config.data) if config.image_size is None else load(config.data, config.image_size)
    for each in caught:
        warn(str(each.message))
    return dataset


def shape_of(part: Any) -> tuple[int, ...]:
    """The shape of a tensor; other samples have a number."""
    return tuple(part.shape) if isinstance(part, (Tensor, Pictures)) else (len(part),)


def fingerprint(dataset: Dataset) -> Fingerprint:
    """Shape and digest of all that is known of the samples, wherever their files are; None for labels not there."""
    parts: dict[str, Any] = {
        "training images": dataset.inputs,
        "training labels": dataset.labels,
        "test images": dataset.test_inputs,
        "test labels": dataset.test_labels,
    }
    for name, values in {**dataset.extra, "partners": dataset.partners}.items():
        if values is not None:
            parts[f"{name} of training images"] = values
    return {name: None if part is None else [list(shape_of(part)), _digest(part)] for name, part in parts.items()}


def differences(dataset: Dataset, saved: Fingerprint) -> list[str]:
    """Say in which parts the data is not what was saved."""
    return [
        _change(name, saved.get(name), each)
        for name, each in fingerprint(dataset).items()
        # Versions before saved no more than images and labels.
        if (name in saved or name in OLDEST)
        and saved.get(name) != each
        and not _same_pixels(dataset, name, saved.get(name))
    ]


def _same_pixels(dataset: Dataset, name: str, saved: Any) -> bool:
    """Tell if pictures in files have the pixels that a version before saved, which held them all in memory."""
    part = {"training images": dataset.inputs, "test images": dataset.test_inputs}.get(name)
    if not isinstance(part, Pictures) or saved is None or saved[0] != list(part.shape):
        return False
    state = hashlib.sha256(f"tensor {torch.float32} {part.shape}:".encode())
    for images in part.batches(256):
        state.update(memoryview(images.reshape(-1).view(torch.uint8).numpy()))
    return state.hexdigest() == saved[1]


def _digest(part: Any) -> str:
    return part.digest() if isinstance(part, Pictures) else digest(part)


@dataclass(frozen=True)
class Resumed:
    """The checkpoint at ``path`` and the ``config`` in it."""

    path: Path
    config: TrainConfig
    checkpoint: dict[str, Any]

    @classmethod
    def read(cls, path: Path, method: str) -> Resumed:
        checkpoint = read_checkpoint(path, method)
        config = TrainConfig.from_saved(checkpoint["config"])
        if config is None:
            raise ValueError(
                f"train: {path} holds no configuration that this version reads; start anew with another --out."
            )
        return cls(path, config, checkpoint)

    @property
    def done(self) -> int:
        """The number of whole epochs that are done."""
        return self.checkpoint["epoch"] + 1

    @property
    def planned(self) -> int:
        return self.config.epochs

    def continued(self, options: dict[str, Any], warn: Callable[[str], Any]) -> tuple[TrainConfig, Dataset]:
        """The configuration with ``options`` over it, and its data, which must be the same as the checkpoint's."""
        config = self.config.continued(options, self.path)
        if config.epochs < self.done:
            raise ValueError(
                f"train: --epochs is {config.epochs} and {self.path} has {self.done} behind it; pass at least "
                f"{self.done}, or start anew with another --out."
            )
        try:
            dataset = load_data(config, warn)
        except FileNotFoundError as error:
            if options.get("data") is not None:
                raise
            raise FileNotFoundError(
                f"train: {self.path} was trained on {config.data}, which is not there any more; pass --data with the "
                "place that it has moved to."
            ) from error
        changed = differences(dataset, self.checkpoint["data"])
        if changed:
            # Only the first change is said: others follow from it, such as more labels for more images.
            raise ValueError(
                f"train: {config.data} is not what {self.path} was trained on: {changed[0]}; pass --data with "
                "the place of the old data, or start anew with another --out."
            )
        return config, dataset

    def check_fits(self, module: LightningModule) -> None:
        """Check that the checkpoint's weights fit ``module``, which a later version may build in another way."""
        saved, built = _shapes(self.checkpoint["state_dict"]), _shapes(module.state_dict())
        for path, part in module.named_modules():
            if isinstance(part, Remembering):  # it takes what it has not met yet, shape and all, from the checkpoint
                empty = [f"{path}.{name}" for name in part.remembered if getattr(part, name) is None]
                built |= {name: saved[name] for name in empty if name in saved}
        unlike = [name for name in saved.keys() | built.keys() if name not in built or saved.get(name) != built[name]]
        if unlike:
            raise ValueError(
                f"train: {self.path} and this version's {self.config.method} differ in {min(unlike)}; "
                "resume it with the version that wrote it."
            )


def _shapes(state: dict[str, Any]) -> dict[str, Any]:
    """The shapes of a state's tensors; other values, such as a teacher's step, have None."""
    return {name: getattr(value, "shape", None) for name, value in state.items()}


def _change(name: str, saved: Any, found: Any) -> str:
    if saved is None or found is None:
        return f"it has {'no' if found is None else 'now'} {name}"
    if saved[0] == found[0]:
        return f"other {name}, as many as before"
    (count, *size), (new_count, *new_size) = saved[0], found[0]
    if size == new_size:
        return f"{new_count} {name} where there were {count}"
    return f"{name} of {'x'.join(map(str, new_size))} where there were such of {'x'.join(map(str, size))}"


class FollowSchedule(Callback):
    """Sets the rate of the first step to this schedule's, since the checkpoint may have been written under another."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for each in trainer.lr_scheduler_configs:
            schedule = each.scheduler
            for group, lr, factor in zip(
                schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
            ):
                group["lr"] = lr * factor(schedule.last_epoch)
