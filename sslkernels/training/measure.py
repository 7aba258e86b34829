# SPDX-License-Identifier: Apache-2.0
"""What a whole training step costs with one backend and with another: time, the loss's part of it, memory."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from sslkernels.memory import peak_memory
from sslkernels.methods import Method
from sslkernels.state import EMA, MemoryQueue

REPEATS = 10
LOSS_REPEATS = 50
WARMUPS = 3
# Large images: fewer, once this much time has gone.
SECONDS, LEAST = 20.0, 3
# Of a training that would go on, so that a teacher's momentum stays below 1.
MANY_STEPS = 1_000_000


@dataclass(frozen=True)
class StepCost:
    """Medians of one training step: views, forward, backward, optimizer. The loss is timed forward and backward."""

    images_per_second: float
    loss_milliseconds: float
    loss_share: float
    peak_memory_bytes: int | None


def step_costs(
    method: Method, views: nn.Module, images: Tensor, backends: Sequence[str], autocast: torch.dtype | None
) -> dict[str, StepCost]:
    """Costs of a step on ``images`` with each of ``backends``, in turn in this process, on copies of ``method``."""
    device = images.device
    steps = {name: _step(_copy(method, name), views, images, autocast) for name in backends}
    losses = {name: _loss(_copy(method, name), views, images, autocast) for name in backends}
    step_seconds = _interleaved(steps, REPEATS, device)
    loss_seconds = _interleaved(losses, LOSS_REPEATS, device)
    peaks = {name: [peak_memory(steps[name], device) for _ in range(3)] for name in backends}
    return {
        name: StepCost(
            images_per_second=len(images) / step_seconds[name],
            loss_milliseconds=1e3 * loss_seconds[name],
            loss_share=loss_seconds[name] / step_seconds[name],
            peak_memory_bytes=None if None in peaks[name] else median(peaks[name]),  # type: ignore[type-var]
        )
        for name in backends
    }


def _copy(method: Method, backend: str) -> Method:
    copied = copy.deepcopy(method).train()
    for module in copied.modules():
        if isinstance(module, (Method, EMA, MemoryQueue)):
            module.backend = backend
    copied.group = None
    return copied


def _step(method: Method, views: nn.Module, images: Tensor, autocast: torch.dtype | None) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(method.parameters())
    steps = itertools.count()

    def step() -> None:
        with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
            loss = method(views(images))["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(next(steps), MANY_STEPS)

    return step


def _loss(method: Method, views: nn.Module, images: Tensor, autocast: torch.dtype | None) -> Callable[[], None]:
    with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
        embeddings = [rows.detach().requires_grad_(rows.requires_grad) for rows in method(views(images))["embeddings"]]
    trained = [rows for rows in embeddings if rows.requires_grad]

    def loss() -> None:
        with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
            value = method.loss(*embeddings)
        torch.autograd.grad(value, trained)

    return loss


def _interleaved(calls: dict[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    for repeat in range(WARMUPS + repeats):
        if repeat >= LEAST and time.perf_counter() - begun > SECONDS and all(seconds.values()):
            break
        for name, call in calls.items():
            _wait(device)
            start = time.perf_counter()
            call()
            _wait(device)
            if repeat >= WARMUPS:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
