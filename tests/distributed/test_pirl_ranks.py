# SPDX-License-Identifier: Apache-2.0
"""Train PIRL on gloo processes: with all samples as negatives, losses, gradients and banks are those of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from worlds import WorldsOf, caught

from sslkernels.methods import PIRL

SAMPLES, ROWS, STEPS = 9, 6, 3
SIZES = {1: (6,), 2: (4, 2), 3: (1, 2, 3)}


class Shade(nn.Module):
    """Tell an image or a patch by its pixels' powers; no row depends on another, as with a BatchNorm it would."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, dtype=torch.float64)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.stack([images.pow(power).mean((1, 2, 3)) for power in (1, 2, 3, 4)], 1)).tanh()


def train(group: Any, rank: int, world: int, seed: int) -> dict[str, Any]:
    torch.manual_seed(1)
    options = {"samples": SAMPLES, "projection_dim": 3, "patches": 1, "group": group}
    method = PIRL(Shade(), feature_dim=4, **options).double()
    torch.manual_seed(seed)  # of the ranks the first alone counts for the bank, and no draw for losses
    method.bank.rows.copy_(nn.functional.normalize(torch.randn(SAMPLES, 3, dtype=torch.float64), dim=1))
    generator = torch.Generator().manual_seed(5)
    trace: dict[str, Any] = {"loss": [], "gradient": [], "bank": []}
    for step in range(STEPS):
        views = torch.rand(2, ROWS, 1, 2, 2, dtype=torch.float64, generator=generator)
        index = torch.randint(SAMPLES, (ROWS,), generator=generator)
        part = torch.arange(ROWS).split(SIZES[world])[rank]
        loss = method(list(views[:, part]), index=index[part])["loss"]
        method.zero_grad()
        loss.backward()
        gradient = torch.cat([weight.grad.flatten() for weight in method.parameters()])
        both = torch.cat([loss.detach()[None], gradient])
        if world > 1:
            dist.all_reduce(both)
        method.after_step(step, 10)
        trace["loss"].append(both[0] / world)
        trace["gradient"].append(both[1:] / world)
        trace["bank"].append(method.bank.rows.clone())
    return trace


def job(rank: int, world: int) -> dict[str, Any]:
    return {"trained": caught(train, "world", rank, world, rank)}


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_train_as_one_process(tmp_path_factory: pytest.TempPathFactory, world: int) -> None:
    expected = train(None, 0, 1, 0)
    for rank in WorldsOf(job, tmp_path_factory)(world):
        found = rank["trained"]
        assert isinstance(found, dict), found
        for name, values in expected.items():
            torch.testing.assert_close(found[name], values, rtol=1e-10, atol=1e-12)
