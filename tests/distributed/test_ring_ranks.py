# SPDX-License-Identifier: Apache-2.0
"""Let blocks travel round rings of two to five gloo ranks, and hold SigLIP's loss over them against one process.

Worlds of even and odd size share the visits among the two directions differently. Ranks hold unlike numbers of rows,
or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import sigmoid_oracle
import torch
from rings import KINDS, sizes_of, watched
from torch import Tensor
from worlds import WorldsOf, caught

import sslkernels.functional as SF
from sslkernels.distributed import Shard, shard_of
from sslkernels.ring import travel

WORLDS = (4, *(pytest.param(world, marks=pytest.mark.slow) for world in (2, 3, 5)))
DTYPES = (torch.float64, torch.float32)
CLOSE = {torch.float64: 1e-12, torch.float32: 2e-6}
REDUCTIONS = ("mean", "sum", "none")
D, SCALE, BIAS = 6, 3.0, -2.0


def problem(sizes: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Draw images, texts, and what each image's loss is multiplied by after a "none"."""
    torch.manual_seed(sum(sizes))
    return torch.randn(sum(sizes), D).to(dtype), torch.randn(sum(sizes), D).to(dtype), torch.rand(sum(sizes)).to(dtype)


def run_case(kind: str, dtype: torch.dtype, reduction: str, rank: int, world: int) -> dict[str, Any]:
    sizes = sizes_of(kind, world)
    image, text, weights = (x.split(sizes)[rank].clone() for x in problem(sizes, dtype))
    leaves = [image.requires_grad_(), text.requires_grad_()]
    leaves += [torch.tensor(value, dtype=dtype, requires_grad=True) for value in (SCALE, BIAS)]
    with watched() as forward:
        value = SF.siglip_loss(*leaves, reduction=reduction, group="world")
    with watched() as backward:
        found = torch.autograd.grad((value * weights).sum() if reduction == "none" else value, leaves)
    with watched() as alone, torch.no_grad():
        again = SF.siglip_loss(*leaves, reduction=reduction, group="world")
    return {
        "value": value.detach(), "gradients": list(found), "without gradients": again,
        "forward": forward, "backward": backward, "alone": alone,
    }  # fmt: skip


def run_ring(rank: int, world: int) -> list[Any]:
    """Let two tensors travel, and two sums come home: each visit adds the visitor's numbers times this rank's."""
    shard = shard_of("world", "ring", torch.zeros(rank + 1, 1))
    block = torch.full((rank + 1, 2), float(rank + 1)), torch.arange(rank + 1).short()
    met = []

    def visit(visitor: Sequence[Tensor], of: int) -> list[Tensor]:
        assert (visitor[0] == of + 1).all() and visitor[1].tolist() == list(range(of + 1))
        met.append(of)
        return [visitor[0] * (rank + 1), visitor[0].double() + rank]

    home = travel(block, visit, (torch.empty(0, 2), torch.empty(0, 2).double()), shard)
    return [met, *home]


def silent() -> dict[str, Any]:
    x = torch.randn(3, D, requires_grad=True)
    with watched() as seen:
        SF.siglip_loss(x, x.detach(), 1.0).backward()
        travel([x], lambda *_: [], (), Shard.alone)
    return seen


def job(rank: int, world: int) -> dict[str, Any]:
    found = {
        f"{kind}-{dtype}-{reduction}": caught(run_case, kind, dtype, reduction, rank, world)
        for kind in KINDS for dtype in DTYPES for reduction in REDUCTIONS
    }  # fmt: skip
    return {**found, "ring": caught(run_ring, rank, world), "silent": caught(silent)}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> WorldsOf:
    return WorldsOf(job, tmp_path_factory)


def of_every_rank(worlds: WorldsOf, world: int, case: str) -> list[Any]:
    results = [result[case] for result in worlds(world)]
    assert not any(isinstance(result, str) for result in results), results
    return results


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_ranks_give_what_one_process_gives(
    worlds: WorldsOf, world: int, kind: str, dtype: torch.dtype, reduction: str
) -> None:
    """DDP averages gradients: their mean over ranks is that of all rows, and a text's sums up over ranks."""
    results = of_every_rank(worlds, world, f"{kind}-{dtype}-{reduction}")
    image, text, weights = problem(sizes_of(kind, world), dtype)
    given = weights if reduction == "none" else torch.full_like(weights, 1 / len(image) if reduction == "mean" else 1)
    exact = sigmoid_oracle.exact(image, text, SCALE, BIAS, given, paired=True)
    close = {"rtol": CLOSE[dtype], "atol": CLOSE[dtype] * float(exact.sums.max())}
    ranks = 1 if reduction == "none" else world
    if reduction == "none":
        torch.testing.assert_close(torch.cat([r["value"] for r in results]).double(), exact.sums, **close)
    else:
        value = (exact.sums * given.double()).sum()
        torch.testing.assert_close(sum(r["value"].double() for r in results) / ranks, value, **close)
    for place, wanted in enumerate((exact.dx, exact.dy)):
        together = torch.cat([r["gradients"][place].double() for r in results]) / ranks
        torch.testing.assert_close(together, wanted, **close)
    for place, wanted in ((2, exact.dscale), (3, exact.dbias)):
        torch.testing.assert_close(sum(r["gradients"][place].double() for r in results) / ranks, wanted, **close)
    for result in results:
        assert torch.equal(result["value"], result["without gradients"])


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_each_rank_sends_the_other_blocks_on_and_their_gradients_home(
    worlds: WorldsOf, world: int, reduction: str
) -> None:
    """W - 1 blocks of rows and as many of gradients leave a rank, in one batch for each step and one to go home."""
    block = 4 * D * 4
    for result in of_every_rank(worlds, world, f"even-{torch.float32}-{reduction}"):
        forward, backward, alone = (result[way] for way in ("forward", "backward", "alone"))
        gradients = forward if reduction != "none" else backward
        assert gradients["bytes"] == 2 * (world - 1) * block and gradients["batches"] == world // 2 + 2 - (world < 4)
        assert alone["bytes"] == (world - 1) * block and alone["batches"] == world // 2
        assert backward["batches"] == (0 if reduction != "none" else gradients["batches"])


@pytest.mark.parametrize("world", WORLDS)
def test_few_blocks_are_in_flight_however_many_ranks_there_are(worlds: WorldsOf, world: int) -> None:
    """Both ways a rank holds a visitor, the next one, and the sums that follow."""
    for result in of_every_rank(worlds, world, f"even-{torch.float32}-mean"):
        assert result["forward"]["alive"] <= 6


@pytest.mark.parametrize("world", WORLDS)
def test_every_block_visits_every_rank_once(worlds: WorldsOf, world: int) -> None:
    for rank, (met, products, sums) in enumerate(of_every_rank(worlds, world, "ring")):
        assert sorted(met) == list(range(world)) and met[0] == rank
        others = torch.arange(world)
        assert torch.equal(products, torch.full((rank + 1, 2), float((rank + 1) * (others + 1).sum())))
        assert torch.equal(sums, torch.full((rank + 1, 2), float(world * (rank + 1) + others.sum())).double())


@pytest.mark.parametrize("world", WORLDS)
def test_without_a_group_nothing_is_sent(worlds: WorldsOf, world: int) -> None:
    assert all(seen["batches"] == 0 for seen in of_every_rank(worlds, world, "silent"))
