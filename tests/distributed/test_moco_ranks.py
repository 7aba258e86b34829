# SPDX-License-Identifier: Apache-2.0
"""Run MoCo v2 and DenseCL on two gloo processes: ShuffleBN mixes keys and returns each, and every queue holds all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from worlds import WorldsOf, caught

from sslkernels.methods import DenseCL, MoCoV2
from sslkernels.models import ResNet

SIZES = 5, 3


def made(**options: Any) -> MoCoV2:
    torch.manual_seed(1)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.BatchNorm1d(4))
    method = MoCoV2(backbone, feature_dim=4, projection_dim=3, queue_size=11, **options)
    return method.double()


def made_dense(**options: Any) -> DenseCL:
    torch.manual_seed(1)
    return DenseCL(
        ResNet(1, (4,), (1,)), feature_dim=4, projection_dim=3, queue_size=11, dense_queue_size=11, **options
    ).double()


def images() -> torch.Tensor:
    return torch.rand(8, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def step(rank: int) -> dict[str, Any]:
    method = made(group="world")
    mine = images().split(SIZES)[rank]
    torch.manual_seed(7 + rank)  # only the first rank's order counts
    keys = method([mine, mine])["embeddings"][1]
    method.after_step(0, 10)
    return {"keys": keys, "queue": method.queue.keys}


def dense_step(rank: int) -> dict[str, Any]:
    method = made_dense(group="world")
    mine = images().split(SIZES)[rank]
    torch.manual_seed(7 + rank)
    method([mine, mine])
    method.after_step(0, 10)
    return {"queue": method.queue.keys, "dense queue": method.dense_queue.keys}


def job(rank: int, world: int) -> dict[str, Any]:
    return {"step": caught(step, rank), "dense": caught(dense_step, rank)}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return WorldsOf(job, tmp_path_factory)(2)


def test_shuffled_keys_come_back_and_fill_every_queue(ranks):
    first, second = (rank["step"] for rank in ranks)
    assert isinstance(first, dict) and isinstance(second, dict), (first, second)
    torch.manual_seed(7)
    order = torch.randperm(8)
    assert set(order[:5].tolist()) != set(range(5))
    teacher, expected = made().teacher, torch.empty(8, 3, dtype=torch.float64)
    for part in order.split(SIZES):
        expected[part] = F.normalize(teacher(images()[part]), dim=1)
    torch.testing.assert_close(torch.cat([first["keys"], second["keys"]]), expected)
    for rank in (first, second):
        torch.testing.assert_close(rank["queue"][:8], expected)
        assert torch.equal(rank["queue"], first["queue"])


def test_the_dense_queues_are_filled_from_shuffled_batches_too(ranks):
    torch.manual_seed(7)
    order = torch.randperm(8)
    method, expected = made_dense(), torch.empty(2, 8, 3, dtype=torch.float64)
    backbone, projector = method.teacher.module
    for part in order.split(SIZES):
        grid = backbone.feature_grid(images()[part])
        expected[0, part] = F.normalize(projector(grid.mean((2, 3))), dim=1)
        expected[1, part] = F.normalize(method.dense_teacher(grid.flatten(2).mT).mean(1), dim=1)
    for rank in (rank["dense"] for rank in ranks):
        assert isinstance(rank, dict), rank
        for queue, rows in zip(("queue", "dense queue"), expected, strict=True):
            torch.testing.assert_close(rank[queue][:8], rows)
            assert torch.equal(rank[queue], ranks[0]["dense"][queue])
