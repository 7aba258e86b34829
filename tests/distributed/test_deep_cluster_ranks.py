# SPDX-License-Identifier: Apache-2.0
"""Train DeepClusterV2 on gloo processes: clusters, losses, gradients and banks are those of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from worlds import WorldsOf, caught

from sslkernels.methods import DeepClusterV2

SAMPLES, ROWS, STEPS = 11, 6, 4
SIZES = {1: (6,), 2: (4, 2), 3: (1, 2, 3)}


def train(group: Any, rank: int, world: int) -> dict[str, Any]:
    torch.manual_seed(1)
    options = {"samples": SAMPLES, "prototypes": 4, "projection_dim": 3, "hidden_dim": 5, "group": group}
    method = DeepClusterV2(nn.Flatten(), feature_dim=4, **options).double()
    method.projector = nn.Linear(4, 3, dtype=torch.float64)  # a BatchNorm's rows depend on each other
    torch.manual_seed(rank)  # of the ranks the first alone counts
    features = torch.randn(SAMPLES, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(5)
    trace: dict[str, Any] = {"loss": [], "gradient": [], "state": []}
    for step in range(STEPS):
        if step % 2 == 0:
            method.before_epoch(lambda: features, step // 2, STEPS // 2)
        views = torch.randn(2, ROWS, 1, 2, 2, dtype=torch.float64, generator=generator)
        index = torch.randint(SAMPLES, (ROWS,), generator=generator)
        part = torch.arange(ROWS).split(SIZES[world])[rank]
        loss = method(list(views[:, part]), index=index[part])["loss"]
        method.zero_grad()
        loss.backward()
        both = torch.cat([loss.detach()[None], *(weight.grad.flatten() for weight in method.parameters())])
        if world > 1:
            dist.all_reduce(both)
        method.after_step(step, STEPS)
        trace["loss"].append(both[0] / world)
        trace["gradient"].append(both[1:] / world)
        trace["state"].append([bank.rows.clone() for bank in method.banks])
        trace["state"][-1] += [method.clusters.prototypes.clone(), method.clusters.targets.clone()]
    return trace


def job(rank: int, world: int) -> dict[str, Any]:
    return {"trained": caught(train, "world", rank, world)}


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_train_as_one_process(tmp_path_factory: pytest.TempPathFactory, world: int) -> None:
    expected = train(None, 0, 1)
    assert expected["loss"][0] > 0 and not torch.equal(*(expected["state"][place][3] for place in (0, 2)))
    for rank in WorldsOf(job, tmp_path_factory)(world):
        found = rank["trained"]
        assert isinstance(found, dict), found
        for name, values in expected.items():
            torch.testing.assert_close(found[name], values, rtol=1e-10, atol=1e-12)
