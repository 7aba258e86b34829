# SPDX-License-Identifier: Apache-2.0
"""On two gloo processes with different numbers of rows, terms and likelihoods are those of all rows at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from worlds import WorldsOf, caught

from sslkernels.methods.vi_simsiam import power_spherical_nll
from sslkernels.terms import ActionMatch, Agreement, Trajectory

SIZES = 5, 3


def rows(*width: int) -> torch.Tensor:
    return torch.randn(8, *width, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(width)))


def likelihood(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    loss = power_spherical_nll(rows(6)[part], rows(7)[part, :6] @ weight, rows(8)[part, 0].exp(), group=group)
    loss.backward()
    return loss.detach(), weight.grad


def match(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    term = ActionMatch(4, 2, match_dim=3).double().eval()
    term.group = group
    loss = term(nn.Identity(), [rows(4)[part], rows(5)[part, :4]], action=rows(2)[part])
    loss.backward()
    return loss.detach(), torch.cat([weight.grad.flatten() for weight in term.parameters()])


def line(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    term, weight = Trajectory(6), torch.eye(6, dtype=torch.float64, requires_grad=True)
    term.group = group
    loss = term(lambda view: view @ weight, [rows(width)[part, :6] for width in (6, 7, 8)])
    loss.backward()
    return loss.detach(), weight.grad


def agreement(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    term, weight = Agreement(6), torch.eye(6, dtype=torch.float64, requires_grad=True)
    term.group = group
    loss = term(lambda view: view @ weight, [rows(width)[part, :6] for width in (6, 7)])
    loss.backward()
    return loss.detach(), weight.grad


CASES = {"agreement": agreement, "likelihood": likelihood, "match": match, "line": line}


def job(rank: int, world: int) -> dict[str, Any]:
    begin = sum(SIZES[:rank])
    return {name: caught(case, "world", slice(begin, begin + SIZES[rank])) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return WorldsOf(job, tmp_path_factory)(2)


@pytest.mark.parametrize("name", CASES)
def test_the_mean_over_ranks_is_that_of_all_rows(ranks, name):
    results = [rank[name] for rank in ranks]
    assert all(isinstance(each, tuple) for each in results), results
    loss, gradient = CASES[name](None, slice(None))
    torch.testing.assert_close(torch.stack([each[0] for each in results]).mean(), loss)
    torch.testing.assert_close(torch.stack([each[1] for each in results]).mean(0), gradient)
