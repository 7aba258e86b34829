# SPDX-License-Identifier: Apache-2.0
"""The teacher that follows a student as its exponential moving average."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from sslkernels.arguments import (
    came,
    check_choice,
    check_flag,
    check_module,
    check_number,
    check_place,
    check_scalar,
    is_whole,
)
from sslkernels.backends import check_backend
from sslkernels.functional import ema_update_
from sslkernels.modules import Module, Remembering, unscriptable
from sslkernels.schedules import check_step, check_total, share_done

# The options that each schedule has.
SCHEDULES: dict[str, tuple[str, ...]] = {
    "constant": ("momentum",),
    "cosine": ("momentum", "final_momentum", "total_steps"),
    "linear": ("momentum", "final_momentum", "total_steps"),
    "warmup": ("momentum", "warmup_gamma", "warmup_power"),
    "equal": (),
}
DEFAULTS = {"momentum": 0.996, "final_momentum": 1.0, "warmup_gamma": 1.0, "warmup_power": 2 / 3}
HALVES = (torch.bfloat16, torch.float16)
WRAPPERS = (DistributedDataParallel, nn.DataParallel)


class EMA(Module):
    """A teacher: the exponential moving average of a model, updated in one pass over all of its tensors.

    Args:
        model: the teacher starts as a copy of it, and leaves it untouched. Wrappers (DDP, torch.compile) are taken off.
        momentum: from 0 to 1, 0.996 unless given. It holds at every step, or at the first one if it rises, or is the
            highest of a warm-up.
        schedule: how the momentum m changes, with k the step (from 0), K ``total_steps``, f ``final_momentum``:

            - "constant";
            - "cosine", ``m_k = f - (f - m) (cos(pi k / K) + 1) / 2``, as BYOL, MoCo v3, DINO and solo-learn have it;
            - "linear", ``m_k = f - (f - m) (1 - k / K)``, as I-JEPA has it;
            - "warmup", ``m_k = min(m, 1 - (1 + k / gamma) ** -power)``, as timm's ``ModelEmaV3(use_warmup=True)`` does,
              whose steps count from 1;
            - "equal", the mean of the students of all updates, ``n / (n + 1)`` at update n (from 0), as in SWA and
              torch's ``AveragedModel``.
        total_steps: steps of the training, which "cosine" and "linear" need here or in `update`. Pass ``math.inf`` if
            no end is known: the momentum then stays as it began. After the last step it stays at ``final_momentum``.
        final_momentum: 1 unless given.
        warmup_gamma, warmup_power: 1 and 2/3 unless given; both above 0.
        average_buffers: average the student's buffers too (the running statistics of BatchNorm). By default they are
            copied, as integers always are. A buffer that appears, grows or goes in the student does so here.
        master: keep a float32 twin of each bfloat16 and float16 parameter, which is then the twin's rounding. Without
            twins a bfloat16 teacher stops following where an update is less than half of its last bit. You may write a
            parameter in any way: where it is not its twin's rounding, the twin begins anew from it.
        device: where the teacher stays, even if the module around it is moved; by default where the model is. A student
            elsewhere is copied there at each update.
        teacher: a second module of the same architecture, for a model that cannot be copied. It is used as it is, and
            starts with the model's values like any other.
        backend: see `sslkernels.functional.ema_update_`.

    ``module`` is the averaged model; its parameters require no gradient. Calling the teacher calls it without a graph.
    It has a training and an evaluation mode of its own. ``state_dict()`` holds its state, the step, the number of
    updates and the masters. For FSDP2 make the teacher first, without masters, then shard both alike: each rank moves
    its own shards.

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
        momentum: float | None = None,
        *,
        schedule: str = "constant",
        total_steps: float | None = None,
        final_momentum: float | None = None,
        warmup_gamma: float | None = None,
        warmup_power: float | None = None,
        average_buffers: bool = False,
        master: bool = False,
        device: torch.device | str | None = None,
        teacher: nn.Module | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        model = _unwrapped(_with_values("model", model))
        self.schedule = check_choice("EMA", "schedule", schedule, tuple(SCHEDULES))
        options = _options_of(
            schedule,
            momentum=momentum,
            final_momentum=final_momentum,
            total_steps=total_steps,
            warmup_gamma=warmup_gamma,
            warmup_power=warmup_power,
        )
        self.momentum = check_number("EMA", "momentum", options["momentum"], least=0, most=1)
        self.final_momentum = check_number("EMA", "final_momentum", options["final_momentum"], least=0, most=1)
        self.warmup_gamma = check_number("EMA", "warmup_gamma", options["warmup_gamma"], above=0)
        self.warmup_power = check_number("EMA", "warmup_power", options["warmup_power"], above=0)
        self.total_steps = None if total_steps is None else check_total("EMA", total_steps)
        self.average_buffers = check_flag("EMA", "average_buffers", average_buffers)
        self.master = check_flag("EMA", "master", master)
        self.device = check_place("EMA", device)
        self.backend = check_backend(backend)
        self.step = -1  # the last step that moved the teacher
        self.updates = 0
        with torch.inference_mode(False), torch.no_grad():
            self.module = _copied(model) if teacher is None else _built_apart(teacher, model)
            for parameter in self.module.parameters():  # one by one: a ScriptModule has no requires_grad_
                parameter.requires_grad_(False)
            if self.device is not None:
                self._to_device(self.device)
            if teacher is not None:
                self.set(model)
            self._masters()

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        with torch.no_grad():
            return self.module(*arguments, **keywords)

    def momentum_at(self, step: int, total_steps: float | None = None) -> float:
        """The momentum of a step, or with the "equal" schedule of an update; both count from 0."""
        step = check_step("EMA", step)
        total = self.total_steps if total_steps is None else check_total("EMA", total_steps)
        if self.schedule == "constant":
            return self.momentum
        if self.schedule == "equal":
            return step / (step + 1)
        if self.schedule == "warmup":
            return min(self.momentum, 1 - (1 + step / self.warmup_gamma) ** -self.warmup_power)
        if total is None:
            raise ValueError(
                f"EMA: the {self.schedule} schedule needs total_steps; pass it to EMA(...) or with the step."
            )
        done = share_done(step, total)
        left = 1 - done if self.schedule == "linear" else (math.cos(math.pi * done) + 1) / 2
        return self.final_momentum - (self.final_momentum - self.momentum) * left

    def update(self, student: nn.Module, step: int | None = None, total_steps: float | None = None) -> None:
        """Move the teacher towards ``student`` after optimizer step number ``step``, from 0; None counts calls.

        A second call with the same step moves nothing. Under accumulation you may therefore call this after every
        micro-batch with the number of the optimizer's step.
        """
        student = _unwrapped(check_module("EMA", "student", student))
        step = self.step + 1 if step is None else check_step("EMA", step)
        momentum = self.momentum_at(self.updates if self.schedule == "equal" else step, total_steps)
        if step == self.step:
            return
        self._move(student, momentum)
        self.step = step
        self.updates += 1

    def set(self, student: nn.Module) -> None:
        """Make the teacher a copy of ``student`` again: parameters, buffers and masters. The step stays, but the mean
        of the "equal" schedule begins anew.
        """
        self._move(_unwrapped(check_module("EMA", "student", student)), 0.0)
        self.updates = 0

    def _to_device(self, device: torch.device) -> None:
        if any(x.is_meta for x in (*self.module.parameters(), *self.module.buffers())) and device.type != "meta":
            raise ValueError(
                f"EMA: model is on meta and device is '{device}'; give the model values first, to_empty()."
            )
        self.module.to(device)

    @torch.no_grad()
    def _move(self, student: nn.Module, momentum: float) -> None:
        moved = _paired("parameters", _by_name(self.module.named_parameters()), _by_name(student.named_parameters()))
        kept, fresh, gone = _buffer_pairs(self.module, student)
        if self.average_buffers:
            moved, kept = {**moved, **kept}, {}
        targets, sources = [target for target, _ in moved.values()], [source for _, source in moved.values()]
        if self.device is not None:
            sources = [source.to(target.device) for target, source in moved.values()]
        masters = self._masters() if self.master else []
        held = masters + [None] * (len(moved) - len(masters)) if any(x is not None for x in masters) else None
        try:
            ema_update_(targets, sources, momentum, masters=held, backend=self.backend)
        except (ValueError, TypeError) as error:
            raise type(error)(_in_names(str(error), list(moved))) from None
        if kept:
            torch._foreach_copy_([target for target, _ in kept.values()], [source for _, source in kept.values()])
        _add_buffers(self.module, student, fresh)
        for owner, leaf in gone:
            setattr(owner, leaf, None)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _masters(self) -> list[Tensor | None]:
        """Give each 16-bit parameter a master of its shape on its device, and other parameters None, in their order."""
        masters: dict[str, Tensor | None] = {}
        for place, parameter in enumerate(self.module.parameters()):
            name = f"master{place}"
            if self.master and parameter.dtype in HALVES:
                master = self._buffers.get(name)
                if master is None or master.shape != parameter.shape:
                    master = parameter.detach().float()
                masters[name] = master.to(parameter.device, torch.float32)
        self._buffers.clear()
        self._buffers.update(masters)
        return [masters.get(f"master{place}") for place, _ in enumerate(self.module.parameters())]

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> EMA:
        if self.device is not None:
            function = _staying(function, self.device)
        parameters = enumerate(self.module.parameters()) if self.master else ()
        before = [(p.detach(), self._buffers.get(f"master{place}")) for place, p in parameters]
        super()._apply(function, recurse)
        if self.master:
            self._keep_exact(before)
        return self

    @torch.inference_mode(False)
    @torch.no_grad()
    def _keep_exact(self, before: list[tuple[Tensor, Tensor | None]]) -> None:
        """Convert parameters from all the bits of their masters, which stay in float32."""
        for place, (parameter, (old, master)) in enumerate(zip(self.module.parameters(), before, strict=True)):
            if old.is_meta or parameter.is_meta:
                continue
            exact = old if master is None else torch.where(master.to(old.dtype) == old, master, old.float())
            if parameter.dtype != old.dtype:
                parameter.copy_(exact)
            name, moved = f"master{place}", self._buffers.get(f"master{place}")
            if parameter.dtype in HALVES and (moved is None or moved.dtype != torch.float32):
                self._buffers[name] = exact.to(parameter.device, torch.float32, copy=True)
        self._masters()

    def get_extra_state(self) -> dict[str, int]:
        return {"step": self.step, "updates": self.updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        if not isinstance(state, dict) or not is_whole(state.get("step"), -1):
            raise ValueError(f"EMA: the saved step is {came(state)}; pass the state that state_dict() gave.")
        updates = state.get("updates", state["step"] + 1)
        if not is_whole(updates, 0):
            raise ValueError(f"EMA: the saved number of updates is {came(updates)}; pass what state_dict() gave.")
        self.step, self.updates = state["step"], updates

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        *rest: Any,
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, *rest)
        # a master that was not saved begins as its parameter
        missing_keys[:] = [key for key in missing_keys if not key.startswith(f"{prefix}master")]


@unscriptable
@torch.no_grad()
def update_momentum(model: nn.Module, model_ema: nn.Module, m: float) -> None:
    """Move the parameters of ``model_ema`` towards those of ``model``, as lightly's function of this name does.

    Buffers stay as they are; `EMA` copies them, keeps schedule and state, and can keep a float32 master.

    >>> import torch, sslkernels as sk
    >>> model, model_ema = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    >>> sk.update_momentum(model, model_ema, m=0.99)
    """
    student = check_module("update_momentum", "model", model)
    teacher = check_module("update_momentum", "model_ema", model_ema)
    if not isinstance(check_scalar("update_momentum", "m", m), Tensor):
        m = check_number("update_momentum", "m", m, least=0, most=1)
    ema_update_(teacher.parameters(), student.parameters(), m)


def _options_of(schedule: str, **given: object) -> dict[str, object]:
    """Replace None by the defaults, and refuse an option that the schedule does not have."""
    for name, value in given.items():
        if value is not None and name not in SCHEDULES[schedule]:
            having = " or ".join(repr(each) for each, options in SCHEDULES.items() if name in options)
            raise ValueError(
                f"EMA: {name} is {came(value)} and schedule {schedule!r} makes nothing of it; "
                f"leave it out, or pass schedule {having}."
            )
    return DEFAULTS | {name: value for name, value in given.items() if value is not None}


# Making the teacher's module


def _staying(function: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Tensor]:
    """``function``, with its result on ``device``."""

    def stay(x: Tensor) -> Tensor:
        result = function(x)
        return result if result.is_meta else result.to(device)

    return stay


def _copied(model: nn.Module) -> nn.Module:
    # torch does not copy a tensor with a graph, such as the weight that weight_norm computes. We copy its value.
    held = [
        x
        for part in model.modules()
        for x in (*vars(part).values(), *part._parameters.values(), *part._buffers.values())
    ]
    values = {id(x): x.detach().clone() for x in held if isinstance(x, Tensor) and not x.is_leaf}
    try:
        return copy.deepcopy(model, values)
    except Exception as error:  # what a module holds may refuse for any reason
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise ValueError(
            f"EMA: model cannot be copied ({type(error).__name__}: {reason}); "
            "build a second one and pass it as teacher=."
        ) from error


def _built_apart(teacher: object, model: nn.Module) -> nn.Module:
    module = _unwrapped(_with_values("teacher", teacher))
    if any(x.is_inference() for x in (*module.parameters(), *module.buffers())):
        raise ValueError("EMA: teacher was built in inference mode, so that nobody may write it; build it outside.")
    theirs = {x.data_ptr() for x in model.parameters() if x.numel()} - {0}
    if any(x.data_ptr() in theirs for x in module.parameters() if x.numel()):
        raise ValueError("EMA: teacher has parameters of the model itself; build a second module.")
    return module


def _with_values(name: str, value: object) -> nn.Module:
    model = check_module("EMA", name, value)
    if any(is_lazy(x) for x in (*model.parameters(), *model.buffers())):
        raise ValueError(f"EMA: {name} has lazy tensors, which have no values yet; run it on a batch once first.")
    return model


def _unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DDP, DataParallel and torch.compile."""
    while isinstance(model, WRAPPERS) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, WRAPPERS) else model._orig_mod  # type: ignore[assignment]
    return model


# Pairing the tensors of teacher and student by name


def _plain(name: str) -> str:
    """The name without the parts that torch.compile and activation checkpointing put in."""
    return re.sub(r"(_orig_mod|_checkpoint_wrapped_module)(\.|$)", "", name).rstrip(".") if "_mod" in name else name


def _by_name(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {_plain(name): tensor for name, tensor in tensors}


def _paired(what: str, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    if ours.keys() != theirs.keys():
        name = min(ours.keys() ^ theirs.keys())
        owner = "teacher" if name in ours else "student"
        raise ValueError(
            f"EMA: of the {what} {name!r} is the {owner}'s alone; teacher and student need the same architecture."
        )
    return {name: (tensor, theirs[name]) for name, tensor in ours.items()}


def _in_names(sentence: str, names: list[str]) -> str:
    """Make a sentence of `ema_update_`, which counts places in lists, name the modules' tensors."""
    owners = {"targets": "the teacher's", "sources": "the student's", "masters": "the master of"}
    named = re.sub(
        rf"({'|'.join(owners)})\[(\d+)\]", lambda found: f"{owners[found[1]]} {names[int(found[2])]!r}", sentence
    )
    return named.replace("ema_update_:", "EMA:")


def _buffer_pairs(
    teacher: nn.Module, student: nn.Module
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor], list[tuple[nn.Module, str]]]:
    """Sort the buffers: pairs that both have; the student's that the teacher lacks or has in another shape; and the
    places of the teacher's that the student has set to None.
    """
    ours, theirs = _held(teacher), _held(student)
    if ours.keys() == theirs.keys() and all(x.shape == theirs[name].shape for name, x in ours.items()):
        return _paired("buffers", ours, theirs), {}, []
    fresh = {name: x for name, x in theirs.items() if name not in ours or ours[name].shape != x.shape}
    parts, gone = _parts(student), []
    for name in ours.keys() - theirs.keys():
        owner, _, leaf = name.rpartition(".")
        if owner in parts and (leaf in parts[owner]._buffers or _remembers(parts[owner], leaf)):
            gone.append((_parts(teacher)[owner], leaf))
            del ours[name]
    kept = _paired(
        "buffers",
        {name: x for name, x in ours.items() if name not in fresh},
        {name: x for name, x in theirs.items() if name not in fresh},
    )
    return kept, fresh, gone


def _held(model: nn.Module) -> dict[str, Tensor]:
    """The buffers of a model, and the tensors that its parts remember like buffers."""
    held = _by_name(model.named_buffers())
    for path, part in model.named_modules():
        if isinstance(part, Remembering):
            names = {f"{path}.{leaf}" if path else leaf: getattr(part, leaf) for leaf in part.remembered}
            held |= _by_name((name, tensor) for name, tensor in names.items() if tensor is not None)
    return held


def _remembers(part: nn.Module, leaf: str) -> bool:
    return isinstance(part, Remembering) and leaf in part.remembered


def _parts(model: nn.Module) -> dict[str, nn.Module]:
    return {_plain(name): part for name, part in model.named_modules()}


@torch.inference_mode(False)
@torch.no_grad()
def _add_buffers(teacher: nn.Module, student: nn.Module, fresh: dict[str, Tensor]) -> None:
    """Give the teacher copies of the student's buffers: in its own dtype and on its own device, where it has one."""
    for name, source in fresh.items():
        ours, theirs = _parts(teacher), _parts(student)
        path, _, leaf = name.rpartition(".")
        if path not in ours:  # the whole part is new, such as a bank that is made at the first call
            while (above := path.rpartition(".")[0]) not in ours:
                path = above
            device = next((x.device for x in (*teacher.parameters(), *teacher.buffers())), source.device)
            setattr(ours[above], path.rpartition(".")[2], _copied(theirs[path]).to(device))
            continue
        owner, before = ours[path], getattr(ours[path], leaf, None)
        like = next((x for x in (before, *teacher.parameters()) if isinstance(x, Tensor)), source)
        dtype = before.dtype if isinstance(before, Tensor) and source.is_floating_point() else source.dtype
        copied = source.detach().to(like.device, dtype, copy=True)
        if _remembers(owner, leaf):
            setattr(owner, leaf, copied)
            continue
        owner.__dict__.pop(leaf, None)
        owner.register_buffer(leaf, copied, persistent=leaf not in theirs[path]._non_persistent_buffers_set)
