# SPDX-License-Identifier: Apache-2.0
"""Spawn worlds of gloo processes. Each runs all its cases once, and each case is a test that looks up its result.

A rank that fails or hangs fails the tests.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SECONDS = 120  # a whole world may take this long
Job = Callable[[int, int], dict[str, Any]]


class WorldsOf:
    """Give the results of ``job(rank, 2)`` by rank as ``worlds(2)``. A world that fails once is not tried again."""

    def __init__(self, job: Job, folders: pytest.TempPathFactory) -> None:
        self.job, self.folders = job, folders
        self.done: dict[int, list[dict[str, Any]]] = {}

    def __call__(self, world: int) -> list[dict[str, Any]]:
        if world not in self.done:
            self.done[world] = []
            self.done[world] = _spawn(self.job, world, self.folders.mktemp(f"world{world}"))
        assert self.done[world], f"the world of {world} did not start"
        return self.done[world]


def caught(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of the call, or its traceback, so that a case that fails does not stop the others."""
    try:
        return call(*arguments)
    except Exception:
        return traceback.format_exc()


def _spawn(job: Job, world: int, folder: Path) -> list[dict[str, Any]]:
    arguments = (job, world, str(folder))
    ranks = mp.start_processes(_rank_main, arguments, nprocs=world, join=False, start_method="spawn")
    deadline = time.monotonic() + SECONDS
    try:
        while not ranks.join(timeout=1):
            if time.monotonic() > deadline:
                pytest.fail(f"the world of {world} did not finish in {SECONDS} s")
    finally:
        for process in ranks.processes:
            if process.is_alive():
                process.kill()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world)]


def _rank_main(rank: int, job: Job, world: int, folder: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    torch.save(job(rank, world), f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
