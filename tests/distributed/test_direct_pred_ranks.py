# SPDX-License-Identifier: Apache-2.0
"""DirectPred on two and three gloo processes: every rank has what one process finds for all rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from worlds import WorldsOf

from sslkernels.models import DirectPred

ROWS = {2: (5, 2), 3: (3, 1, 4)}  # of each rank


def run(world: int, rank: int | None) -> dict[str, Tensor]:
    """The state after steps of two views, of one rank's rows or (None) of all."""
    rows = slice(None) if rank is None else slice(sum(ROWS[world][:rank]), sum(ROWS[world][: rank + 1]))
    predictor = DirectPred(6, momentum=0.6, eps=0.05, group=None if rank is None else "world")
    generator = torch.Generator().manual_seed(world)
    for _ in range(3):
        for view in torch.randn(2, sum(ROWS[world]), 6, generator=generator):
            predictor(view[rows])
        predictor.after_step()
    predictor(torch.randn(sum(ROWS[world]), 6, generator=generator)[rows])  # a step that is not over
    return dict(predictor.state_dict())


def job(rank: int, world: int) -> dict[str, Tensor]:
    return run(world, rank)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> WorldsOf:
    return WorldsOf(job, tmp_path_factory)


@pytest.mark.parametrize("world", ROWS)
def test_ranks_share_what_one_process_finds(worlds, world):
    alone = run(world, None)
    assert alone["rows"] == sum(ROWS[world])
    first, *others = worlds(world)
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5)
        assert all(torch.equal(state[name], first[name]) for state in others)
