# SPDX-License-Identifier: Apache-2.0
"""Computes features of images with a frozen backbone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sslkernels.arguments import check_module, check_tensor, shape_of
from sslkernels.data import Dataset, Inputs, Pictures

BATCH = 256
# Samples of training, and of tests, that are evaluated where they do not fit in memory.
MOST = 10_000


@torch.no_grad()
def encode(backbone: nn.Module, inputs: Inputs) -> Tensor:
    """Compute features ``(N, D)`` of samples in evaluation mode, as float32 on the CPU.

    ``backbone`` must give a tensor with a row for each sample. ``inputs`` are images ``(N, C, H, W)``, or whatever it
    takes by rows; see `sslkernels.data.Inputs`.
    """
    return encoded("encode", backbone, "inputs", inputs)


@torch.no_grad()
def encoded(function: str, backbone: nn.Module, name: str, inputs: Inputs) -> Tensor:
    """Do what `encode` does; errors have the names that the caller knows."""
    device = _device(function, backbone, inputs, name)
    with _modes_kept(backbone):
        backbone.eval()
        return torch.cat([_rows(function, backbone(batch.to(device)), len(batch)) for batch in _batches(inputs)])


def _rows(function: str, output: object, count: int) -> Tensor:
    """Check what a backbone gives for so many samples, and move it to the CPU as float32."""
    if isinstance(output, Tensor) and output.dim() and len(output) == count:
        return output.float().cpu()
    if isinstance(output, Tensor):
        raise ValueError(
            f"{function}: backbone gives shape {shape_of(output)} for {count} samples; pass one that gives (N, D), a "
            "row for each sample."
        )
    raise TypeError(
        f"{function}: backbone gives a {type(output).__name__}; pass one that gives a tensor (N, D), such as a "
        "module around it that takes the features out."
    )


@torch.no_grad()
def calibrate_batchnorm(backbone: nn.Module, inputs: Inputs) -> None:
    """Set BatchNorm's running statistics to those of ``inputs`` by forward passes.

    An untrained encoder has none and looks worse than it is; a trained one has those of augmented views.
    """
    device = _device("calibrate_batchnorm", backbone, inputs)
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    before = [copy.deepcopy(norm.state_dict()) for norm in norms]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # None takes the plain average over all batches
        with _modes_kept(backbone):
            backbone.train()
            for batch in _large_batches(inputs):
                backbone(batch.to(device))
    except BaseException:
        for norm, state in zip(norms, before, strict=True):
            norm.load_state_dict(state)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _batches(inputs: Inputs) -> Iterator[Any]:
    if isinstance(inputs, Pictures):
        yield from inputs.batches(BATCH)
        return
    for start in range(0, len(inputs), BATCH):
        yield inputs[start : start + BATCH]


def _large_batches(inputs: Inputs) -> Iterator[Any]:
    """As `_batches`, but a rest of less than half a batch joins the one before.

    The statistics of a few samples would count as much as those of all others, and BatchNorm has none of one.
    """
    count = len(inputs)
    rest = count % BATCH
    last = count - rest - BATCH
    if last < 0 or not 0 < rest < BATCH // 2:
        yield from _batches(inputs)
    elif isinstance(inputs, Pictures):
        if last:
            yield from inputs.only(torch.arange(last)).batches(BATCH)
        yield from inputs.only(torch.arange(last, count)).batches(BATCH + rest)
    else:
        for start in range(0, last, BATCH):
            yield inputs[start : start + BATCH]
        yield inputs[last:]


def evaluated(dataset: Dataset) -> Dataset:
    """The samples that an evaluation sees: of pictures that stay in their files, at most `MOST`, drawn once for all."""
    inputs, labels, extra = _drawn(dataset.inputs, dataset.labels, dataset.extra)
    test_inputs, test_labels, test_extra = _drawn(dataset.test_inputs, dataset.test_labels, dataset.test_extra)
    return replace(
        dataset,
        inputs=inputs,
        labels=labels,
        test_inputs=test_inputs,
        test_labels=test_labels,
        extra=extra,
        test_extra=test_extra,
        partners=dataset.partners if inputs is dataset.inputs else None,  # some of them may be left out
    )


def _drawn(
    inputs: Any, labels: Tensor | None, extra: Mapping[str, Tensor]
) -> tuple[Any, Tensor | None, Mapping[str, Tensor]]:
    if not isinstance(inputs, Pictures) or len(inputs) <= MOST:
        return inputs, labels, extra
    rows = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))[:MOST].sort().values
    known = {name: values[rows] for name, values in extra.items()}
    return inputs.only(rows), None if labels is None else labels[rows], known


@contextmanager
def _modes_kept(backbone: nn.Module) -> Iterator[None]:
    """Restore the mode of every part afterwards, so that a frozen part stays frozen."""
    modes = {module: module.training for module in backbone.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _device(function: str, backbone: nn.Module, inputs: Inputs, name: str = "inputs") -> torch.device:
    """The backbone's device, or the CPU if it has no parameters."""
    check_module(function, "backbone", backbone)
    if isinstance(inputs, (Tensor, np.ndarray, list, tuple, str, bytes, dict)) or not hasattr(inputs, "__getitem__"):
        rows = check_tensor(function, name, inputs, "(N, ...), or other samples that are taken by rows")
        if rows.dim() < 2 or not len(rows):
            raise ValueError(f"{function}: {name} has shape {shape_of(rows)}; pass at least one sample, (N, ...).")
    if not len(inputs):
        raise ValueError(f"{function}: {name} has no sample; pass at least one.")
    first = next(backbone.parameters(), None)
    return torch.device("cpu") if first is None else first.device
