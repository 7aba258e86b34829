# SPDX-License-Identifier: Apache-2.0
"""On GPUs: values travel to the host without waiting, ranks agree without it, ops run on their tensors' GPU, and
`info` leaves CUDA alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import similarity_oracle as oracle
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import sslkernels.functional as SF
from sslkernels import agreement
from sslkernels.agreement import copied

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
STEPS = ((4, 4), (4, 4), (4, 3), (4, 4), (1, 4), (4, 4))  # rows per rank


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.int64))
def test_a_value_travels_without_waiting(dtype: torch.dtype) -> None:
    value = torch.full((), 3, dtype=dtype, device="cuda")
    copied(value)  # the first use allocates
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(200_000_000)
        copy = copied(value)
        assert not copy.is_here()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    deadline = time.monotonic() + 30
    while not copy.is_here():
        assert time.monotonic() < deadline
    assert (copy.bits.view(torch.float64) if copy.is_float else copy.bits).item() == 3


def test_a_value_in_a_graph_stays_there() -> None:
    value = torch.ones((), device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        copy = copied(value)
    assert copy.is_here() and copy.bits.item() == 0


def test_a_capture_survives_a_value_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA refuses to say during a capture if an event has happened, and ends the capture of who asks."""
    line = agreement.Line(lambda mine, _: mine, torch.device("cpu"), is_host=True)
    monkeypatch.setattr(agreement, "_line", lambda *_: line)
    device, graph = torch.device("cuda", 0), torch.cuda.CUDAGraph()
    value = torch.ones((), device=device)
    call = {"function": "loss", "temperature": value}
    for _ in range(2):
        agreement.agree(None, 3, device, call)
    assert line.late.under_way
    with torch.cuda.graph(graph):
        assert agreement.agree(None, 3, device, call) == (3,)
        twice = value * 2
    graph.replay()
    assert twice.item() == 2
    agreement.agree(None, 3, device, call)
    assert line.late.landed >= 1


def test_info_leaves_cuda_alone(run_python: Callable) -> None:
    done = run_python(
        "import os, torch, sslkernels as sk\n"
        "text = sk.info()\n"
        "assert not torch.cuda.is_initialized(), 'info has begun CUDA'\n"
        "assert 'backend triton: available' in text, text\n"
        "if os.fork() == 0:\n"
        "    torch.ones(1, device='cuda').item()\n"
        "    os._exit(0)\n"
        "assert os.wait()[1] == 0, 'the child could not use CUDA'\n"
    )
    assert done.returncode == 0, done.stderr


@needs_two
@pytest.mark.parametrize("backend", ("triton", "reference"))
def test_ops_run_on_the_gpu_of_their_tensors(backend: str) -> None:
    torch.cuda.set_device(0)
    z0, z1 = torch.randn(2, 64, 32).unbind()
    a, b = (z.to("cuda:1").requires_grad_() for z in (z0, z1))
    value = SF.nt_xent(a, b, backend=backend)
    value.backward()
    assert torch.cuda.current_device() == 0
    expected = oracle.nt_xent(z0.double(), z1.double(), 0.1).mean()
    torch.testing.assert_close(value.cpu().double(), expected, rtol=1e-4, atol=1e-4)


@needs_two
def test_two_ranks_agree_without_waiting(tmp_path: Path) -> None:
    mp.start_processes(_rank, (str(tmp_path),), nprocs=2, start_method="spawn")
    losses = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for step, sizes in enumerate(STEPS):
        z0, z1 = _whole(sizes, step)
        expected = oracle.nt_xent(z0.double(), z1.double(), 0.3).mean()
        mean = torch.tensor([found[step] for found in losses], dtype=torch.float64).mean()
        torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-4)


def _whole(sizes: tuple[int, ...], step: int) -> tuple[torch.Tensor, ...]:
    return torch.randn(2, sum(sizes), 16, generator=torch.Generator().manual_seed(step)).unbind()


def _rank(rank: int, folder: str) -> None:
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", f"file://{folder}/meeting", rank=rank, world_size=2)
    temperature = torch.tensor(0.3, device="cuda", requires_grad=True)
    values = []
    for step, sizes in enumerate(STEPS):
        own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        z0, z1 = (z[own].cuda().requires_grad_() for z in _whole(sizes, step))
        torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first step connects the hosts
        try:
            value = SF.nt_xent(z0, z1, temperature=temperature, group="world")
            value.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        values.append(value.item())
    torch.save(values, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()
