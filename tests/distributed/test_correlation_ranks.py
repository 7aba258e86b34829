# SPDX-License-Identifier: Apache-2.0
"""Compare the correlation family on two and three gloo processes with one, on both sides, with either statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import correlation_oracle
import pytest
import rows_oracle
import torch
from torch import Tensor
from worlds import WorldsOf, caught

import sslkernels.functional as SF

D_IN, D = 6, 5
SIDES = ("samples", "features")


def weighted(pair: tuple[Tensor, Tensor]) -> Tensor:
    """Make one number of a diagonal and a total."""
    diagonal, total = pair
    return (diagonal * torch.linspace(1, 2, len(diagonal), dtype=diagonal.dtype)).sum() + total


# Our loss takes two views; the oracle's takes all rows, and how many of them each rank holds.
LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "barlow-local": (
        lambda a, b, **o: SF.barlow_twins(a, b, lambd=0.3, **o),
        lambda a, b, sizes: correlation_oracle.barlow_twins(a, b, 0.3, sizes=sizes),
    ),
    "barlow-local-outside": (
        lambda a, b, **o: SF.barlow_twins(a, b, lambd=0.3, convention="stable-pretraining", **o),
        lambda a, b, sizes: correlation_oracle.barlow_twins(a, b, 0.3, 1e-5, "stable-pretraining", sizes),
    ),
    "barlow-global": (
        lambda a, b, **o: SF.barlow_twins(a, b, lambd=0.3, statistics="global", **o),
        lambda a, b, sizes: correlation_oracle.barlow_twins(a, b, 0.3),
    ),
    "vicreg": (SF.vicreg, lambda a, b, sizes: correlation_oracle.vicreg(a, b)),
    "covariance_penalty": (
        lambda a, b, **o: SF.covariance_penalty(a, **o) + 0 * b.sum(),
        lambda a, b, sizes: correlation_oracle.covariance_penalty(a) + 0 * b.sum(),
    ),
    "variance_hinge": (
        lambda a, b, side, **o: SF.variance_hinge(0.3 * a, **o) + 0 * b.sum(),
        lambda a, b, sizes: correlation_oracle.variance_hinge(0.3 * a) + 0 * b.sum(),
    ),
    "cross_correlation_sq": (
        lambda a, b, **o: weighted(SF.cross_correlation_sq(a, b, **o)),
        lambda a, b, sizes: weighted(correlation_oracle.cross_correlation_sq(a, b)),
    ),
}
SHARDS = {2: ((4, 4), (5, 2), (6, 0)), 3: ((3, 3, 3), (2, 5, 2), (1, 0, 6))}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Case:
    loss: str
    sizes: tuple[int, ...]
    side: str
    backend: str = "cpu"
    dtype: torch.dtype = torch.float64
    unlike: bool = False  # ranks weigh their losses differently
    scale: float = 1.0

    def __str__(self) -> str:
        shape = "+".join(map(str, self.sizes))
        unlike = "-unlike" if self.unlike else ""
        return f"{self.loss}-{self.side}-{shape}-{self.backend}-{str(self.dtype)[6:]}{unlike}-{self.scale:g}"

    def weight(self, place: int) -> float:
        return 1.0 + place if self.unlike else 1.0


def cases(world: int) -> list[Case]:
    even, uneven, ragged = SHARDS[world]
    made = []
    for loss in LOSSES:
        whole = not loss.startswith("barlow-local")  # a rank of one row has no variance of its own
        for side in SIDES:
            made += [Case(loss, sizes, side) for sizes in ((even, uneven, ragged) if whole else (even, uneven))]
            made += [Case(loss, sizes, side, "reference") for sizes in ((uneven, ragged) if whole else (uneven,))]
            made += [Case(loss, uneven, side, dtype=torch.float32), Case(loss, uneven, side, unlike=True)]
    made += [
        Case(loss, uneven, side, dtype=torch.float32, scale=scale)
        for loss in ("barlow-global", "vicreg", "covariance_penalty", "cross_correlation_sq")
        for side in SIDES
        for scale in (1e-8, 1e8)
    ]
    made += [Case(loss, even, side, dtype=torch.bfloat16) for loss in ("barlow-global", "vicreg") for side in SIDES]
    return made


def problem(case: Case) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Make the concatenated batch of both views, and the encoders that every rank holds."""
    generator = torch.Generator().manual_seed(len(str(case)))
    x0, x1 = torch.randn(2, sum(case.sizes), D_IN, generator=generator, dtype=torch.float64).unbind()
    encoders = [
        (case.scale * torch.randn(D_IN, D, generator=generator, dtype=torch.float64)).to(case.dtype) for _ in range(2)
    ]
    return x0, (x0 + 0.5 * x1), [encoder.requires_grad_() for encoder in encoders]


def run_case(case: Case, place: int) -> dict[str, Any]:
    x0, x1, encoders = problem(case)
    start = sum(case.sizes[:place])
    own = slice(start, start + case.sizes[place])
    z0, z1 = (x[own].to(case.dtype) @ encoder for x, encoder in zip((x0, x1), encoders, strict=True))
    value = LOSSES[case.loss][0](z0, z1, side=case.side, group="world", backend=case.backend)
    gradients = torch.autograd.grad(case.weight(place) * value, encoders)
    return {"value": value.detach(), "gradients": list(gradients)}


def sentences(rank: int) -> dict[str, str]:
    heard = {}
    rows = torch.randn(3, 4)
    for name, call in {
        "one row": lambda: SF.barlow_twins(rows[:1], rows[:1], group="world"),
        "statistics": lambda: SF.barlow_twins(rows, rows, statistics="local" if rank else "global", group="world"),
        "no row": lambda: SF.vicreg(rows[:0], rows[:0], group="world"),
    }.items():
        try:
            call()
            heard[name] = "nothing was raised"
        except ValueError as error:
            heard[name] = str(error)
    return heard


def job(rank: int, world: int) -> dict[str, Any]:
    results = {str(case): caught(run_case, case, rank) for case in cases(world)}
    return {**results, "sentences": caught(sentences, rank)}


Worlds = Callable[[int], list[dict[str, Any]]]


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    return WorldsOf(job, tmp_path_factory)


@pytest.mark.parametrize("world, case", [(world, case) for world in (2, 3) for case in cases(world)], ids=str)
def test_ranks_together_equal_one_process(worlds: Worlds, world: int, case: Case) -> None:
    results = [result[str(case)] for result in worlds(world)]
    for result in results:
        assert isinstance(result, dict), result
    x0, x1, encoders = problem(case)

    def whole(first: Tensor, second: Tensor) -> Tensor:
        return LOSSES[case.loss][1](x0 @ first, x1 @ second, case.sizes)

    exact = whole(*(encoder.detach().double() for encoder in encoders))
    tolerance = TOLERANCE[case.dtype]
    least = 1 if case.scale == 1 else 0  # an error is compared with a size of at least this
    for result in results:
        torch.testing.assert_close(result["value"].double(), exact, rtol=tolerance, atol=tolerance * least)
    weight = sum(case.weight(place) for place in range(world)) / world
    for view, gradient in enumerate(rows_oracle.gradients(whole, encoders)):
        assert gradient is not None
        together = sum(result["gradients"][view].double() for result in results) / world
        allowed = tolerance * (least + float(gradient.abs().max()))
        torch.testing.assert_close(together, weight * gradient, rtol=0, atol=allowed)


@pytest.mark.parametrize("world", [2, 3])
def test_too_few_rows_are_refused_on_every_rank(worlds: Worlds, world: int) -> None:
    for result in worlds(world):
        assert "z0 has [1, 1" in result["sentences"]["one row"] and "two rows" in result["sentences"]["one row"]
        assert "two rows" in result["sentences"]["no row"]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_that_disagree_on_statistics_all_hear_of_it(worlds: Worlds, world: int) -> None:
    assert all("statistics is" in result["sentences"]["statistics"] for result in worlds(world))
