# SPDX-License-Identifier: Apache-2.0
"""Say how many rows ranks hold, and watch what they send round a ring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch.distributed as dist


def sizes_of(kind: str, world: int) -> tuple[int, ...]:
    return {
        "even": (4,) * world,
        "uneven": tuple(3 + 2 * (rank % 3) for rank in range(world)),
        "one without rows": tuple(0 if rank == 1 else 2 + rank for rank in range(world)),
        "one row each": (1,) * world,
        "one row": tuple(int(rank == 1) for rank in range(world)),
        "one with rows": tuple(5 if rank == world - 1 else 0 for rank in range(world)),
    }[kind]


KINDS = ("even", "uneven", "one without rows", "one with rows")


@contextmanager
def watched() -> Iterator[dict[str, Any]]:
    """Count the batches of messages and the bytes sent, and how many received tensors live at a time."""
    seen: dict[str, Any] = {"batches": 0, "bytes": 0, "alive": 0}
    received: list[Any] = []
    before = dist.batch_isend_irecv

    def started(operations: list[Any]) -> Any:
        seen["batches"] += 1
        for operation in operations:
            if operation.op is dist.isend:
                seen["bytes"] += operation.tensor.nbytes
            else:
                received.append(ref(operation.tensor))
        seen["alive"] = max(seen["alive"], sum(tensor() is not None for tensor in received))
        return before(operations)

    dist.batch_isend_irecv = started
    try:
        yield seen
    finally:
        dist.batch_isend_irecv = before
