# SPDX-License-Identifier: Apache-2.0
"""Cross-entropies of softmaxes over prototypes, and the bias that spreads rows. Dense paths of both store rows x K."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import sslkernels.functional as SF
from sslkernels import _C
from sslkernels.bench.cases.case import F32, Case, Cost, Draw, Family, Inputs, Peer, Shape, Size, Step, Target, targets
from sslkernels.ops.prototypes.cpu import kept

TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04

FAMILY = Family(
    "prototypes",
    "Prototypes",
    "Rows compared and spread over prototypes, last layer and all, `sslkernels bench run prototypes`; eager takes the "
    "log-softmax of a row once, and adds up the targets that it follows.",
    ("op, rows × K × D", "dtype"),
)


def _unit(draw: Draw, *shape: int) -> Tensor:
    return F.normalize(draw.normal(*shape), dim=1)


# The cross-entropy


def _followed(teachers: int, students: int) -> Tensor:
    """Return whom each row follows: the row beside it, or with more rows those of DINO's two large crops."""
    if students == teachers:
        return torch.arange(teachers)[:, None]
    images = teachers // 2
    own, other = torch.arange(images), torch.arange(images) + images
    large = torch.stack([torch.cat([other, own]), torch.full((teachers,), -1)], 1)
    small = torch.stack([own, other], 1).repeat((students - teachers) // images, 1)
    return torch.cat([large, small])


def _inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    m, n, k, d = shape
    index = _followed(m, n)
    return {
        "student": draw.ready(_unit(draw, n, d)),
        "weight": draw.ready(_unit(draw, k, d)),
        "teacher": draw.ready(_unit(draw, m, d), grad=False),
        "teacher_weight": draw.ready(_unit(draw, k, d), grad=False),
        "bias": draw.ready(0.1 * draw.normal(k), grad=False),
        "teacher_index": index.to(draw.device),
    }


def _ours(backend: str, **inputs: Tensor) -> Tensor:
    return SF.prototype_cross_entropy(
        **inputs, temperature=TEMPERATURE, teacher_temperature=TEACHER_TEMPERATURE, backend=backend
    )


def eager_cross_entropy(
    student: Tensor, weight: Tensor, teacher: Tensor, teacher_weight: Tensor, bias: Tensor, teacher_index: Tensor
) -> Tensor:
    with torch.no_grad():
        softmax = F.softmax((teacher @ teacher_weight.T).float() / TEACHER_TEMPERATURE + bias, 1)
        target = softmax[teacher_index[:, 0]]
        for other in teacher_index.T[1:]:
            target = target + softmax[other] * (other >= 0)[:, None]
    logs = F.log_softmax((student @ weight.T).float() / TEMPERATURE, 1)
    return -(target * logs).sum() / (teacher_index >= 0).sum()


def exact_cross_entropy(x: Inputs, block: int) -> Tensor:
    """Sum ``P * (lse - l)`` over pairs, some rows at a time."""
    teacher, weights, bias = x["teacher"], x["teacher_weight"], x["bias"]

    def of_rows(rows: Tensor, weight: Tensor, followed: Tensor) -> Tensor:
        logits, total = rows @ weight.T / TEMPERATURE, rows.new_zeros(())
        apart = logits.exp().sum(1, keepdim=True).log() - logits
        for other in followed.T:
            there = other >= 0
            logit = teacher[other.clamp_min(0)] @ weights.T / TEACHER_TEMPERATURE + bias
            p = (logit - logit.amax(1, keepdim=True)).exp()
            total = total + (p / p.sum(1, keepdim=True) * apart * there[:, None]).sum()
        return total

    size = max(1, block // len(x["weight"]))
    parts = zip(x["student"].split(size), x["teacher_index"].split(size), strict=True)
    sums = [checkpoint(of_rows, rows, x["weight"], followed, use_reentrant=False) for rows, followed in parts]
    return torch.stack(sums).sum() / (x["teacher_index"] >= 0).sum()


def _cost(shape: Shape, dtype: torch.dtype) -> Cost:
    m, n, k, d = shape
    return Cost(2 * (m + n) * k * d, 4 * n * k * d, (3 * k * d + (m + 2 * n) * d) * dtype.itemsize)


def _path(backend: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> str:
    if backend == "reference":
        return "dense: logits and targets of all rows are stored, in float32 at least."
    if backend == "cpu":
        again = "kept while they fit" if kept(dtype) else "computed again"
        return (
            "blocks meet twice: for the peaks and totals of softmaxes, and for all that follows from them; "
            f"logits are {again}."
        )
    return "softmaxes of some rows go through a workspace; cuBLAS multiplies them with prototypes and with rows."


def _of_one_each(inputs: Inputs) -> Inputs:
    """Each row follows the first of its rows of the teacher, scaled so that one temperature does for both."""
    teacher = inputs["teacher"][inputs["teacher_index"][:, 0]] * (TEMPERATURE / TEACHER_TEMPERATURE)
    return {"student": inputs["student"], "weight": inputs["weight"], "teacher": teacher,
            "teacher_weight": inputs["teacher_weight"]}  # fmt: skip


def exact_divergence(x: Inputs, block: int) -> Tensor:
    """Take the mean over rows of the divergence of the student's softmax from the teacher's."""
    x = _of_one_each(x)

    def of_rows(rows: Tensor, weight: Tensor, followed: Tensor) -> Tensor:
        student, teacher = rows @ weight.T / TEMPERATURE, followed @ x["teacher_weight"].T / TEMPERATURE
        logs = teacher - teacher.exp().sum(1, keepdim=True).log()
        return (logs.exp() * (logs - student + student.exp().sum(1, keepdim=True).log())).sum()

    size = max(1, block // len(x["weight"]))
    parts = zip(x["student"].split(size), x["teacher"].split(size), strict=True)
    sums = [checkpoint(of_rows, rows, x["weight"], followed, use_reentrant=False) for rows, followed in parts]
    return torch.stack(sums).sum() / len(x["student"])


def _liger(inputs: Inputs) -> Step:
    from liger_kernel.transformers import LigerFusedLinearJSD

    # With beta = 0 it is the divergence from the teacher. Gradients of the weight would be summed in 16 bits.
    loss = LigerFusedLinearJSD(jsd_beta=0.0, temperature=TEMPERATURE, accum_dtype=torch.float32)
    student, weight, teacher, teacher_weight = (
        inputs[name] for name in ("student", "weight", "teacher", "teacher_weight")
    )
    return lambda: loss(student, weight, teacher, teacher_weight, None)


CROSS_ENTROPY = Case(
    "prototype_cross_entropy",
    FAMILY,
    "cross-entropy",
    ("M", "N", "K", "D"),
    shape_note="M rows of the teacher; with N = 5 M the rows of the student are DINO's ten crops",
    inputs=_inputs,
    ours=_ours,
    eager=eager_cross_entropy,
    exact=exact_cross_entropy,
    peers={
        "lightly": "lightly takes logits, which the head has stored.",
        "liger": Peer(
            _liger,
            note="liger is timed on the divergence of each row from one row of the teacher, without a centre.",
            inputs=_of_one_each,
            exact=exact_divergence,
        ),
    },
    cost=_cost,
    pairs=lambda shape: shape[1] * shape[2],
    path=_path,
    row=lambda shape: ("cross-entropy ({} ←) {} × {} × {}".format(*shape),),
    sizes=(
        Size((128, 640, 65536, 256), "small", targets(Target(F32, "eager", 1.6), Target(F32, "compile", 1.1)), True),
        Size((128, 512, 3000, 128), "small", targets()),
        Size((64, 64, 1024, 256), "small", targets()),
        Size((3727, 3727, 65536, 256), "recipe", targets()),
        Size((2458, 2458, 131072, 384), "recipe", targets()),
        Size((6, 30, 48, 16), "quick"),
    ),
)

# Sinkhorn


def _rows(shape: Shape, draw: Draw) -> dict[str, Any]:
    n, k, d = shape
    return {"teacher": draw.ready(_unit(draw, n, d), grad=False), "weight": draw.ready(_unit(draw, k, d), grad=False)}


def _spread(teacher: Tensor, weight: Tensor, backend: str) -> Tensor:
    return SF.sinkhorn_bias(teacher, weight, TEACHER_TEMPERATURE, backend=backend)


def eager_sinkhorn(teacher: Tensor, weight: Tensor) -> Tensor:
    """Scale in place as the official code does, and keep what every prototype was scaled by."""
    q = ((teacher @ weight.T).float() / TEACHER_TEMPERATURE).T
    peak = q.max()
    q = q.sub(peak).exp_()
    scaled = q.new_zeros(len(q), 1)
    for _ in range(3):
        mass = q.sum(1, keepdim=True)
        scaled -= mass.log()
        q /= mass
        q /= q.sum(0, keepdim=True)
    return scaled[:, 0] - peak


def exact_sinkhorn(x: Inputs, block: int) -> Tensor:
    """Keep potentials of rows and of prototypes, some rows at a time."""
    rows, weight = x["teacher"], x["weight"]
    v = rows.new_zeros(len(rows))
    size = max(1, block // len(weight))
    for step in range(3):
        sums = rows.new_full((len(weight),), -torch.inf)
        for part, of_rows in zip(rows.split(size), v.split(size), strict=True):
            logits = part @ weight.T / TEACHER_TEMPERATURE
            sums = torch.logaddexp(sums, torch.logsumexp(logits + of_rows[:, None], 0))
        if step < 2:
            v = torch.cat(
                [-torch.logsumexp(part @ weight.T / TEACHER_TEMPERATURE - sums, 1) for part in rows.split(size)]
            )
    return -sums


def _flash_sinkhorn(inputs: Inputs) -> Step:
    from flash_sinkhorn.kernels import sinkhorn_flashstyle_alternating

    rows, weight = inputs["teacher"], inputs["weight"]
    shares = [torch.full((count,), 1 / count, device=rows.device) for count in (len(weight), len(rows))]

    def step() -> Tensor:
        potential, _ = sinkhorn_flashstyle_alternating(
            weight, rows, *shares, eps=TEACHER_TEMPERATURE, n_iters=3, cost_scale=0.5, allow_tf32=False
        )
        return bias_of_potential(potential, weight, len(rows))

    return step


def bias_of_potential(potential: Tensor, weight: Tensor, rows: int) -> Tensor:
    """Turn the prototypes' potential f, after three steps of optimal transport from unit rows, into their bias.

    A pair costs ``|z - w|^2 / 2``, so ``(f - |w|^2 / 2) / temperature`` is u and a constant: the half is that of a row
    of length 1; the shares of rows, 1/N, are in each sum over rows, and those of prototypes, 1/K, in the two between.
    """
    constant = 0.5 / TEACHER_TEMPERATURE + 3 * math.log(rows) - 2 * math.log(len(weight))
    return (potential - weight.to(potential.dtype).square().sum(1) / 2) / TEACHER_TEMPERATURE - constant


def _sinkhorn_cost(shape: Shape, dtype: torch.dtype) -> Cost:
    n, k, d = shape
    return Cost(2 * n * k * d, 0, (n + k) * d * dtype.itemsize + 4 * k)


def _sinkhorn_path(backend: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> str:
    if backend == "reference":
        return "dense: the logits of all rows are stored, in float32 at least."
    if backend == "cpu":
        by = "a kernel of ours" if dtype == torch.bfloat16 and _C.isa() in ("avx512bf16", "amx") else "torch.mm"
        return f"{by} writes the products once, while they fit in 1 GiB; each step reads them once."
    words = "log-sum-exps over rows and over prototypes in turn, each of which forms the products again"
    return f"{words}."


SINKHORN = Case(
    "sinkhorn_bias",
    FAMILY,
    "Sinkhorn",
    ("N", "K", "D"),
    shape_note="three iterations",
    inputs=_rows,
    ours=_spread,
    eager=eager_sinkhorn,
    exact=exact_sinkhorn,
    search=True,
    peers={
        "lightly": "lightly takes logits, which the head has stored.",
        "flash_sinkhorn": Peer(
            _flash_sinkhorn,
            note="flash-sinkhorn takes half a step more, and starts from the lengths of rows, 1 up to rounding.",
        ),
    },
    cost=_sinkhorn_cost,
    pairs=lambda shape: shape[0] * shape[1],
    path=_sinkhorn_path,
    sizes=(
        Size((3727, 65536, 256), "small", targets(Target(F32, "eager", 2.0)), True),
        Size((512, 3000, 128), "small", targets()),
        Size((24, 48, 16), "quick"),
    ),
)

CASES = (CROSS_ENTROPY, SINKHORN)
