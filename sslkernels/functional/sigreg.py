# SPDX-License-Identifier: Apache-2.0
"""Compute LeJEPA's losses: no tensor over the knots exists, and value and gradient come from one call."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import (
    check_alike,
    check_device,
    check_fits,
    check_generator,
    check_number,
    check_rows,
    check_size,
    check_tensor,
    shape_of,
)
from sslkernels.distributed import GroupLike, Shard, broadcast, shard_of
from sslkernels.ops.dtypes import stacked, wide
from sslkernels.ops.sigreg import sketched

VIEWS = "(..., N, C), at least one view of N samples"


def sigreg(
    z: Tensor,
    slices: Tensor | None = None,
    *,
    knots: int = 17,
    t_max: float = 3.0,
    num_slices: int = 1024,
    generator: torch.Generator | None = None,
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Make embeddings normal along random lines (SIGReg of LeJEPA, Balestriero & LeCun 2025).

    For each view and slice a, with ``p_n = <z_n, a>``, the Epps-Pulley statistic is N times the trapezoidal integral
    over [-t_max, t_max] of ``exp(-t^2/2) |mean_n exp(i t p_n) - exp(-t^2/2)|^2``. The loss is its mean over both.

    Args:
        z: ``(..., N, C)``, N samples of each view; float32, float64, bfloat16 or float16. Under autocast projections
            are formed in its dtype; everything after them is float32 (float64 for float64 ``z``).
        slices: ``(C, S)``, unit columns, constants without a gradient. By default ``num_slices`` are drawn anew.
        knots: points of the trapezoidal rule on [0, t_max], both ends included; at least 2.
        t_max: where the integral ends.
        num_slices: how many slices are drawn.
        generator: draws the slices, on the device of ``z``; by default torch's own.
        group: the value is that of the samples of all ranks, the same on each, and gradients averaged over ranks (DDP)
            are those of one process; ranks may hold different N. The slices of the group's first rank are used on all
            of them, given ones too. ``None`` never communicates.
        backend: see `logsumexp_similarity`.

    Returns:
        0-dim float32 (float64 for float64 ``z``). Differentiable once.

    Cost beside the product with the slices: two passes over the projections, with some 7 operations per projection and
    knot each. The gradient comes with the value: a forward with gradients costs up to three times a plain one, the
    backward next to nothing. Memory holds the projections (M*N*S), whose place their gradient takes on a CPU, and
    elsewhere their gradient and M*S*knots sums. Ranks exchange 2*M*S*knots floats forward, none backward, and C*S of
    slices. Without a group nothing waits for the device.

    ``torch.compile(fullgraph=True)`` works for ``group=None``; with a group compile the part before the loss.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> z = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    >>> SF.sigreg(z, torch.eye(2)), SF.sigreg(10 * z, torch.eye(2))
    (tensor(0.2057), tensor(5.3949))
    """
    check_projections("sigreg", "z", z)
    z = z.reshape(z.shape[:-2].numel(), *z.shape[-2:])
    knots, t_max = check_rule("sigreg", knots, t_max)
    count = _check_slices("sigreg", z, slices, num_slices, generator, knots)
    shard = _shard("sigreg", z, group, slices=count, knots=knots, t_max=t_max)
    lines = _slices(z, slices, count, generator, shard)
    return sketched(z, lines, t_max / (knots - 1), knots, 0, 1.0, shard, backend)


def lejepa(
    local_z: Tensor,
    global_z: Tensor,
    slices: Tensor | None = None,
    *,
    weight: float = 0.05,
    knots: int = 17,
    t_max: float = 3.0,
    num_slices: int = 1024,
    generator: torch.Generator | None = None,
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Bring a sample's views together and keep embeddings normal (LeJEPA, Balestriero & LeCun 2025).

    ``weight * sigreg(all views) + (1 - weight) * invariance``, where invariance is the mean of ``(z - centre)^2`` over
    all views, and ``centre`` is the mean of a sample's global views.

    Args:
        local_z, global_z: ``(V, N, C)`` each, at least one view and the same N and C.
        weight: weight of the regulariser, in [0, 1].
        slices, knots, t_max, num_slices, generator, group, backend: see `sigreg`.

    Returns:
        0-dim float32 (float64 for float64 ``z``). With a ``group`` its mean over ranks is the value of one process;
        every rank must multiply it by the same number.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.lejepa(torch.ones(1, 4, 3), torch.zeros(2, 4, 3), torch.eye(3), weight=0.0)
    tensor(0.3333)
    """
    check_views_of_samples("lejepa", {"local_z": local_z, "global_z": global_z})
    weight = check_number("lejepa", "weight", weight, least=0, most=1)
    every = stacked(global_z, local_z)
    knots, t_max = check_rule("lejepa", knots, t_max)
    count = _check_slices("lejepa", every, slices, num_slices, generator, knots)
    settings = {"global_views": len(global_z), "weight": weight, "slices": count, "knots": knots, "t_max": t_max}
    shard = _shard("lejepa", every, group, **settings)
    lines = _slices(every, slices, count, generator, shard)
    return sketched(every, lines, t_max / (knots - 1), knots, len(global_z), weight, shard, backend)


def _slices(z: Tensor, slices: Tensor | None, count: int, generator: torch.Generator | None, shard: Shard) -> Tensor:
    """Return unit columns (C, S) in the dtype of z, given or drawn; every rank gets those of the first rank."""
    if slices is None:
        drawn = {} if generator is None else {"generator": generator}  # torch.compile accepts no None here
        slices = torch.randn(z.shape[2], count, dtype=wide(z.dtype), device=z.device, **drawn)
        slices = slices / slices.norm(dim=0)
    return broadcast(slices.to(z.dtype), shard)


def _shard(function: str, z: Tensor, group: GroupLike, **settings: object) -> Shard:
    shard = Shard.alone if group is None else shard_of(group, function, z[0], views=len(z), **settings)
    if shard.total(z.shape[1]) == 0:
        raise ValueError(f"{function}: there are no samples; the loss needs at least one.")
    return shard


def check_views_of_samples(function: str, views: dict[str, Tensor]) -> None:
    """Check two tensors ``(V, N, C)``, which need at least one view each and the same samples and features."""
    for name, z in views.items():
        check_projections(function, name, z)
        if z.dim() != 3 or z.shape[0] == 0:
            raise ValueError(f"{function}: {name} has shape {shape_of(z)}; expected (V, N, C) with a view or more.")
    (name0, z0), (name1, z1) = views.items()
    if z0.shape[1:] != z1.shape[1:]:
        raise ValueError(
            f"{function}: {name0} has shape {shape_of(z0)} and {name1} {shape_of(z1)}; "
            "both need the same samples and features."
        )
    check_alike(function, name1, z1[0], name0, z0[0], rows=True)


def check_projections(function: str, name: str, z: Tensor) -> None:
    """Check a tensor ``(..., N, C)``, which needs at least one view."""
    z = check_tensor(function, name, z, VIEWS)
    check_rows(function, name, z.flatten(0, -2) if z.dim() > 2 else z, VIEWS)
    if z.shape[:-2].numel() == 0:
        raise ValueError(f"{function}: {name} has shape {shape_of(z)}; expected {VIEWS}.")


def check_rule(
    function: str, knots: int, t_max: float, names: tuple[str, str] = ("knots", "t_max")
) -> tuple[int, float]:
    """Check the number of knots of the trapezoidal rule, both ends included, and where it ends."""
    knots = check_size(function, names[0], knots, least=2)
    check_fits(function, names[0], knots, knots)
    return knots, check_number(function, names[1], t_max, above=0)


def _check_slices(
    function: str, z: Tensor, slices: Tensor | None, num_slices: int, generator: torch.Generator | None, knots: int
) -> int:
    """Count the slices, and check that their projections and the sums over ``knots`` fit memory."""
    num_slices = check_size(function, "num_slices", num_slices)
    check_generator(function, generator, z.device)
    if slices is None:
        check_fits(function, "num_slices", num_slices, num_slices * max(z.shape[2], z.shape[:2].numel()))
        check_fits(function, "knots", knots, 2 * knots * num_slices * z.shape[0])
        return num_slices
    if generator is not None:
        raise ValueError(f"{function}: generator came with slices, which are used as given; drop one of them.")
    check_rows(function, "slices", slices, "(C, S), a slice per column")
    if slices.shape[0] != z.shape[2]:
        raise ValueError(
            f"{function}: slices has shape {shape_of(slices)} and z {z.shape[2]} features; "
            "slices are columns, (C, S): did you pass their transpose?"
        )
    check_device(function, "slices", slices, "z", z)
    return slices.shape[1]
