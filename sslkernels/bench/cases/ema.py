# SPDX-License-Identifier: Apache-2.0
"""The update of a teacher: T float32 tensors of P numbers in all, shaped like the parameters of a network.

The dtype of a workload is that of the sources. An update changes the targets in place and has no backward.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import sslkernels.functional as SF
from sslkernels.bench.cases.architectures import ARCHITECTURES, EQUAL_TENSORS, architecture, network, size
from sslkernels.bench.cases.case import (
    BF16,
    F32,
    Case,
    Cost,
    Draw,
    Family,
    Inputs,
    Peer,
    Shape,
    Size,
    Step,
    Target,
    on_gpu,
    targets,
)  # fmt: skip

MOMENTUM = 0.996
# torch.compile writes code for every tensor of a list: half a minute for 161, two to three for 1000.
_MOST_COMPILED_TENSORS = 300
_SIZES = {name: size(shapes) for name, shapes in ARCHITECTURES.items()}
_UPDATED = on_gpu("floor", 0.9)

FAMILY = Family(
    "ema",
    "EMA",
    "The update of an fp32 teacher, `sslkernels bench run ema`, from an fp32 and from a bf16 student;\n"
    "eager is `torch._foreach_lerp_`, after a cast for bf16, lightly its `update_momentum`.",
    ("teacher", "student"),
)


def _inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    """Teacher and student are as far apart as after a first epoch: an update is far above its rounding."""
    device = draw.device
    teacher = [draw.normal(*each).to(device) for each in architecture(*shape)]
    student = [t + draw.normal(*t.shape).to(device) for t in teacher]
    return {"targets": teacher, "sources": [s.to(draw.dtype) for s in student]}


def eager_ema_update(targets: list[Tensor], sources: list[Tensor]) -> None:
    if sources[0].dtype != targets[0].dtype:
        sources = [source.to(target.dtype) for target, source in zip(targets, sources, strict=True)]
    torch._foreach_lerp_(targets, sources, 1 - MOMENTUM)


def exact_ema_update(x: Inputs, block: int) -> Iterable[Tensor]:
    """Yield the targets after the update, one at a time."""
    return (MOMENTUM * t + (1 - MOMENTUM) * s for t, s in zip(x["targets"], x["sources"], strict=True))


def _lightly(inputs: Inputs) -> Step:
    """Its function takes two modules. Here they are lists of the tensors."""
    from lightly.models.utils import update_momentum

    teacher, student = (torch.nn.ParameterList(inputs[side]) for side in ("targets", "sources"))
    return lambda: update_momentum(student, teacher, MOMENTUM)


def _cost(shape: Shape, dtype: torch.dtype) -> Cost:
    """Both tensors are read and the target is written. A number takes two products and a sum."""
    return Cost(3 * shape[1], 0, shape[1] * (2 * torch.float32.itemsize + dtype.itemsize))


def _path(backend: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> str:
    return {
        "reference": "tensor by tensor, each in float64 and rounded once.",
        "cpu": "all tensors are one piece of work, divided evenly among the threads; sources are widened as they are "
        "read.",
        "triton": "one launch for each mixture of dtypes, from a table of addresses.",
        "cuda": "one launch for all tensors, from a table of addresses.",
    }[backend]


def _not_compiled(shape: Shape) -> str | None:
    if shape[0] <= _MOST_COMPILED_TENSORS:
        return None
    return f"torch.compile writes code for each of {shape[0]} tensors, which takes minutes."


def _printed(shape: Shape) -> tuple[str, ...]:
    """Millions of parameters are rounded."""
    tensors, parameters = shape
    return str(tensors), f"{parameters / 1e6:.0f}M" if parameters >= 1e6 else str(parameters)


def _row(shape: Shape) -> tuple[str, ...]:
    tensors, parameters = shape
    name = network(tensors, parameters)
    if name == EQUAL_TENSORS:
        return (f"{tensors} tensors of {parameters // tensors}",)
    return (f"{name}, {tensors} tensors, {parameters / 1e6:.0f} M",)


EMA_UPDATE = Case(
    "ema_update",
    FAMILY,
    "EMA",
    ("T", "P"),
    shape_note="T float32 tensors of P numbers in all, --dtype is the sources': 161,25557032 are a ResNet-50, "
    "152,86567656 a ViT-B; other sizes are split evenly",
    wording="T={T}, P={P} ({named}), float32 targets, {dtype} sources",
    within=(("T", "P"),),
    update=True,
    inputs=_inputs,
    ours=partial(SF.ema_update_, momentum=MOMENTUM),
    eager=eager_ema_update,
    exact=exact_ema_update,
    peers={"lightly": Peer(_lightly)},
    not_compiled=_not_compiled,
    cost=_cost,
    pairs=lambda shape: 0,
    stored="",
    path=_path,
    printed=_printed,
    named=lambda shape: network(*shape),
    row=_row,
    sizes=(
        Size(_SIZES["ResNet-50"], "small", targets()),
        Size(_SIZES["ViT-B"], "small", targets(Target(BF16, "eager", 2.5))),
        Size((1000, 1000 * 1024), "small", targets(Target(F32, "eager", 3.0), Target(BF16, "eager", 2.0))),
        Size(_SIZES["ViT-L"], "recipe", targets(*_UPDATED)),
        Size(_SIZES["ViT-g"], "recipe", targets(*_UPDATED)),
        Size((7, 1003), "quick"),
    ),
)

CASES = (EMA_UPDATE,)
