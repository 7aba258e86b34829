# SPDX-License-Identifier: Apache-2.0
"""Contrastive losses compare rows with rows. Their dense path stores all logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import sslkernels.functional as SF
from sslkernels import backends
from sslkernels.bench.cases.case import (
    BF16,
    F32,
    Case,
    Cost,
    Draw,
    Family,
    Inputs,
    Kind,
    Peer,
    Shape,
    Size,
    Step,
    Target,
    bytes_in_words,
    in_both,
    on_gpu,
    targets,
    tiles,
)  # fmt: skip

TEMPERATURE = 0.1
LOGIT_SCALE = 1 / 0.07
SIGMOID_BIAS = -10.0
_MIB = 1 << 20
_ASSUMED_CAPABILITY = (9, 0)

FAMILY = Family(
    "similarity",
    "Similarity",
    "One forward and backward of the contrastive losses, `sslkernels bench run similarity`.",
)


@dataclass(frozen=True)
class Logits:
    """The matrix of logits that a dense path stores."""

    rows: int
    columns: int
    width: int
    itself: bool = False
    """True where rows and columns are the same, so that half of the matrix would do."""


def logits_path(
    words: str, logits: Callable[[Shape], Logits]
) -> Callable[[str, Shape, torch.dtype, torch.device], str]:
    """Put the path into words. ``words`` are those for the C++ kernels, as csrc/cpu/similarity describes them."""

    def path(backend: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> str:
        if backend == "reference":
            return "dense: the whole matrix of logits is stored, in float32 at least."
        if backend == "triton":
            return _triton_path(logits(shape), dtype, device)
        return f"{words} {tiles(dtype)}"

    return path


def _triton_path(logits: Logits, dtype: torch.dtype, device: torch.device) -> str:
    from sslkernels.ops.similarity.triton_plan import plan

    here = device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()
    capability = torch.cuda.get_device_capability(device) if here else _ASSUMED_CAPABILITY
    assumed = "" if here else " (for compute capability {}.{}, assumed)".format(*capability)
    planned = plan(logits.rows, logits.columns, logits.width, dtype, capability)
    return planned.reason + assumed


def _workspace(logits: Callable[[Shape], Logits]) -> Callable[[Shape, torch.dtype], str]:
    """Say whether the forward leaves its exponentials. The rule is the very one that the op asks."""

    def workspace(shape: Shape, dtype: torch.dtype) -> str:
        from sslkernels.ops.similarity.cpu import kept_bytes

        matrix = logits(shape)
        against = "itself" if matrix.itself else "both"
        needed = kept_bytes(against, matrix.rows, matrix.columns, matrix.width, dtype)
        words, limit = bytes_in_words(needed), backends.WORKSPACE_VARIABLE
        if needed <= backends.WORKSPACE:
            return f"the call keeps its exponentials for the gradient, {words} within {limit}"
        return f"exponentials of {words} exceed {limit}: the gradient multiplies all pairs once more"

    return workspace


def logits_stored(logits: Callable[[Shape], Logits]) -> Callable[[Shape], int]:
    return lambda shape: logits(shape).rows * logits(shape).columns


def _cross_entropy(
    x: Tensor, y: Tensor, scale: float | Tensor, target: Tensor | None, own: Tensor | None, block: int
) -> Tensor:
    """The mean cross-entropy over the rows of x, or the mean log-sum-exp where there is no target."""

    def of_rows(rows: Tensor, y: Tensor, scale: float | Tensor, target: Tensor | None, own: Tensor | None) -> Tensor:
        logits = (scale * rows) @ y.T
        if own is not None:
            logits = logits.scatter(1, own[:, None], -torch.inf)
        if target is None:
            return logits.logsumexp(1).sum()
        return F.cross_entropy(logits, target, reduction="sum")

    size = max(1, block // len(y))
    total = x.new_zeros(())
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        arguments = (x[part], y, scale, None if target is None else target[part], None if own is None else own[part])
        total = total + checkpoint(of_rows, *arguments, use_reentrant=False)
    return total / len(x)


def _on_gpu_in_bf16(**bounds: float) -> tuple[Target, ...]:
    """Targets of an H200 in bfloat16. The seconds are those that its arithmetic and bandwidth should allow."""
    return tuple(Target(BF16, cast(Kind, kind), value, "cuda") for kind, value in bounds.items())


# NT-Xent


def nt_xent_logits(shape: Shape) -> Logits:
    n, d = shape
    return Logits(2 * n, 2 * n, d, itself=True)


def nt_xent_inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    z0, z1 = draw.views(*shape)
    return {"z0": draw.ready(z0), "z1": draw.ready(z1)}


def eager_nt_xent(z0: Tensor, z1: Tensor) -> Tensor:
    n = z0.shape[0]
    z = F.normalize(torch.cat([z0, z1]), dim=1)
    logits = (z / TEMPERATURE) @ z.T
    logits.fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(2 * n, device=z.device).roll(n))


def exact_nt_xent(x: Inputs, block: int) -> Tensor:
    anchors = F.normalize(torch.cat([x["z0"], x["z1"]]), dim=1)
    own = torch.arange(len(anchors), device=anchors.device)
    return _cross_entropy(anchors, anchors, 1 / TEMPERATURE, own.roll(len(own) // 2), own, block)


def _nt_xent_cost(shape: Shape, dtype: torch.dtype) -> Cost:
    """The forward takes half of the square, the backward a whole product."""
    (n, d), pairs = shape, 4 * shape[0] ** 2
    return Cost(pairs * d, 2 * pairs * d, 4 * n * d * dtype.itemsize)


def _lightly_nt_xent(inputs: Inputs) -> Step:
    from lightly.loss import NTXentLoss

    loss = NTXentLoss(temperature=TEMPERATURE)
    return lambda: loss(inputs["z0"], inputs["z1"])


NT_XENT = Case(
    "nt_xent",
    FAMILY,
    "NT-Xent",
    ("N", "D"),
    shape_note="N per view",
    wording="N={N} per view, D={D}, {dtype}",
    inputs=nt_xent_inputs,
    ours=partial(SF.nt_xent, temperature=TEMPERATURE),
    eager=eager_nt_xent,
    exact=exact_nt_xent,
    peers={"lightly": Peer(_lightly_nt_xent)},
    cost=_nt_xent_cost,
    pairs=logits_stored(nt_xent_logits),
    path=logits_path(
        "x with itself, triangular: groups of row blocks meet as in a round-robin tournament, so that each pair of "
        "rows is computed once and serves both, and no two threads write one row; too few rows for that sweep the "
        "square.",
        nt_xent_logits,
    ),
    workspace=_workspace(nt_xent_logits),
    sizes=(
        Size((64, 128), "small", targets(*in_both("eager", 1.8), *in_both("compile", 1.3))),
        Size((256, 128), "small", targets(*in_both("eager", 2.0), *in_both("compile", 1.7))),
        Size((2048, 128), "small", targets(Target(F32, "eager", 5.0), Target(F32, "compile", 2.8))),
        Size(
            (4096, 128),
            "small",
            targets(
                Target(F32, "eager", 5.0),
                Target(F32, "compile", 2.8),
                Target(F32, "lightly", 11.0),
                Target(BF16, "eager", 7.0),
                # Five times eager, as on a CPU, is above what the arithmetic of a GPU allows: docs/design/gpu.md.
                *on_gpu("eager", 2.5),
                *on_gpu("compile", 1.5),
                *_on_gpu_in_bf16(seconds=0.15e-3, host=0.2e-3),
            ),
            recipe_too=True,
        ),
        Size((4096, 512), "small", targets(Target(F32, "eager", 2.5))),
        Size((2048, 2048), "small", targets()),
        Size(
            (16384, 128),
            "small",
            (Target(F32, "bytes", 96 * _MIB), Target(BF16, "bytes", 96 * _MIB)),
            recipe_too=True,
        ),
        Size((4096, 256), "recipe", targets()),
        Size((65536, 256), "recipe", targets(*_on_gpu_in_bf16(seconds=0.05))),
        *(Size((n, 128), "crossover") for n in (8, 16, 32, 64, 128, 256, 512)),
        Size((64, 32), "quick"),
    ),
)

# InfoNCE with a queue


def _info_nce_logits(shape: Shape) -> Logits:
    n, m, d = shape
    return Logits(n, m, d)


def _info_nce_inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    n, m, d = shape
    query, key = draw.views(n, d)
    queue = F.normalize(draw.normal(m, d), dim=1)
    return {"query": draw.ready(query), "key": draw.ready(key, grad=False), "negatives": draw.ready(queue, grad=False)}


def eager_info_nce(query: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
    query, key = F.normalize(query, dim=1) / TEMPERATURE, F.normalize(key, dim=1)
    positive = (query * key).sum(1, keepdim=True)
    logits = torch.cat([positive, query @ negatives.T], 1)
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))


def exact_info_nce(x: Inputs, block: int) -> Tensor:
    query, key = F.normalize(x["query"], dim=1), F.normalize(x["key"], dim=1)
    positive = (query * key).sum(1, keepdim=True) / TEMPERATURE
    logits = torch.cat([positive, query @ x["negatives"].T / TEMPERATURE], 1)
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))


def _info_nce_cost(shape: Shape, dtype: torch.dtype) -> Cost:
    """One flash pass takes the logits, and their softmax times the queue."""
    n, m, d = shape
    return Cost(4 * n * m * d, 0, (3 * n + m) * d * dtype.itemsize)


def _lightly_info_nce(inputs: Inputs) -> Step:
    """Its memory bank is the queue, and holds the workload's negatives."""
    from lightly.loss import NTXentLoss

    query, key, negatives = inputs["query"], inputs["key"], inputs["negatives"]
    loss = NTXentLoss(temperature=TEMPERATURE, memory_bank_size=tuple(negatives.shape)).to(query)
    loss.memory_bank.bank = negatives.clone()
    return lambda: loss(query, key)


INFO_NCE = Case(
    "info_nce",
    FAMILY,
    "queue InfoNCE",
    ("N", "M", "D"),
    shape_note="a frozen queue of M",
    inputs=_info_nce_inputs,
    ours=partial(SF.info_nce, temperature=TEMPERATURE),
    eager=eager_info_nce,
    exact=exact_info_nce,
    peers={"lightly": Peer(_lightly_info_nce)},
    cost=_info_nce_cost,
    pairs=logits_stored(_info_nce_logits),
    path=logits_path(
        "frozen keys: one flash pass keeps a running maximum and the softmax times the queue; the gradient is ready "
        "when the forward ends and the queue is not kept.",
        _info_nce_logits,
    ),
    sizes=(
        Size(
            (256, 65536, 128),
            "small",
            targets(
                Target(F32, "eager", 3.0),
                Target(F32, "lightly", 5.0),
                Target(BF16, "compile", 1.6),
                *_on_gpu_in_bf16(seconds=60e-6),
            ),
            recipe_too=True,
        ),
        Size((32, 512, 32), "quick"),
    ),
)

# InfoNCE in the batch


def _in_batch_logits(shape: Shape) -> Logits:
    n, d = shape
    return Logits(n, n, d)


def _in_batch_inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    query, key = draw.views(*shape)
    return {"query": draw.ready(query), "key": draw.ready(key)}


def eager_in_batch_info_nce(query: Tensor, key: Tensor) -> Tensor:
    logits = (F.normalize(query, dim=1) / TEMPERATURE) @ F.normalize(key, dim=1).T
    return F.cross_entropy(logits, torch.arange(len(query), device=query.device))


def exact_in_batch_info_nce(x: Inputs, block: int) -> Tensor:
    query, key = F.normalize(x["query"], dim=1), F.normalize(x["key"], dim=1)
    own = torch.arange(len(query), device=query.device)
    return _cross_entropy(query, key, 1 / TEMPERATURE, own, None, block)


def _in_batch_cost(shape: Shape, dtype: torch.dtype) -> Cost:
    """One product forward, and one for each side backward."""
    n, d = shape
    return Cost(2 * n * n * d, 4 * n * n * d, 4 * n * d * dtype.itemsize)


def _cached_ranking(inputs: Inputs) -> Step:
    from sentence_transformers.sentence_transformer import losses

    loss = losses.CachedMultipleNegativesRankingLoss(torch.nn.Sequential(torch.nn.Identity()), scale=1 / TEMPERATURE)
    size = loss.mini_batch_size
    return lambda: loss.calculate_loss([list(inputs[side].split(size)) for side in ("query", "key")])


IN_BATCH_INFO_NCE = Case(
    "in_batch_info_nce",
    FAMILY,
    "in-batch InfoNCE",
    ("N", "D"),
    inputs=_in_batch_inputs,
    ours=partial(SF.info_nce, temperature=TEMPERATURE),
    eager=eager_in_batch_info_nce,
    exact=exact_in_batch_info_nce,
    peers={
        "st": Peer(
            _cached_ranking,
            "It is CachedMultipleNegativesRankingLoss, between the model's two passes; eager is its dense loss.",
        )
    },
    cost=_in_batch_cost,
    pairs=logits_stored(_in_batch_logits),
    path=logits_path(
        "one side: each thread keeps its rows; with gradients for both the backward walks the diagonals of a Latin "
        "square of blocks.",
        _in_batch_logits,
    ),
    workspace=_workspace(_in_batch_logits),
    sizes=(
        Size((64, 128), "small", targets(*in_both("eager", 1.5), *in_both("compile", 1.2))),
        Size((4096, 384), "small", targets(Target(F32, "eager", 1.2), Target(F32, "st", 10))),
        *(Size((n, 128), "crossover") for n in (16, 32, 64, 128, 256, 512)),
        Size((64, 32), "quick"),
    ),
)

# CLIP


def _clip_logits(shape: Shape) -> Logits:
    n, d = shape
    return Logits(n, n, d)


def _clip_inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    image, text = (draw.ready(F.normalize(side, dim=1)) for side in draw.views(*shape))
    scale = torch.tensor(LOGIT_SCALE, device=draw.device, requires_grad=True)
    return {"image": image, "text": text, "logit_scale": scale}


def eager_clip_loss(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    logits = (logit_scale * image) @ text.T
    own = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def exact_clip_loss(x: Inputs, block: int) -> Tensor:
    image, text, scale = x["image"], x["text"], x["logit_scale"]
    own = torch.arange(len(image), device=image.device)
    there = _cross_entropy(image, text, scale, own, None, block)
    return (there + _cross_entropy(text, image, scale, own, None, block)) / 2


def exact_sigmoid_loss(inputs: Inputs, block: int) -> Tensor:
    """Take ``-log sigmoid`` of every pair's logit, with the other sign where rows do not belong together.

    One peer has this objective in the place of CLIP's. Ours does not compute it.
    """

    def of_rows(rows: Tensor, y: Tensor, scale: Tensor, start: int) -> Tensor:
        logits = (scale * rows) @ y.T + SIGMOID_BIAS
        own = torch.arange(len(rows), device=rows.device)
        return F.softplus(logits).sum() - logits[own, own + start].sum()

    x, y, scale = inputs["image"], inputs["text"], inputs["logit_scale"]
    size = max(1, block // len(y))
    parts = [checkpoint(of_rows, part, y, scale, k * size, use_reentrant=False) for k, part in enumerate(x.split(size))]
    return sum(parts, x.new_zeros(())) / len(x)


def _clip_cost(shape: Shape, dtype: torch.dtype) -> Cost:
    n, d = shape
    return Cost(2 * n * n * d, 4 * n * n * d, 4 * n * d * dtype.itemsize)


def _with_fixed_scale(inputs: Inputs) -> Inputs:
    return {**inputs, "logit_scale": inputs["logit_scale"].detach()}


def _memeff(inputs: Inputs) -> Step:
    from memeff import MemoryEfficientCLIPLoss

    # Its default, stable=True, scales the gradient by another factor than the loss.
    module = MemoryEfficientCLIPLoss(1 / LOGIT_SCALE, normalized_inputs=True, stable=False)
    return lambda: module(inputs["image"], inputs["text"])


def _siglip(inputs: Inputs) -> Step:
    from siglip_kernel import fused_siglip_loss

    image, text, scale = (inputs[name] for name in ("image", "text", "logit_scale"))
    bias = torch.full_like(scale, SIGMOID_BIAS)
    return lambda: fused_siglip_loss(image, text, scale.log(), bias)


CLIP = Case(
    "clip_loss",
    FAMILY,
    "CLIP",
    ("N", "D"),
    inputs=_clip_inputs,
    ours=SF.clip_loss,
    eager=eager_clip_loss,
    exact=exact_clip_loss,
    peers={
        "lightly": "lightly has no CLIP loss.",
        "memeff": Peer(
            _memeff,
            note="memeff has no gradient for the scale; it is timed without.",
            inputs=_with_fixed_scale,
        ),
        "siglip": Peer(
            _siglip,
            note="siglip is timed on the sigmoid loss of the same pairs, another objective; scale and bias are fixed.",
            inputs=_with_fixed_scale,
            exact=exact_sigmoid_loss,
        ),
    },
    cost=_clip_cost,
    pairs=logits_stored(_clip_logits),
    path=logits_path(
        "both sides: threads walk the diagonals of a Latin square of blocks; a tile serves rows and columns.",
        _clip_logits,
    ),
    workspace=_workspace(_clip_logits),
    sizes=(
        Size((2048, 512), "small", targets(*in_both("compile", 1.05))),
        Size(
            (4096, 768),
            "small",
            targets(Target(F32, "eager", 1.3), Target(BF16, "eager", 2.0), *in_both("compile", 1.05)),
        ),
        Size((32768, 512), "recipe", targets()),
        Size((32768, 768), "recipe", targets()),
        Size((32768, 1024), "recipe", targets()),
        Size((65536, 512), "recipe", targets(*_on_gpu_in_bf16(seconds=0.034, bytes=1.5e9, memeff=1.0, siglip=1.0))),
        Size((65536, 768), "recipe", targets(*_on_gpu_in_bf16(seconds=0.05, bytes=1.5e9, memeff=1.0, siglip=1.0))),
        Size((131072, 384), "recipe", targets()),
        *(Size((n, 512), "crossover") for n in (16, 32)),
        *(
            Size((n, 512), "crossover", targets(*in_both("eager", 1.1), *in_both("compile", 1.0)))
            for n in (64, 128, 256, 512, 1024)
        ),
        Size((64, 32), "quick"),
    ),
)

# Log-sum-exp of similarities


def _logsumexp_logits(shape: Shape) -> Logits:
    n, m, d = shape
    return Logits(n, m, d)


def _logsumexp_inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    n, m, d = shape
    x, y = (F.normalize(draw.normal(count, d), dim=1) for count in (n, m))
    return {"x": draw.ready(x), "y": draw.ready(y)}


def _ours_logsumexp(x: Tensor, y: Tensor, backend: str) -> Tensor:
    return SF.logsumexp_similarity(x, y, backend=backend).mean()


def eager_logsumexp(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T).logsumexp(1).mean()


def exact_logsumexp(x: Inputs, block: int) -> Tensor:
    return _cross_entropy(x["x"], x["y"], 1.0, None, None, block)


def _logsumexp_cost(shape: Shape, dtype: torch.dtype) -> Cost:
    n, m, d = shape
    return Cost(2 * n * m * d, 4 * n * m * d, 2 * (n + m) * d * dtype.itemsize)


LOGSUMEXP = Case(
    "logsumexp_similarity",
    FAMILY,
    "log-sum-exp",
    ("N", "M", "D"),
    inputs=_logsumexp_inputs,
    ours=_ours_logsumexp,
    eager=eager_logsumexp,
    exact=exact_logsumexp,
    cost=_logsumexp_cost,
    pairs=logits_stored(_logsumexp_logits),
    path=logits_path(
        "rows forward, one side: each thread keeps its rows; with gradients for x and y the backward walks the "
        "diagonals of a Latin square of blocks.",
        _logsumexp_logits,
    ),
    workspace=_workspace(_logsumexp_logits),
)

CASES = (NT_XENT, INFO_NCE, IN_BATCH_INFO_NCE, CLIP, LOGSUMEXP)
