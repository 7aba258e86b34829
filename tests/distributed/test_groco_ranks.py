# SPDX-License-Identifier: Apache-2.0
"""On gloo processes GroCo sorts an anchor with the images of all ranks: loss and gradient are those of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from worlds import WorldsOf, caught

from sslkernels.methods import GroCo

SIZES, VIEWS = (4, 2, 3), 3


def embeddings(ranks: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return list(torch.randn(VIEWS, sum(SIZES[:ranks]), 4, dtype=torch.float64, generator=generator))


def case(rows: list[Tensor], group: Any) -> dict[str, Any]:
    leaves = [each.clone().requires_grad_() for each in rows]
    loss = GroCo(nn.Flatten(), feature_dim=4, projection_dim=4, negatives=4, group=group).loss(*leaves)
    return {"loss": loss.detach(), "gradients": torch.stack(torch.autograd.grad(loss, leaves))}


def job(rank: int, world: int) -> dict[str, Any]:
    mine = [rows.split(SIZES[:world])[rank] for rows in embeddings(world)]
    return {"case": caught(case, mine, "world")}


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_ranks_mean_is_that_of_one_process(tmp_path_factory: pytest.TempPathFactory, world: int) -> None:
    expected = case(embeddings(world), None)
    found = [rank["case"] for rank in WorldsOf(job, tmp_path_factory)(world)]
    assert all(isinstance(each, dict) for each in found), found
    torch.testing.assert_close(torch.stack([each["loss"] for each in found]).mean(), expected["loss"])
    torch.testing.assert_close(torch.cat([each["gradients"] for each in found], 1) / world, expected["gradients"])
