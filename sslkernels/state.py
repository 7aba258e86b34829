# SPDX-License-Identifier: Apache-2.0
"""Modules whose state is saved: the teacher that follows a student, and the queue of keys."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sslkernels.arguments import check_choice, check_number, check_rows, check_size, is_whole, shape_of
from sslkernels.distributed import GroupLike, all_rows, shard_of
from sslkernels.functional import ema_update_, queue_update_

SCHEDULES = ("constant", "cosine", "linear")
WRAPPERS = (DistributedDataParallel, nn.DataParallel)


class EMA(nn.Module):
    """A teacher: the exponential moving average of a model, updated in one pass over all of its tensors.

    Args:
        model: what the teacher starts as a copy of; it is not touched. A wrapper (DDP, torch.compile) is looked into.
        momentum: of the first step, from 0 to 1.
        schedule: "constant"; "cosine", ``1 - (1 - momentum) (cos(pi step / total_steps) + 1) / 2``, as BYOL, MoCo v3
            and DINO have it; or "linear", from ``momentum`` to 1, as I-JEPA has it.
        total_steps: of the training, which the last two need here or in `update`.
        average_buffers: average the student's buffers too (the running statistics of BatchNorm); by default they are
            copied, as integers always are.
        master: keep float32 twins of bfloat16 and float16 parameters, which are then their roundings. Without them a
            teacher in bfloat16 stops following where an update is less than half of its last bit.
        backend: see `sslkernels.functional.ema_update_`.

    ``module`` is the averaged model, with parameters that require no gradient; calling the teacher calls it, without a
    graph. Training and evaluation mode are its own. Its state, the step and the masters are in ``state_dict()``.
    For FSDP2 make the teacher first, without masters, then shard both alike: each rank moves its own shards.

    >>> import torch, sslkernels as sk
    >>> student = torch.nn.Linear(2, 2)
    >>> teacher = sk.EMA(student, momentum=0.99, schedule="cosine", total_steps=100)
    >>> for step in range(100):
    ...     teacher.update(student, step)  # after each step of the optimizer
    >>> teacher(torch.ones(1, 2)).requires_grad
    False
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.996,
        *,
        schedule: str = "constant",
        total_steps: int | None = None,
        average_buffers: bool = False,
        master: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"EMA: model is a {type(model).__name__}; pass the module that the teacher follows.")
        check_number("EMA", "momentum", momentum, least=0)
        if momentum > 1:
            raise ValueError(f"EMA: momentum is {momentum}; pass a number from 0 to 1.")
        check_choice("EMA", "schedule", schedule, SCHEDULES)
        if total_steps is not None:
            check_size("EMA", "total_steps", total_steps)
        self.module = copy.deepcopy(_unwrapped(model)).requires_grad_(False)
        self.momentum = momentum
        self.schedule = schedule
        self.total_steps = total_steps
        self.average_buffers = average_buffers
        self.backend = backend
        self.master = master
        self.step = -1  # the last one that moved the teacher
        # Versions of each parameter and its master when both were last alike.
        self._alike: dict[int, tuple[int, int]] = {}
        self._hold(dict(enumerate(self.module.parameters())))

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        with torch.no_grad():
            return self.module(*arguments, **keywords)

    def momentum_at(self, step: int, total_steps: int | None = None) -> float:
        """The momentum of a step, counted from 0."""
        if not is_whole(step, 0):
            raise ValueError(f"EMA: step is {step!r}; pass the number of the optimizer's step, from 0.")
        if self.schedule == "constant":
            return self.momentum
        total = self.total_steps if total_steps is None else total_steps
        if total is None:
            raise ValueError(
                f"EMA: the {self.schedule} schedule needs total_steps; pass it to EMA(...) or with the step."
            )
        check_size("EMA", "total_steps", total)
        done = min(step / total, 1.0)
        left = 1 - done if self.schedule == "linear" else (math.cos(math.pi * done) + 1) / 2
        return 1 - (1 - self.momentum) * left

    @torch.no_grad()
    def update(self, student: nn.Module, step: int | None = None, total_steps: int | None = None) -> None:
        """Move the teacher towards ``student`` after optimizer step number ``step``, from 0; None counts calls.

        A step that was the last one already moves nothing: under accumulation this may be called after every
        micro-batch with the number of the optimizer's step.
        """
        if not isinstance(student, nn.Module):
            raise TypeError(f"EMA: student is a {type(student).__name__}; pass the module that the teacher follows.")
        if step is None:
            step = self.step + 1
        momentum = self.momentum_at(step, total_steps)
        if step == self.step:
            return
        student = _unwrapped(student)
        moved = _paired("parameters", self.module.named_parameters(), student.named_parameters())
        copied = _paired("buffers", self.module.named_buffers(), student.named_buffers())
        for target, source in copied:
            if target.shape != source.shape:
                raise ValueError(
                    f"EMA: a buffer has shape {shape_of(target)} in the teacher and {shape_of(source)} in the student; "
                    "teacher and student need the same architecture."
                )
        masters = self._masters()
        if self.average_buffers:
            moved, masters, copied = moved + copied, masters + [None] * len(copied), []
        held = masters if any(master is not None for master in masters) else None
        targets, sources = [target for target, _ in moved], [source for _, source in moved]
        ema_update_(targets, sources, momentum, masters=held, backend=self.backend)
        if copied:
            torch._foreach_copy_([target for target, _ in copied], [source for _, source in copied])
        self._note_alike()
        self.step = step

    def _hold(self, exact: dict[int, Tensor]) -> None:
        """Masters of the 16-bit parameters, from their values by place; none of the others."""
        for place, parameter in enumerate(self.module.parameters()):
            if self.master and parameter.dtype in (torch.bfloat16, torch.float16):
                self.register_buffer(f"master{place}", exact[place].detach().to(parameter.device, torch.float32))
            else:
                self._buffers.pop(f"master{place}", None)
        self._note_alike()

    def _masters(self) -> list[Tensor | None]:
        """By place. Where somebody else wrote to a parameter, and not to its master, the master begins anew."""
        masters = []
        for place, parameter in enumerate(self.module.parameters()):
            master = self._buffers.get(f"master{place}")
            if master is not None:
                versions = self._alike.get(place, (-1, -1))
                if parameter._version != versions[0] and master._version == versions[1]:
                    master.copy_(parameter)
            masters.append(master)
        return masters

    def _note_alike(self) -> None:
        self._alike = {
            place: (parameter._version, self._buffers[f"master{place}"]._version)
            for place, parameter in enumerate(self.module.parameters())
            if f"master{place}" in self._buffers
        }

    def get_extra_state(self) -> dict[str, int]:
        return {"step": self.step}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.step = state["step"]

    def _apply(self, function: Any, recurse: bool = True) -> EMA:
        # masters go where their parameters go and stay in float32; those of parameters that become 16-bit begin here
        exact = {
            place: self._buffers.get(f"master{place}", parameter)
            for place, parameter in enumerate(self.module.parameters())
        }
        exact = {place: value.detach().clone() for place, value in exact.items()} if self.master else {}
        super()._apply(function, recurse)
        self._hold(exact)
        return self


class MemoryQueue(nn.Module):
    """A ring of the last ``size`` keys; any batch size, nothing dropped at the wrap, saved with the model.

    Args:
        size: rows kept.
        dim: features per row.
        backend: see `sslkernels.functional.queue_update_`.

    Starts with random unit rows, as MoCo does. Reading ``keys (size, dim)`` makes no copy, and `info_nce` keeps none
    for its backward, so keys may be enqueued between the forward and the backward.

    >>> import torch, sslkernels as sk
    >>> queue = sk.MemoryQueue(size=4, dim=2)
    >>> queue.enqueue(torch.ones(6, 2))
    >>> queue.keys.sum().item(), int(queue.position)
    (8.0, 2)
    """

    keys: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int, *, backend: str | None = None) -> None:
        super().__init__()
        check_size("MemoryQueue", "size", size)
        check_size("MemoryQueue", "dim", dim)
        self.backend = backend
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: Tensor, *, group: GroupLike = None) -> None:
        """Write rows ``(N, dim)`` at the ring's position; of a batch longer than the ring the newest stay.

        With a ``group`` the rows of every rank are written, in the order of the ranks, and every rank's queue stays
        the same. Ranks may hold different N.
        """
        dim = self.keys.shape[1]
        if check_rows("MemoryQueue", "keys", keys).shape[1] != dim:
            raise ValueError(f"MemoryQueue: keys has shape {shape_of(keys)}; expected (N, {dim}).")
        shard = shard_of(group, "MemoryQueue", keys)
        queue_update_(self.keys, keys if shard is None else all_rows(keys, shard), self.position, backend=self.backend)


@torch.no_grad()
def update_momentum(model: nn.Module, model_ema: nn.Module, m: float) -> None:
    """Move the parameters of ``model_ema`` towards those of ``model``, as lightly's function of this name does.

    Buffers stay as they are; `EMA` copies them, keeps schedule and state, and can keep a float32 master.

    >>> import torch, sslkernels as sk
    >>> model, model_ema = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    >>> sk.update_momentum(model, model_ema, m=0.99)
    """
    ema_update_(model_ema.parameters(), model.parameters(), m)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The module in DDP, DataParallel and torch.compile."""
    while isinstance(model, WRAPPERS) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, WRAPPERS) else model._orig_mod
    return model


def _paired(
    what: str, ours: Iterable[tuple[str, Tensor]], theirs: Iterable[tuple[str, Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """Tensors of a teacher with the student's of the same names, whatever parts are compiled or checkpointed."""
    teacher, student = (
        {re.sub(r"_orig_mod\.|_checkpoint_wrapped_module\.", "", name): tensor for name, tensor in tensors}
        for tensors in (ours, theirs)
    )
    if teacher.keys() != student.keys():
        name = min(teacher.keys() ^ student.keys())
        owner = "teacher" if name in teacher else "student"
        raise ValueError(
            f"EMA: of the {what} {name!r} is the {owner}'s alone; teacher and student need the same architecture."
        )
    return [(tensor, student[name]) for name, tensor in teacher.items()]
