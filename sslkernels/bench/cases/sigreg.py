# SPDX-License-Identifier: Apache-2.0
"""SIGReg holds projections against the standard normal. Its dense path stores every projection at every knot."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import sslkernels.functional as SF
from sslkernels.bench.cases.case import Case, Cost, Draw, Family, Inputs, Shape, Size, targets

KNOTS, T_MAX, SLICES = 17, 3.0, 1024
# Per projection and knot. Four multiply-adds serve two knots, and that includes their sums over the samples.
_OPERATIONS = 4

FAMILY = Family(
    "sigreg",
    "SIGReg",
    f"SIGReg over {SLICES} slices and {KNOTS} knots, `sslkernels bench run sigreg`.",
)


def _inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    """Rows have twice the standard deviation that the loss asks for, so that it has something to push."""
    n, d = shape
    z, slices = 2 * draw.normal(n, d), draw.normal(d, SLICES)
    return {"z": draw.ready(z), "slices": draw.ready(slices / slices.norm(dim=0), grad=False)}


def _ours(z: Tensor, slices: Tensor, backend: str) -> Tensor:
    return SF.sigreg(z, slices, knots=KNOTS, t_max=T_MAX, backend=backend)


def eager_sigreg(z: Tensor, slices: Tensor) -> Tensor:
    """Take cosine and sine of every projection at every knot, then the trapezoidal rule, as the paper writes it."""
    t = torch.linspace(0, T_MAX, KNOTS, device=z.device)
    weights = torch.full_like(t, 2 * T_MAX / (KNOTS - 1))
    weights[[0, -1]] /= 2
    normal = torch.exp(-t.square() / 2)
    angles = (z @ slices)[..., None] * t
    error = (angles.cos().mean(0) - normal).square() + angles.sin().mean(0).square()
    return len(z) * (error @ (weights * normal)).mean()


def exact_sigreg(x: Inputs, block: int) -> Tensor:
    """Integrate over the whole of [-t_max, t_max] rather than twice over its half, some slices at a time."""

    def of_slices(z: Tensor, slices: Tensor) -> Tensor:
        whole = torch.arange(1 - KNOTS, KNOTS, device=z.device).to(z.dtype) * (T_MAX / (KNOTS - 1))
        projections = (z @ slices).T
        real, imaginary = (
            torch.stack([turn(t * projections).mean(1) for t in whole], 1) for turn in (torch.cos, torch.sin)
        )
        normal = (-whole * whole / 2).exp()
        return torch.trapezoid(normal * ((real - normal) ** 2 + imaginary**2), whole, dim=1).sum()

    z, slices = x["z"], x["slices"]
    size = max(1, block // (2 * KNOTS * len(z)))
    parts = [checkpoint(of_slices, z, part, use_reentrant=False) for part in slices.split(size, 1)]
    return sum(parts, z.new_zeros(())) * (len(z) / slices.shape[1])


def _cost(shape: Shape, dtype: torch.dtype) -> Cost:
    """The forward takes the product with the slices and the sums at the knots, and the backward takes as much.

    Slices get no gradient. docs/design/sigreg.md derives the counts; sines and cosines are not in them.
    """
    n, d = shape
    once = 2 * n * d * SLICES + _OPERATIONS * n * SLICES * KNOTS
    return Cost(once, once, (2 * n * d + d * SLICES) * dtype.itemsize)


def _path(backend: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> str:
    projected = "projections are one matrix product of torch"
    if backend == "reference":
        return f"{projected}; cosine and sine of every projection at every knot are stored."
    return (
        f"{projected}; cosines and sines at all knots are products of a few of them, and are added over the samples as "
        "they are formed; the backward forms them again, and no tensor over the knots is stored."
    )


SIGREG = Case(
    "sigreg",
    FAMILY,
    "SIGReg",
    ("N", "D"),
    shape_note=f"one view, {SLICES} slices, {KNOTS} knots",
    inputs=_inputs,
    ours=_ours,
    eager=eager_sigreg,
    exact=exact_sigreg,
    peers={"lightly": "lightly draws other slices at every call, so that no truth is there to hold it against."},
    cost=_cost,
    pairs=lambda shape: shape[0] * SLICES * KNOTS,
    stored="angles",
    path=_path,
    sizes=(
        Size((512, 512), "small", targets()),
        Size((2048, 512), "small", targets()),
        Size((32, 16), "quick"),
    ),
)

CASES = (SIGREG,)
