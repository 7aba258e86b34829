# SPDX-License-Identifier: Apache-2.0
"""Test all states that last from step to step, on ranks with different seeds, inside and outside of DDP.

With a group every rank remembers what one process would remember of all rows; without one each rank remembers its own.
This file computes the expected states itself: it fills rings key by key, and averages by their formula.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest
import similarity_oracle as oracle
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from worlds import WorldsOf, caught

import sslkernels as sk
from sslkernels.losses import NTXentLoss, TiCoLoss
from sslkernels.losses.metric_learning import CrossBatchMemory
from sslkernels.losses.metric_learning import NTXentLoss as PairNTXentLoss
from sslkernels.methods import BYOL, HaLP, MoBY, MoCoV2, MoCoV3
from sslkernels.models import DirectPred
from sslkernels.modules import Remembering

IN, D, SIZE, STEPS, TOTAL = 3, 4, 7, 4, 10
PROTOTYPES = torch.arange(SIZE * D, dtype=torch.float64).view(SIZE, D).cos()
# A projection's BatchNorm needs two rows, or none at all.
SHARDS = {2: ((3, 3), (5, 2), (3, 0)), 3: ((2, 2, 2), (2, 4, 3), (0, 3, 2))}
WORLDS = (3, pytest.param(2, marks=pytest.mark.slow))
Trace = dict[str, Any]  # one rank's record: "start", and for every step "rows", "state" and perhaps "loss"


class Part(nn.Module):
    """Join an encoder and a module that remembers. Its buffer shows if DDP overwrote ours with the first rank's."""

    def __init__(self, remembers: nn.Module, rank: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(IN, D, dtype=torch.float64)
        self.remembers = remembers
        self.register_buffer("mark", torch.tensor(rank))

    def forward(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z0, z1 = self.encoder(x0), self.encoder(x1).detach()
        return self.call(z0, z1) + 0 * z0.sum(), z0.detach(), z1

    def call(self, z0: Tensor, z1: Tensor) -> Tensor:
        return self.remembers(z0, z1)

    def after_step(self, step: int) -> None:
        pass


class Queued(Part):
    def call(self, z0: Tensor, z1: Tensor) -> Tensor:
        self.remembers.enqueue(F.normalize(z1, dim=1), group=self.group)
        return z0.sum()


class Banked(Part):
    """Write rows of samples that overlap between ranks and within a batch."""

    def call(self, z0: Tensor, z1: Tensor) -> Tensor:
        self.remembers.update(places(len(z1)), F.normalize(z1, dim=1), group=self.group)
        return z0.sum()


def places(rows: int) -> Tensor:
    return torch.arange(rows) * 2 % 3


class Centred(Part):
    """Collect rows in two parts, and move the centre once a step."""

    def call(self, z0: Tensor, z1: Tensor) -> Tensor:
        self.remembers.collect(z1[:1])
        self.remembers.collect(z1[1:])
        return z0.sum()

    def after_step(self, step: int) -> None:
        self.remembers.update(PROTOTYPES, group=self.group)


GROUPED = Queued, Banked, Centred


class Predicted(Part):
    def call(self, z0: Tensor, z1: Tensor) -> Tensor:
        return self.remembers(z0).sum() + 0 * self.remembers(z1).sum()

    def after_step(self, step: int) -> None:
        self.remembers.after_step()


class Learning(nn.Module):
    """Use a method as a part: it learns from its embeddings, and remembers them."""

    def __init__(self, method: nn.Module, rank: int) -> None:
        super().__init__()
        self.remembers = method
        self.register_buffer("mark", torch.tensor(rank))

    def forward(self, x0: Tensor, x1: Tensor) -> tuple[Any, ...]:
        out = self.remembers([x0, x1])
        return out["loss"], *(row.detach() for row in out["embeddings"])

    def after_step(self, step: int) -> None:
        self.remembers.after_step(step, TOTAL)


def bank(size: Any, gathered: bool) -> NTXentLoss:
    return NTXentLoss(0.5, size, gathered).double()


def method(kind: type, group: Any, **options: Any) -> nn.Module:
    return kind(nn.Linear(IN, 5), feature_dim=5, projection_dim=D, group=group, **options).double()


MADE: dict[str, Callable[[Any, int], nn.Module]] = {
    "bank": lambda group, rank: Part(bank((SIZE, D), group is not None), rank),
    "lazy bank": lambda group, rank: Part(bank(SIZE, group is not None), rank),
    "queue": lambda group, rank: Queued(sk.MemoryQueue(SIZE, D).double(), rank),
    "rows": lambda group, rank: Banked(sk.MemoryBank(SIZE, D, momentum=0.25).double(), rank),
    "center": lambda group, rank: Centred(sk.Center(SIZE, momentum=0.25).double(), rank),
    "covariance": lambda group, rank: Part(TiCoLoss(gather_distributed=group is not None), rank),
    "correlation": lambda group, rank: Predicted(DirectPred(D, group=group).double(), rank),
    "MoCoV2": lambda group, rank: Learning(method(MoCoV2, group, queue_size=SIZE), rank),
    "HaLP": lambda group, rank: Learning(
        method(HaLP, group, queue_size=SIZE, prototypes=3, newest=5, every=2, generated=4, warm_up=1), rank
    ),
    "MoBY": lambda group, rank: Learning(method(MoBY, group, queue_size=SIZE, hidden_dim=6), rank),
    "MoCoV3": lambda group, rank: Learning(method(MoCoV3, group, hidden_dim=6), rank),
    "BYOL": lambda group, rank: Learning(method(BYOL, group, hidden_dim=6), rank),
}
# Each part has these states; the number says which rows of a step enter the state.
RINGS = {
    "bank": {"memory_bank.keys": 1},
    "lazy bank": {"memory_bank.keys": 1},
    "queue": {"keys": 1},
    "MoCoV2": {"queue.keys": 1},
    "HaLP": {"queue.keys": 1},
    "MoBY": {"queue0.keys": 2, "queue1.keys": 3},
}
OF_THE_WORLD = ("bank", "lazy bank", "covariance")  # gather_distributed has no smaller group than the world
# These are the teachers' first momenta; all but those of MoCo v2 and HaLP rise to 1 in half a cosine.
TAUGHT = {"MoCoV2": 0.999, "HaLP": 0.999, "MoBY": 0.99, "MoCoV3": 0.99, "BYOL": 0.996}


@dataclass(frozen=True)
class Case:
    made: str
    sizes: tuple[int, ...]
    gathered: bool
    wrapped: bool
    members: tuple[int, ...]

    def __str__(self) -> str:
        way = ("gathered" if self.gathered else "own") + ("-ddp" if self.wrapped else "")
        return f"{self.made}-{way}-{'+'.join(map(str, self.sizes))}-ranks{''.join(map(str, self.members))}"


def cases(world: int) -> list[Case]:
    everyone = tuple(range(world))
    made = []
    for name in MADE:
        for sizes in SHARDS[world]:
            if name in TAUGHT and 0 in sizes:
                continue
            # Without DDP students drift apart, so that there is no single teacher.
            wraps = (True,) if name in TAUGHT else (False, True)
            made += [Case(name, sizes, True, wrapped, everyone) for wrapped in wraps]
        # A correlation computes weights, and DDP keeps these the same on every rank, like BatchNorm's statistics.
        made += [Case(name, SHARDS[world][1], False, w, everyone) for w in wraps if not (name == "correlation" and w)]
        if world == 3 and name not in OF_THE_WORLD:
            made.append(Case(name, (2, 4), True, name in TAUGHT, (0, 2)))
    return made


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.remembers.state_dict().items() if isinstance(value, Tensor)}


def run(case: Case, rank: int, group: Any) -> Trace:
    place = case.members.index(rank)
    torch.manual_seed(rank)
    module = MADE[case.made](group if case.gathered else None, rank)
    if isinstance(module, GROUPED):
        module.group = group if case.gathered else None
    pg = dist.group.WORLD if len(case.members) == dist.get_world_size() else group
    trained = DistributedDataParallel(module, process_group=pg) if case.wrapped else module
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    torch.manual_seed(rank)  # a bank that gets its size at the first call draws its keys with this seed
    trace: Trace = {"start": snapshot(module), "steps": []}
    generator = torch.Generator().manual_seed(50 + rank)
    for step in range(STEPS):
        x0, x1 = torch.randn(2, case.sizes[place], IN, generator=generator, dtype=torch.float64)
        loss, *rows = trained(x0, x1)
        assert int(module.mark) == (case.members[0] if case.wrapped else rank), "DDP broadcasts buffers"
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        module.after_step(step)
        trace["steps"].append({"rows": rows, "state": snapshot(module), "loss": loss.detach()})
    return trace


def read_by_one(rank: int, world: int) -> dict[str, Any]:
    """Let only the first rank read the checkpoint, like trainers that leave the others to DDP."""
    found = {}
    for name in ("bank", "lazy bank", "queue", "rows", "center", "covariance"):
        torch.manual_seed(9)
        saved = MADE[name](None, 0).double()
        if isinstance(saved, GROUPED):
            saved.group = None
        saved(*torch.randn(2, 3, IN, dtype=torch.float64))
        saved.after_step(0)
        torch.manual_seed(rank)
        module = MADE[name]("world", rank).double()
        if isinstance(module, GROUPED):
            module.group = "world"
        if rank == 0:
            module.load_state_dict(copy.deepcopy(saved.state_dict()))
        _, z0, z1 = module(*torch.randn(2, 3, IN, generator=torch.Generator().manual_seed(rank), dtype=torch.float64))
        module.after_step(0)
        found[name] = {"saved": snapshot(saved), "state": snapshot(module), "rows": (z0, z1)}
    return found


def job(rank: int, world: int) -> dict[str, Any]:
    subgroups = {members: dist.new_group(list(members)) for members in sorted({c.members for c in cases(world)})}
    results: dict[str, Any] = {}
    for case in cases(world):
        if rank in case.members:
            group = "world" if len(case.members) == world else subgroups[case.members]
            results[str(case)] = caught(run, case, rank, group)
    results["read by one"] = caught(read_by_one, rank, world)
    return results


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> WorldsOf:
    return WorldsOf(job, tmp_path_factory)


def ring_of(start: Tensor, batches: list[Tensor]) -> Tensor:
    ring = start.clone()
    for place, key in enumerate(chain.from_iterable(batches)):
        ring[place % len(ring)] = key
    return ring


def drawn(rank: int) -> Tensor:
    """Draw the keys with which a bank starts that gets its size at the first call."""
    torch.manual_seed(rank)
    return F.normalize(torch.randn(SIZE, D), dim=1).double()


def start_of(trace: Trace, name: str, rank: int) -> Tensor:
    return trace["start"].get(name, drawn(rank))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-6, atol=1e-6)


def unit(x: Tensor) -> Tensor:
    return F.normalize(x.double(), dim=1)


def check_rings(case: Case, seen: list[Trace], of: list[int], rank: int, first: int) -> None:
    """Check one rank's rings: keys that the ranks ``of`` sent, in their order, replace those of the rank ``first``."""
    for name, place in RINGS[case.made].items():
        start = start_of(seen[first], name, case.members[first])
        sent: list[Tensor] = []
        for step in range(STEPS):
            before = ring_of(start, sent)
            if case.made in ("bank", "lazy bank") and rank == of[0]:
                check_losses(case, [seen[other]["steps"][step] for other in of], before)
            sent += [unit(seen[other]["steps"][step]["rows"][place]) for other in of]
            close(seen[rank]["steps"][step]["state"][name], ring_of(start, sent))


def bank_of(start: Tensor, batches: list[Tensor]) -> Tensor:
    """Blend the last row of each sample, in the order of the ranks, into the bank."""
    rows = start.clone()
    for batch in batches:
        for place, row in zip(places(len(batch)).tolist(), batch, strict=True):
            rows[place] = unit((0.25 * start[place] + 0.75 * row)[None])[0]
    return rows


def check_banks(seen: list[Trace], of: list[int], rank: int, first: int) -> None:
    rows = seen[first]["start"]["rows"]
    for step in range(STEPS):
        rows = bank_of(rows, [unit(seen[other]["steps"][step]["rows"][1]) for other in of])
        close(seen[rank]["steps"][step]["state"]["rows"], rows)


def check_centers(seen: list[Trace], of: list[int], rank: int, first: int) -> None:
    center = seen[first]["start"]["center"]
    for step in range(STEPS):
        rows = torch.cat([seen[other]["steps"][step]["rows"][1] for other in of])
        center = 0.25 * center + 0.75 * (rows @ PROTOTYPES.T).mean(0, keepdim=True)
        close(seen[rank]["steps"][step]["state"]["center"], center)


def check_losses(case: Case, steps: list[dict[str, Any]], before: Tensor) -> None:
    """Check that the mean over ranks is the loss of all rows against the bank before the step."""
    query, key = (torch.cat([step["rows"][place] for step in steps]) for place in (0, 1))
    expected = oracle.info_nce(query, key, before, 0.5).mean()
    close(torch.stack([step["loss"] for step in steps]).mean(), expected)


def check_sums(case: Case, seen: list[Trace], of: list[int], rank: int) -> None:
    beta, name = (0.9, "C") if case.made == "covariance" else (0.3, "correlation")
    average = torch.zeros(D, D, dtype=torch.float64)
    for step in range(STEPS):
        sides = (0,) if case.made == "covariance" else (0, 1)
        rows = torch.cat([seen[other]["steps"][step]["rows"][side] for other in of for side in sides])
        rows = unit(rows) if case.made == "covariance" else rows
        average = beta * average + (1 - beta) * rows.T @ rows / len(rows)
        state = seen[rank]["steps"][step]["state"]
        close(state[name], average)
        if name == "correlation":
            values, vectors = torch.linalg.eigh(average)
            values = (values.clamp(min=0) / values[-1]).sqrt() + 0.01
            close(state["weight"], vectors @ torch.diag(values.clamp(min=1e-4)) @ vectors.T)
            assert int(state["rows"]) == 0 and not state["products"].any()


def check_teacher(case: Case, seen: list[Trace], rank: int) -> None:
    """Check a teacher: it starts as the first rank's network, which DDP gives to all, and follows their student."""
    before = seen[0]["start"]
    for step in range(STEPS):
        state = seen[rank]["steps"][step]["state"]
        left = 1.0 if case.made in ("MoCoV2", "HaLP") else (math.cos(math.pi * step / TOTAL) + 1) / 2
        momentum = 1 - (1 - TAUGHT[case.made]) * left
        names = [name for name in state if name.startswith("teacher.module") and is_shared(name)]
        assert names
        for name in names:
            student = name.replace("teacher.module.0", "backbone").replace("teacher.module.1", "projector")
            close(state[name], momentum * before[name] + (1 - momentum) * state[student])
        before = state


def is_shared(name: str) -> bool:
    """Say if ranks share this state; BatchNorm's statistics are each rank's own from one forward to the next."""
    return not any(part in name for part in ("running_mean", "running_var", "num_batches"))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("made", MADE)
def test_ranks_remember_what_the_formula_says(worlds: WorldsOf, made: str, world: int) -> None:
    for case in (case for case in cases(world) if case.made == made):
        seen = [worlds(world)[rank][str(case)] for rank in case.members]
        for trace in seen:
            assert isinstance(trace, dict), f"{case}: {trace}"
        places = list(range(len(seen)))
        for place in places:
            of, first = (places, 0) if case.gathered else ([place], place)
            if case.made in RINGS:
                check_rings(case, seen, of, place, first)
            elif case.made == "rows":
                check_banks(seen, of, place, first)
            elif case.made == "center":
                check_centers(seen, of, place, first)
            elif case.made not in TAUGHT:
                check_sums(case, seen, of, place)
            if case.made in TAUGHT:
                check_teacher(case, seen, place)
            for step in range(STEPS) if case.gathered else ():
                state, first = (seen[one]["steps"][step]["state"] for one in (place, 0))
                assert all(torch.equal(state[name], value) for name, value in first.items() if is_shared(name))


@pytest.mark.parametrize("made", [made for made in MADE if made not in TAUGHT])
def test_one_rank_remembers_what_it_would_without_a_group(made: str) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        gathered, own = (run(Case(made, (3,), gathered, False, (0,)), 0, "world") for gathered in (True, False))
    finally:
        dist.destroy_process_group()
    for ours, others in zip(gathered["steps"], own["steps"], strict=True):
        assert all(torch.equal(ours["state"][name], value) for name, value in others["state"].items())


@pytest.mark.parametrize("world", WORLDS)
def test_a_checkpoint_that_one_rank_read_reaches_all(worlds: WorldsOf, world: int) -> None:
    results = [result["read by one"] for result in worlds(world)]
    for result in results:
        assert isinstance(result, dict), result
    for name in results[0]:
        keys, saved = [unit(result[name]["rows"][1]) for result in results], results[0][name]["saved"]
        rows = torch.cat([unit(result[name]["rows"][0]) for result in results])
        logits = torch.cat([result[name]["rows"][1] for result in results]) @ PROTOTYPES.T
        for result in results:
            state = result[name]["state"]
            if name == "rows":
                close(state["rows"], bank_of(saved["rows"], keys))
                continue
            if name == "center":
                close(state["center"], 0.25 * saved["center"] + 0.75 * logits.mean(0, keepdim=True))
                continue
            if name == "covariance":
                close(state["C"], 0.9 * saved["C"] + 0.1 * rows.T @ rows / len(rows))
                continue
            (ring,) = (key for key in state if key.endswith("keys"))
            size = len(saved[ring])
            turned = saved[ring].roll(-3, 0)  # three keys were written before the ring was saved
            close(state[ring].roll(-3, 0), ring_of(turned, keys))
            assert size == SIZE


def test_these_are_all_that_remember() -> None:
    # A memory of sounds has tests of its own, in tests/data, and so have those of DeepCluster, FASSL and DLG-LC in
    # tests/methods and the centres of lightly's losses in tests/losses. That of metric learning belongs to one rank.
    found = {kind.__name__ for kind in Remembering.__subclasses__()}
    found -= {"LogMixupExp", "CrossBatchMemory", "Clusters", "Centred", "Frequencies", "PseudoLabels"}
    assert found == {"Center", "MemoryBank", "MemoryQueue", "TiCoLoss"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: sk.MemoryQueue(5, 2),
        lambda: sk.MemoryBank(5, 2),
        lambda: sk.Center(5),
        lambda: used_tico(),
        lambda: CrossBatchMemory(PairNTXentLoss(), 2, 5),
    ],
    ids=["queue", "rows", "center", "covariance", "memory"],
)
def test_what_is_remembered_is_saved_and_moved_as_buffers_are(make: Callable[[], Remembering]) -> None:
    module = make()
    assert list(module.state_dict()) == list(module.remembered) and not list(module.buffers())
    wrapped = nn.Sequential(module)
    assert list(wrapped.state_dict()) == [f"0.{name}" for name in module.remembered]
    other = make()
    other.load_state_dict(module.state_dict(), strict=True)
    assigned = make()
    assigned.load_state_dict({name: value.clone() for name, value in module.state_dict().items()}, assign=True)
    twin = copy.deepcopy(wrapped)[0]
    for name in module.remembered:
        kept = getattr(module, name)
        for copied in (other, assigned, twin):
            assert torch.equal(getattr(copied, name), kept) and getattr(copied, name).data_ptr() != kept.data_ptr()
    wrapped.half()
    floating = [name for name in module.remembered if getattr(other, name).is_floating_point()]
    assert all(getattr(module, name).dtype == torch.float16 for name in floating)
    wrapped.to("meta")
    assert all(getattr(module, name).is_meta for name in module.remembered)
    wrapped.to_empty(device="cpu")
    wrapped.load_state_dict(nn.Sequential(other).state_dict())
    assert all(torch.equal(getattr(module, name), getattr(other, name).to(torch.float16)) for name in floating)
    with pytest.raises(RuntimeError, match="size mismatch"):
        module.load_state_dict({**other.state_dict(), floating[0]: torch.zeros(9, 9)})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        module.load_state_dict({**other.state_dict(), "more": torch.zeros(1)})


def used_tico() -> TiCoLoss:
    loss = TiCoLoss()
    loss(torch.eye(4), torch.eye(4))
    return loss
