# SPDX-License-Identifier: Apache-2.0
"""Test teachers and queues on two and three gloo processes: with DDP, FSDP2's shards, and keys in rank order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.nn.parallel import DistributedDataParallel
from worlds import WorldsOf, caught

import sslkernels as sk
import sslkernels.functional as SF

STEPS, MOMENTUM, SIZE = 4, 0.8, 11
WORLDS = (2, pytest.param(3, marks=pytest.mark.slow))


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))  # two or three ranks cannot share 7 rows evenly


def batch(rank: int, step: int) -> Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(10 * step + rank))


def train(model: nn.Module, teacher: sk.EMA, data: Callable[[int], Tensor]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    for step in range(STEPS):
        model(data(step)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        teacher.update(model, step)


def whole(module: nn.Module) -> list[Tensor]:
    full = [p.full_tensor() if isinstance(p, DTensor) else p for p in module.parameters()]
    return [x.detach().clone() for x in full]


def with_ddp(rank: int, world: int) -> list[Tensor]:
    model = DistributedDataParallel(student())
    teacher = sk.EMA(model, momentum=MOMENTUM)
    train(model, teacher, lambda step: batch(rank, step))
    return whole(teacher.module)


def with_fsdp(rank: int, world: int) -> list[Tensor]:
    mesh = init_device_mesh("cpu", (world,))
    model = student()
    teacher = sk.EMA(model, momentum=MOMENTUM)
    fully_shard(model, mesh=mesh)
    fully_shard(teacher.module, mesh=mesh)
    train(model, teacher, lambda step: batch(rank, step))
    assert all(isinstance(p, DTensor) for p in teacher.module.parameters())
    return whole(teacher.module)


def with_dtensors(rank: int, world: int, backend: str) -> int:
    """Update shards of either dimension, replicas, and a master sharded like its target; count those that are right."""
    mesh = init_device_mesh("cpu", (world,))
    generator = torch.Generator().manual_seed(5)

    def placed(x: Tensor, placement: Shard | Replicate) -> DTensor:
        local = x
        if isinstance(placement, Shard):  # three ranks share four columns, and the third rank gets none
            chunks = (*x.chunk(world, placement.dim), x.narrow(placement.dim, 0, 0))
            local = chunks[rank]
        return DTensor.from_local(local.clone(), mesh, [placement], run_check=False, shape=x.shape, stride=x.stride())

    right = 0
    for placement in (Shard(0), Shard(1), Replicate()):
        t, s = (torch.randn(7, 4, generator=generator) for _ in range(2))
        target, source, low, master = (placed(x, placement) for x in (t, s, t.bfloat16(), t))
        SF.ema_update_([target, low], [source, source], MOMENTUM, masters=[None, master], backend=backend)
        expected = placed(MOMENTUM * t + (1 - MOMENTUM) * s, placement).to_local()
        for moved in (target, master):
            torch.testing.assert_close(moved.to_local(), expected)
        assert torch.equal(low.to_local(), master.to_local().bfloat16())
        with pytest.raises(ValueError, match="shard teacher and student"):
            SF.ema_update_([target], [t], MOMENTUM, backend=backend)
        right += 1
    return right


def keys_of(rank: int, step: int) -> Tensor:
    n = (rank + step) % 3 + 1  # ranks hold different numbers of rows
    return 100.0 * step + 10 * rank + torch.arange(n).float()[:, None].expand(-1, 2)


def gathered(rank: int, world: int, backend: str) -> Tensor:
    torch.manual_seed(1)
    queue = sk.MemoryQueue(SIZE, 2, backend=backend)
    for step in range(7):
        queue.enqueue(keys_of(rank, step), group="world")
    return torch.cat([queue.keys, queue.position.float().expand(1, 2)])


def job(rank: int, world: int) -> dict[str, Any]:
    results: dict[str, Any] = {"ddp": caught(with_ddp, rank, world), "fsdp": caught(with_fsdp, rank, world)}
    for backend in ("reference", "cpu"):
        results[f"dtensors-{backend}"] = caught(with_dtensors, rank, world, backend)
        results[f"queue-{backend}"] = caught(gathered, rank, world, backend)
    return results


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorldsOf]:
    yield WorldsOf(job, tmp_path_factory)


@pytest.mark.skipif(not dist.is_available(), reason="torch.distributed is not there.")
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("wrapper", ("ddp", "fsdp"))
def test_a_teacher_of_shards_is_that_of_one_process(worlds: WorldsOf, wrapper: str, world: int) -> None:
    model = student()
    teacher = sk.EMA(model, momentum=MOMENTUM)
    train(model, teacher, lambda step: torch.cat([batch(rank, step) for rank in range(world)]))
    for result in worlds(world):
        assert not isinstance(result[wrapper], str), result[wrapper]
        for ours, expected in zip(result[wrapper], teacher.module.parameters(), strict=True):
            torch.testing.assert_close(ours, expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("world", WORLDS)
def test_shards_of_any_placement(worlds: WorldsOf, backend: str, world: int) -> None:
    for result in worlds(world):
        assert result[f"dtensors-{backend}"] == 3


@pytest.mark.parametrize("world", WORLDS)
def test_keys_of_every_rank_in_the_order_of_ranks(worlds: WorldsOf, backend: str, world: int) -> None:
    torch.manual_seed(1)
    ring, place = sk.MemoryQueue(SIZE, 2).keys.clone(), 0
    for step in range(7):
        for rank in range(world):
            for key in keys_of(rank, step):
                ring[place % SIZE] = key
                place += 1
    for result in worlds(world):
        found = result[f"queue-{backend}"]
        assert not isinstance(found, str), found
        assert torch.equal(found[:-1], ring) and int(found[-1, 0]) == place % SIZE
