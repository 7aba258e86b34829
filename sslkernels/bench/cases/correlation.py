# SPDX-License-Identifier: Apache-2.0
"""Losses of the correlations between features. Their dense path stores a D × D matrix."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import sslkernels.functional as SF
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
    in_both,
    on_gpu,
    targets,
    tiles,
)  # fmt: skip
from sslkernels.evaluation import rank_me

LAMBD = 5e-3
_TWICE = in_both("lightly", 2.0)
# Where a product of BLAS is as good as any, ours is ahead by little.
_AHEAD = (*in_both("eager", 1.05), *in_both("compile", 1.05))

FAMILY = Family(
    "correlation",
    "Correlation",
    "Barlow Twins and VICReg, `sslkernels bench run correlation`. *Dual* is plain PyTorch with the identity that our\n"
    "side of samples rests on, `‖aᵀb‖² = ⟨aaᵀ, bbᵀ⟩`: what it gives without kernels.",
)


def _inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    z0, z1 = draw.views(*shape)
    return {"z0": draw.ready(z0), "z1": draw.ready(z1)}


def _cost(shape: Shape, dtype: torch.dtype) -> Cost:
    """The forward takes two halves of symmetric products or one whole product, the backward two whole ones."""
    n, d = shape
    least = n * d * min(n, d)
    return Cost(2 * least, 4 * least, 4 * n * d * dtype.itemsize)


def _pairs(shape: Shape) -> int:
    return shape[1] ** 2


def _work(shape: Shape) -> int:
    """Most providers form the D × D matrix, so that sizes are ordered by its work."""
    return shape[0] * shape[1] ** 2


def _path(matrices_of_features: str, backend: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> str:
    from sslkernels.ops.correlation import choose_side

    n, d = shape
    side = choose_side(n, d)
    size, why = (n, f"N = {n} < D = {d}") if side == "samples" else (d, f"D = {d} <= N = {n}")
    matrices = matrices_of_features if side == "features" else "two"
    path = f"side of {side}, since {why}: {matrices} of {size} x {size}, kept for the backward"
    return f"{path}. {tiles(dtype)}" if backend == "cpu" else f"{path}."


def _off_diagonal(c: Tensor) -> Tensor:
    """View the square matrix without its diagonal. There is no mask and no copy."""
    d = len(c)
    return c.flatten()[1:].view(d - 1, d + 1)[:, :-1]


def _correlation(a: Tensor, b: Tensor, divisor: int, block: int) -> tuple[Tensor, Tensor]:
    """Compute the diagonal of a^T b / divisor, and the sum of the squares off it."""

    def of_columns(a: Tensor, b: Tensor, start: int) -> tuple[Tensor, Tensor]:
        c = a.T @ b / divisor
        own = torch.arange(b.shape[1], device=c.device)
        diagonal = c[own + start, own]
        return diagonal, c.index_put((own + start, own), c.new_zeros(())).square().sum()

    size = max(1, block // a.shape[1])
    parts = [checkpoint(of_columns, a, part, k * size, use_reentrant=False) for k, part in enumerate(b.split(size, 1))]
    return torch.cat([diagonal for diagonal, _ in parts]), sum((off for _, off in parts), a.new_zeros(()))


# Barlow Twins


def eager_barlow_twins(z0: Tensor, z1: Tensor) -> Tensor:
    a, b = (F.batch_norm(z, None, None, training=True) for z in (z0, z1))
    c = a.T @ b / len(a)
    return (c.diagonal() - 1).square().sum() + LAMBD * _off_diagonal(c).square().sum()


def dual_barlow_twins(z0: Tensor, z1: Tensor) -> Tensor:
    a, b = (F.batch_norm(z, None, None, training=True) for z in (z0, z1))
    diagonal = (a * b).mean(0)
    total = ((a @ a.T) * (b @ b.T)).sum() / len(a) ** 2
    return (diagonal - 1).square().sum() + LAMBD * (total - diagonal.square().sum())


def exact_barlow_twins(x: Inputs, block: int) -> Tensor:
    a, b = (F.batch_norm(x[view], None, None, training=True) for view in ("z0", "z1"))
    diagonal, off = _correlation(a, b, len(a), block)
    return (1 - diagonal).square().sum() + LAMBD * off


def _lightly_barlow_twins(inputs: Inputs) -> Step:
    from lightly.loss import BarlowTwinsLoss

    module = BarlowTwinsLoss(LAMBD)
    return lambda: module(inputs["z0"], inputs["z1"])


BARLOW_TWINS = Case(
    "barlow_twins",
    FAMILY,
    "Barlow Twins",
    ("N", "D"),
    shape_note="N per view",
    wording="N={N} per view, D={D}, {dtype}",
    inputs=_inputs,
    ours=partial(SF.barlow_twins, lambd=LAMBD),
    eager=eager_barlow_twins,
    exact=exact_barlow_twins,
    dual=dual_barlow_twins,
    peers={"lightly": Peer(_lightly_barlow_twins)},
    cost=_cost,
    pairs=_pairs,
    stored="matrix of columns",
    work=_work,
    path=partial(_path, "one"),
    sizes=(
        Size((128, 8192), "small", targets()),
        Size(
            (256, 8192),
            "small",
            targets(Target(F32, "eager", 18.0), Target(F32, "lightly", 30.0)),
            recipe_too=True,
        ),
        Size((512, 4096), "small", targets(Target(F32, "eager", 6.0))),
        Size((2048, 512), "small", targets(*_TWICE, *_AHEAD)),
        Size((512, 512), "small", targets(*_TWICE, *_AHEAD)),
        Size((2048, 8192), "recipe", targets(*on_gpu("eager", 3.0), Target(BF16, "seconds", 1.3e-3, "cuda"))),
        Size((4096, 2048), "recipe", targets()),
        Size((2048, 16384), "recipe", targets()),
        *(Size((64, d), "crossover", targets(*_AHEAD)) for d in (64, 128, 256)),
        *(Size((64, d), "crossover") for d in (512, 1024, 2048)),
        Size((32, 96), "quick"),
    ),
)

# VICReg


def eager_vicreg(z0: Tensor, z1: Tensor) -> Tensor:
    loss = 25 * F.mse_loss(z0, z1)
    for z in (z0, z1):
        loss = loss + 12.5 * F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
        z = z - z.mean(0)
        loss = loss + _off_diagonal(z.T @ z / (len(z) - 1)).square().sum() / z.shape[1]
    return loss


def dual_vicreg(z0: Tensor, z1: Tensor) -> Tensor:
    loss = 25 * F.mse_loss(z0, z1)
    for z in (z0, z1):
        z = z - z.mean(0)
        variances = z.square().sum(0) / (len(z) - 1)
        loss = loss + 12.5 * F.relu(1 - (variances + 1e-4).sqrt()).mean()
        total = (z @ z.T).square().sum() / (len(z) - 1) ** 2
        loss = loss + (total - variances.square().sum()) / z.shape[1]
    return loss


def exact_vicreg(x: Inputs, block: int) -> Tensor:
    terms = [25 * F.mse_loss(x["z0"], x["z1"])]
    for z in (x["z0"] - x["z0"].mean(0), x["z1"] - x["z1"].mean(0)):
        variances, off = _correlation(z, z, len(z) - 1, block)
        terms += [12.5 * F.relu(1 - (variances + 1e-4).sqrt()).mean(), off / z.shape[1]]
    return sum(terms, z.new_zeros(()))


def _lightly_vicreg(inputs: Inputs) -> Step:
    from lightly.loss import VICRegLoss

    module = VICRegLoss()
    return lambda: module(inputs["z0"], inputs["z1"])


VICREG = Case(
    "vicreg",
    FAMILY,
    "VICReg",
    ("N", "D"),
    shape_note="N per view",
    wording="N={N} per view, D={D}, {dtype}",
    inputs=_inputs,
    ours=SF.vicreg,
    eager=eager_vicreg,
    exact=exact_vicreg,
    dual=dual_vicreg,
    peers={"lightly": Peer(_lightly_vicreg)},
    cost=_cost,
    pairs=_pairs,
    stored="matrix of columns",
    work=_work,
    path=partial(_path, "two"),
    sizes=(
        Size((128, 8192), "small", targets()),
        Size(
            (256, 8192),
            "small",
            targets(Target(F32, "eager", 20.0), Target(F32, "lightly", 40.0)),
            recipe_too=True,
        ),
        Size((512, 4096), "small", targets()),
        Size((2048, 512), "small", targets(*_TWICE)),
        Size((512, 512), "small", targets(*_TWICE)),
        Size((2048, 8192), "recipe", targets()),
        Size((4096, 2048), "recipe", targets()),
        Size((2048, 16384), "recipe", targets()),
        *(Size((64, d), "crossover") for d in (64, 128, 256, 512, 1024, 2048)),
        Size((96, 32), "quick"),
    ),
)

# RankMe, which has no gradient


def _rank_inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    """Draw rows whose directions have variances from 1 to 1e-6, as features of an encoder have."""
    n, d = shape
    z = draw.normal(n, d)
    return {"z": draw.ready(z * torch.logspace(0, -3, d, device=z.device), grad=False)}


def _rank_me(z: Tensor, backend: str) -> Tensor:
    return torch.tensor(rank_me(z), dtype=torch.float64)


def eager_rank_me(z: Tensor) -> Tensor:
    values = torch.linalg.svdvals(z if z.dtype == torch.float64 else z.float())
    shares = values / values.sum() + 1e-7
    return torch.exp(-(shares * shares.log()).sum())


def exact_rank_me(x: Inputs, block: int) -> Tensor:
    values = torch.linalg.svdvals(x["z"].double())
    total = values.sum()
    return torch.special.entr(values / total + 1e-7).sum().exp()


def _rank_cost(shape: Shape, dtype: torch.dtype) -> Cost:
    """Half of the symmetric products of columns, or of rows; a decomposition of them is beside."""
    n, d = shape
    return Cost(n * d * min(n, d), 0, n * d * dtype.itemsize)


RANK_ME = Case(
    "rank_me",
    FAMILY,
    "RankMe",
    ("N", "D"),
    shape_note="no kernel of ours, on any backend",
    not_recorded="rank_me returns a Python number, and has no kernel of ours.",
    inputs=_rank_inputs,
    ours=_rank_me,
    eager=eager_rank_me,
    exact=exact_rank_me,
    search=True,
    peers={"lightly": "lightly has no rank of features."},
    cost=_rank_cost,
    pairs=lambda shape: shape[0] * shape[1],
    stored="decomposed rows",
    path=lambda backend, shape, dtype, device: (
        "PyTorch multiplies columns in float64, block by block, and takes the eigenvalues of the D x D products."
    ),
    sizes=(
        Size((50000, 512), "small", targets()),
        Size((256, 32), "quick"),
    ),
)

CASES = (BARLOW_TWINS, VICREG, RANK_ME)
