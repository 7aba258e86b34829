# SPDX-License-Identifier: Apache-2.0
"""Compare two gloo processes that hold uneven shards with one: values, and gradients averaged over ranks."""

from __future__ import annotations

import os
import time
import traceback
from datetime import timedelta
from typing import Any

import pytest
import sigreg_oracle as dense
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

import sslkernels.functional as SF
from sslkernels.losses import LeJEPALoss, SIGReg

SECONDS = 120
D_IN, D, S = 6, 5, 7
CASES = [
    (loss, sizes, backend)
    for loss in ("sigreg", "lejepa", "SIGReg", "LeJEPALoss", "drawn")
    for sizes in ((4, 4), (5, 2), (6, 0))
    for backend in (("reference", "cpu") if loss in ("sigreg", "lejepa") else ("cpu",))
]


def problem(sizes: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Make samples of three views, an encoder and slices."""
    generator = torch.Generator().manual_seed(sum(sizes) + sizes[0])
    x = torch.randn(3, sum(sizes), D_IN, generator=generator, dtype=torch.float64)
    encoder = torch.randn(D_IN, D, generator=generator, dtype=torch.float64, requires_grad=True)
    slices = torch.randn(D, S, generator=generator, dtype=torch.float64)
    return x, encoder, slices / slices.norm(dim=0)


def drawn_slices() -> Tensor:
    """Draw the slices that the first rank draws after torch.manual_seed(0)."""
    torch.manual_seed(0)
    slices = torch.randn(D, S, dtype=torch.float64)
    return slices / slices.norm(dim=0)


def run_case(rank: int, loss: str, sizes: tuple[int, ...], backend: str) -> dict[str, Tensor]:
    x, encoder, slices = problem(sizes)
    start = sum(sizes[:rank])
    z = x[:, start : start + sizes[rank]] @ encoder
    if rank:
        slices = torch.randn(D, S, dtype=torch.float64)  # only the first rank's slices count
    torch.manual_seed(rank)
    if loss == "sigreg":
        value = SF.sigreg(z, slices, group="world", backend=backend)
    elif loss == "lejepa":
        value = SF.lejepa(z[1:], z[:1], slices, weight=0.4, group="world", backend=backend)
    elif loss == "SIGReg":
        value = SIGReg(num_vectors=S, gather_distributed=True)(z)
    elif loss == "LeJEPALoss":
        value = LeJEPALoss(0.4, True, sigreg_num_vectors=S)(local_proj=z[1:], global_proj=z[:1])
    else:
        generator = torch.Generator().manual_seed(rank)
        value = SF.sigreg(z, num_slices=S, generator=generator, group="world", backend=backend)
    (gradient,) = torch.autograd.grad(value, encoder)
    return {"value": value.detach(), "gradient": gradient}


def disagreement(rank: int) -> dict[str, str]:
    try:
        SF.sigreg(torch.randn(2 + rank, 3, 4), num_slices=5, group="world")
    except ValueError as error:
        return {"views": str(error)}
    return {"views": "nothing was raised"}


def rank_main(rank: int, world: int, folder: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    results: dict[str, Any] = {}
    for case in CASES:
        try:
            results[str(case)] = run_case(rank, *case)
        except Exception:
            results[str(case)] = traceback.format_exc()
    results["disagreement"] = disagreement(rank)
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    processes = mp.start_processes(rank_main, (2, str(folder)), nprocs=2, join=False, start_method="spawn")
    deadline = time.monotonic() + SECONDS
    try:
        while not processes.join(timeout=1):
            if time.monotonic() > deadline:
                pytest.fail(f"two ranks did not finish in {SECONDS} s")
    finally:
        for process in processes.processes:
            if process.is_alive():
                process.kill()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ranks_together_equal_one_process(ranks: list[dict[str, Any]], case: tuple) -> None:
    results = [result[str(case)] for result in ranks]
    for result in results:
        assert isinstance(result, dict), result
    loss, sizes, _ = case
    x, encoder, slices = problem(sizes)
    z = x @ encoder
    if loss in ("SIGReg", "LeJEPALoss", "drawn"):
        slices = drawn_slices()
    whole = dense.lejepa(z[1:], z[:1], slices, 0.4) if loss.lower().startswith("lejepa") else dense.sigreg(z, slices)
    (gradient,) = torch.autograd.grad(whole, encoder)
    value = torch.stack([result["value"] for result in results]).mean()
    torch.testing.assert_close(value, whole.detach(), rtol=1e-9, atol=1e-9)
    if not loss.lower().startswith("lejepa"):
        assert results[0]["value"] == results[1]["value"]
    averaged = sum(result["gradient"] for result in results) / 2
    torch.testing.assert_close(averaged, gradient, rtol=1e-9, atol=1e-9)


def test_ranks_with_different_views_all_hear_of_it(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        assert "sigreg: views is 2 on rank 0 and 3 on rank 1" in result["disagreement"]["views"]
