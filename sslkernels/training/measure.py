# SPDX-License-Identifier: Apache-2.0
"""Measures a training step on one backend and on another: time, the loss's and the update's part of it, memory."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from sslkernels.methods import Method
from sslkernels.peak_memory import peak_memory
from sslkernels.terms import Term
from sslkernels.training.optimizer import WEIGHT_DECAY, optimizer_and_schedule

REPEATS = 10
LOSS_REPEATS = 50
WARMUPS = 3
# Schedules are told of so many steps. Late updates move a teacher less; the measured ones are the first.
TOTAL = 10**6
LR = 1e-3
# Steps that no measurement has taken: a teacher moves once in each.
BEYOND = 10_000
# Large images take long: after so many seconds no further repeats are made, beyond the fewest.
SECONDS, LEAST = 20.0, 3


@dataclass(frozen=True)
class StepCost:
    """Medians of one training step: views, forward, backward, optimizer, update.

    The loss is timed forward and backward. The update is `Method.after_step`, which moves teachers and queues; its
    numbers are None if the method has none.
    """

    images_per_second: float
    loss_milliseconds: float
    loss_share: float
    update_milliseconds: float | None
    update_share: float | None
    peak_memory_bytes: int | None


def step_costs(
    method: Method,
    views: nn.Module,
    images: Tensor,
    backends: Sequence[str],
    autocast: torch.dtype | None,
    given: Mapping[str, Tensor] | None = None,
) -> dict[str, StepCost]:
    """Measure a step on ``images`` with each of ``backends``, by turns in this process, on copies of ``method``.

    ``given`` holds what the method needs of the images besides.
    """
    return costs_of({name: on_backend(method, name) for name in backends}, views, images, autocast, given)


def costs_of(
    methods: Mapping[str, Method],
    views: nn.Module,
    images: Tensor,
    autocast: torch.dtype | None,
    given: Mapping[str, Tensor] | None = None,
) -> dict[str, StepCost]:
    """Measure a step of each of ``methods``, by turns in this process; see `step_costs`.

    They are trained on meanwhile: a copy of a head of 8,192 features would be half a gigabyte.
    """
    device, given = images.device, given or {}
    steps = {name: training_step(method, views, images, given, autocast) for name, method in methods.items()}
    step_seconds = _interleaved(steps, REPEATS, device)
    peaks = {name: [peak_memory(steps[name], device) for _ in range(3)] for name in methods}
    steps.clear()  # the optimizers go with them
    losses = {name: _loss(method, views, images, given, autocast) for name, method in methods.items()}
    loss_seconds = _interleaved(losses, LOSS_REPEATS, device)
    losses.clear()
    update_seconds = _update_seconds(methods, views, images, given, autocast)
    return {
        name: StepCost(
            images_per_second=len(images) / step_seconds[name],
            loss_milliseconds=1e3 * loss_seconds[name],
            loss_share=loss_seconds[name] / step_seconds[name],
            update_milliseconds=1e3 * update_seconds[name] if update_seconds else None,
            update_share=update_seconds[name] / step_seconds[name] if update_seconds else None,
            peak_memory_bytes=None if None in peaks[name] else median(peaks[name]),  # type: ignore[type-var]
        )
        for name in methods
    }


def on_backend(method: Method, backend: str) -> Method:
    """Copy the method onto ``backend``, in training mode and without other ranks."""
    copied = copy.deepcopy(method).train()
    for module in copied.modules():
        # Teachers and queues choose their backend themselves.
        if isinstance(module, (Method, Term)) or (backend == "reference" and hasattr(module, "backend")):
            module.backend = backend
        if isinstance(module, (Method, Term)):
            module.group = None
    return copied


def training_step(
    method: Method, views: nn.Module, images: Tensor, given: Mapping[str, Tensor], autocast: torch.dtype | None
) -> Callable[[], None]:
    optimizer, _ = optimizer_and_schedule(method, LR, WEIGHT_DECAY, TOTAL)
    numbers = itertools.count()  # a teacher would not move twice in the same step

    def step() -> None:
        with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
            loss = method(views(images), **given)["loss"]
        loss.backward()
        number = next(numbers)
        method.before_step(number, TOTAL)
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(number, TOTAL)

    return step


def _loss(
    method: Method, views: nn.Module, images: Tensor, given: Mapping[str, Tensor], autocast: torch.dtype | None
) -> Callable[[], None]:
    with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
        embeddings = [
            rows.detach().requires_grad_(rows.requires_grad) for rows in method(views(images), **given)["embeddings"]
        ]
    trained = [rows for rows in embeddings if rows.requires_grad]

    def loss() -> None:
        with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
            value = method.loss(*embeddings)
        # A method gives the rows of all its terms, and those of a term whose weight is 0 meet no loss.
        torch.autograd.grad(value, trained, allow_unused=True)

    return loss


def _update_seconds(
    methods: Mapping[str, Method],
    views: nn.Module,
    images: Tensor,
    given: Mapping[str, Tensor],
    autocast: torch.dtype | None,
) -> dict[str, float]:
    """Time `Method.after_step`; the result is empty if the methods have none of their own."""
    if not all(method.moves for method in methods.values()):
        return {}
    forwards = {name: _forward(method, views, images, given, autocast) for name, method in methods.items()}
    updates = {name: _update(method) for name, method in methods.items()}
    return _interleaved(updates, REPEATS, images.device, before=forwards)


def _forward(
    method: Method, views: nn.Module, images: Tensor, given: Mapping[str, Tensor], autocast: torch.dtype | None
) -> Callable[[], None]:
    """Make the forward pass that an update needs: a queue takes the keys of the last batch."""

    @torch.no_grad()
    def forward() -> None:
        with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
            method(views(images), **given)

    return forward


def _update(method: Method) -> Callable[[], None]:
    numbers = itertools.count(BEYOND)
    return lambda: method.after_step(next(numbers), TOTAL)


def _interleaved(
    calls: dict[str, Callable[[], None]],
    repeats: int,
    device: torch.device,
    before: dict[str, Callable[[], None]] | None = None,
) -> dict[str, float]:
    """Median seconds of ``calls``, made by turns. Before each, its call in ``before`` is made and not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    for repeat in range(WARMUPS + repeats):
        if repeat >= LEAST and time.perf_counter() - begun > SECONDS and all(seconds.values()):
            break
        for name, call in calls.items():
            if before is not None:
                before[name]()
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
