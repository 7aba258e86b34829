# SPDX-License-Identifier: Apache-2.0
"""Let rows of `clip_loss` and `info_nce` travel among gloo ranks: the loss of one process, and nothing is gathered."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import formulas
import pytest
import rows_oracle
import similarity_oracle as oracle
import torch
from rings import KINDS, sizes_of, watched
from torch import Tensor
from worlds import WorldsOf, caught

import sslkernels.functional as SF
from sslkernels import distributed
from sslkernels.losses import InfoNCELoss

WORLDS = (4, *(pytest.param(world, marks=pytest.mark.slow) for world in (2, 3)))
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 5e-2}
REDUCTIONS = ("mean", "sum", "none")
D, TEMPERATURE = 6, 0.4
Loss = Callable[..., Tensor]
# Our loss and the oracle's take two sides of rows and a temperature.
LOSSES: dict[str, tuple[Loss, Loss]] = {
    "clip_loss": (lambda a, b, t, **o: SF.clip_loss(a, b, 1 / t, **o), lambda a, b, t: oracle.clip_loss(a, b, 1 / t)),
    "info_nce": (
        lambda a, b, t, **o: SF.info_nce(a, b, temperature=t, **o),
        lambda a, b, t: oracle.info_nce(a, b, temperature=t),
    ),
    "info_nce-raw": (
        lambda a, b, t, **o: SF.info_nce(a, b, temperature=t, normalize=False, **o),
        lambda a, b, t: oracle.info_nce(a, b, temperature=t, normalize=False),
    ),
    "info_nce-symmetric": (
        lambda a, b, t, **o: SF.info_nce(a, b, temperature=t, symmetric=True, **o),
        lambda a, b, t: oracle.info_nce(a, b, temperature=t, symmetric=True),
    ),
    "clip_loss-margin": (
        lambda a, b, t, **o: SF.clip_loss(a, b, 1 / t, margin=1.5, **o),
        lambda a, b, t: formulas.clip_loss(a.double(), b.double(), 1 / t, 1.5),
    ),
}
ALL = (True, True, True)  # the inputs that need a gradient


@dataclass(frozen=True)
class Case:
    loss: str
    kind: str = "uneven"
    reduction: str = "mean"
    dtype: torch.dtype = torch.float64
    needs: tuple[bool, ...] = ALL
    backend: str = "cpu"
    odd: float | None = None  # a number in one row of a and in another one of b

    def __str__(self) -> str:
        needs = "".join(name for name, need in zip("abt", self.needs, strict=True) if need)
        odd = "" if self.odd is None else f"-{self.odd}"
        return f"{self.loss}-{self.kind}-{self.reduction}-{str(self.dtype)[6:]}-{needs}-{self.backend}{odd}"


FORMS = ("clip_loss", "info_nce")
EXACT = [
    *(Case(loss, kind, reduction) for loss in FORMS for kind in KINDS for reduction in REDUCTIONS),
    *(Case(loss, reduction=r) for loss in LOSSES for r in ("mean", "none")),
    *(
        Case(loss, reduction=r, needs=needs)
        for loss in FORMS
        for r in ("mean", "none")
        for needs in itertools.product((True, False), repeat=3)
        if any(needs) and needs != ALL
    ),
    # At home there is no negative to sum, or nowhere.
    *(
        Case(loss, kind, r, needs=needs)
        for loss in FORMS
        for kind in ("one row each", "one row")
        for r, needs in (("mean", ALL), ("none", ALL), ("mean", (True, False, True)))
    ),
    *(Case(loss, "one without rows", r, backend="reference") for loss in FORMS for r in ("mean", "none")),
    *(Case(loss, reduction=r, dtype=torch.float32) for loss in FORMS for r in ("mean", "none")),
    *(Case(loss, dtype=torch.bfloat16) for loss in FORMS),
]
COUNTED = [
    Case(loss, "even", r, torch.float32, needs)
    for loss in ("clip_loss", "info_nce-raw")
    for r in ("mean", "none")
    for needs in (ALL, (True, False, True), (False, True, True))
]
ODD = [
    Case(loss, reduction=r, dtype=torch.float32, needs=needs, odd=odd)
    for loss in FORMS
    for r, needs in (("mean", ALL), ("none", ALL), ("mean", (True, False, True)))
    for odd in (torch.nan, torch.inf, -torch.inf)
]
CASES = list(dict.fromkeys([*EXACT, *COUNTED, *ODD]))


def problem(case: Case, sizes: Sequence[int]) -> list[Tensor]:
    """Draw both sides, and what each loss is multiplied by after a "none"."""
    torch.manual_seed(sum(sizes))
    a, b = torch.randn(2, sum(sizes), D).to(case.dtype)
    if case.odd is not None:
        a[0, 1] = b[-1, 2] = case.odd
    return [a, b, torch.rand(sum(sizes)).to(case.dtype)]


@contextmanager
def gathering() -> Iterator[list[Tensor]]:
    """List what is gathered or scattered."""
    seen: list[Tensor] = []
    before = distributed.all_gather, distributed._reduce_scatter

    def gathered(output: Tensor, *others: Any) -> None:
        seen.append(output)
        before[0](output, *others)

    def scattered(output: Tensor, *others: Any) -> None:
        seen.append(output)
        before[1](output, *others)

    distributed.all_gather, distributed._reduce_scatter = gathered, scattered
    try:
        yield seen
    finally:
        distributed.all_gather, distributed._reduce_scatter = before


def run_case(case: Case, ring: bool, rank: int, world: int) -> dict[str, Any]:
    sizes = sizes_of(case.kind, world)
    a, b, weights = (x.split(sizes)[rank].clone() for x in problem(case, sizes))
    t = torch.tensor(TEMPERATURE, dtype=case.dtype)
    leaves = [x.requires_grad_(need) for x, need in zip((a, b, t), case.needs, strict=True)]
    options = {"reduction": case.reduction, "group": "world", "ring": ring, "backend": case.backend}
    with gathering() as gathered:
        with watched() as forward:
            value = LOSSES[case.loss][0](*leaves, **options)
        with watched() as backward:
            scalar = (value * weights).sum() if case.reduction == "none" else value
            found = torch.autograd.grad(scalar, [leaf for leaf in leaves if leaf.requires_grad])
        with watched() as alone, torch.no_grad():
            again = LOSSES[case.loss][0](*leaves, **options)
    return {
        "value": value.detach(), "gradients": list(found), "without gradients": again, "gathered": len(gathered),
        "forward": forward, "backward": backward, "alone": alone,
    }  # fmt: skip


def silent() -> dict[str, Any]:
    """Ask for a ring where there is no group, and where nothing would be gathered."""
    x = torch.randn(3, D, requires_grad=True)
    with watched() as seen:
        alone = [SF.clip_loss(x, x.detach(), 1.0, ring=ring) for ring in (False, True)]
        queued = [SF.info_nce(x, x, negatives=x.detach(), ring=ring, group="world") for ring in (False, True)]
    return {**seen, "alike": torch.equal(*alone) and torch.equal(*queued)}


def module() -> list[Tensor]:
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, D)
    return [InfoNCELoss(symmetric=True, gather_distributed=True, ring=ring)(x, y) for ring in (False, True)]


def job(rank: int, world: int) -> dict[str, Any]:
    found = {f"{case}": caught(run_case, case, True, rank, world) for case in CASES}
    gathered = {f"{case}-gathered": caught(run_case, case, False, rank, world) for case in ODD}
    return {**found, **gathered, "silent": caught(silent), "module": caught(module)}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> WorldsOf:
    return WorldsOf(job, tmp_path_factory)


def of_every_rank(worlds: WorldsOf, world: int, case: object) -> list[Any]:
    results = [result[str(case)] for result in worlds(world)]
    assert not any(isinstance(result, str) for result in results), results
    return results


def compare(case: Case, results: list[Any], world: int) -> None:
    a, b, weights = problem(case, sizes_of(case.kind, world))
    leaves = [a, b, torch.tensor(TEMPERATURE, dtype=case.dtype)]
    given = weights.double()
    if case.reduction != "none":
        given = torch.full_like(given, 1 / len(a) if case.reduction == "mean" else 1)
    rows = LOSSES[case.loss][1](*leaves)
    exact = rows_oracle.gradients(lambda *x: (LOSSES[case.loss][1](*x) * given).sum(), leaves)
    ranks, close = (1 if case.reduction == "none" else world), CLOSE[case.dtype]
    if case.reduction == "none":
        found, wanted = torch.cat([r["value"] for r in results]).double(), rows
    else:
        found, wanted = sum(r["value"].double() for r in results) / ranks, (rows * given).sum()
    torch.testing.assert_close(found, wanted, rtol=close, atol=close)
    asked = [place for place, need in enumerate(case.needs) if need]
    for number, place in enumerate(asked):
        parts = [r["gradients"][number].double() for r in results]
        together = (sum(parts) if place == 2 else torch.cat(parts)) / ranks
        allowed = close * (1 + float(exact[place].abs().max()))
        torch.testing.assert_close(together, exact[place], rtol=0, atol=allowed)
    for result in results:
        torch.testing.assert_close(result["value"], result["without gradients"], rtol=close, atol=close)
        assert result["gathered"] == 0


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_ranks_give_what_one_process_gives(worlds: WorldsOf, world: int, loss: str) -> None:
    """DDP averages gradients: their mean over ranks is that of all rows, whichever inputs are frozen."""
    wrong = []
    for case in (case for case in EXACT if case.loss == loss):
        try:
            compare(case, of_every_rank(worlds, world, case), world)
        except AssertionError as error:
            wrong.append(f"{case}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", COUNTED, ids=str)
def test_each_rank_sends_the_other_blocks_on(worlds: WorldsOf, world: int, case: Case) -> None:
    """A side that needs a gradient stays, and the other one goes round with its log-sum-exps and their weights.

    Before that the keys have gone round, and log-sum-exps of columns have come home in float64.
    """
    both, (need_a, need_b, _), one_trip = case.loss == "clip_loss", case.needs, world // 2
    rows, sums = 4 * D * 4, 4 * 2 * 4
    first = rows + (4 * 8 if both else 0), one_trip + (2 - (world < 4) if both else 0)
    second = (rows + both * sums) * need_a + (rows + sums) * need_b, one_trip
    if not both and not need_b and case.reduction != "none":
        second = 0, 0  # frozen keys are summed on the first trip
    for result in of_every_rank(worlds, world, case):
        forward, backward, alone = (
            (result[way]["bytes"], result[way]["batches"]) for way in ("forward", "backward", "alone")
        )
        assert alone == ((world - 1) * first[0], first[1])
        late = case.reduction == "none"
        assert backward == ((world - 1) * second[0] * late, second[1] * late)
        assert forward == ((world - 1) * (first[0] + second[0] * (not late)), first[1] + second[1] * (not late))
        assert result["gathered"] == 0


@pytest.mark.parametrize("world", WORLDS)
def test_few_blocks_are_in_flight_however_many_ranks_there_are(worlds: WorldsOf, world: int) -> None:
    """Each way a rank holds a visitor and the next one, of two sides and the sums of each."""
    for result in of_every_rank(worlds, world, COUNTED[0]):
        assert result["forward"]["alive"] <= 2 * 2 * 4


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", ODD, ids=str)
def test_numbers_that_are_none_spread_as_they_do_where_rows_are_gathered(
    worlds: WorldsOf, world: int, case: Case
) -> None:
    travelling, gathered = (of_every_rank(worlds, world, f"{case}{end}") for end in ("", "-gathered"))
    for ours, theirs in zip(travelling, gathered, strict=True):
        for found, wanted in zip(
            (ours["value"], *ours["gradients"]), (theirs["value"], *theirs["gradients"]), strict=True
        ):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("world", WORLDS)
def test_where_nothing_would_be_gathered_a_ring_changes_nothing(worlds: WorldsOf, world: int) -> None:
    for seen in of_every_rank(worlds, world, "silent"):
        assert seen["batches"] == 0 and seen["alike"]


@pytest.mark.parametrize("world", WORLDS)
def test_the_module_takes_the_ring(worlds: WorldsOf, world: int) -> None:
    for gathered, travelled in of_every_rank(worlds, world, "module"):
        torch.testing.assert_close(gathered, travelled)
