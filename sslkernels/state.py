# SPDX-License-Identifier: Apache-2.0
"""Modules whose state is saved: the teacher that follows a student, and the queue of keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.arguments import check_count, check_rows, shape_of
from sslkernels.backends import check_backend
from sslkernels.distributed import GroupLike, all_rows, shard_of
from sslkernels.functional import queue_update_
from sslkernels.modules import Remembering
from sslkernels.teacher import EMA, update_momentum

__all__ = ["EMA", "MemoryQueue", "update_momentum"]


class MemoryQueue(Remembering):
    """A ring of the last ``size`` keys, saved with the model. Batches may have any size; none is cut at the ring's end.

    Args:
        size: rows kept.
        dim: features per row.
        backend: see `sslkernels.functional.queue_update_`.

    The ring starts with random unit rows, as MoCo's does. Reading ``keys (size, dim)`` makes no copy, and `info_nce`
    keeps none for its backward, so keys may be enqueued between forward and backward. ``keys`` and ``position`` are in
    ``state_dict()`` and move with the module. They are no buffers: inside DistributedDataParallel every rank keeps its
    own.

    >>> import torch, sslkernels as sk
    >>> queue = sk.MemoryQueue(size=4, dim=2)
    >>> queue.enqueue(torch.ones(6, 2))
    >>> queue.keys.sum().item(), int(queue.position)
    (8.0, 2)
    """

    keys: Tensor
    position: Tensor
    remembered = ("keys", "position")

    def __init__(self, size: int, dim: int, *, backend: str | None = None) -> None:
        super().__init__()
        dim = check_count("MemoryQueue", "dim", dim, 1)
        size = check_count("MemoryQueue", "size", size, dim)
        self.backend = check_backend(backend)
        with torch.inference_mode(False):  # tensors made in inference mode cannot be written outside it
            self.keys = F.normalize(torch.randn(size, dim), dim=1)
            self.position = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def enqueue(self, keys: Tensor, *, group: GroupLike = None) -> None:
        """Write rows ``(N, dim)`` at the ring's position. If the batch is longer than the ring, its newest rows stay.

        With a ``group`` the rows of every rank are written in the order of the ranks, so that all queues are the same.
        They begin as that of the group's first rank (see `agree`). Ranks may hold different N.
        """
        dim = self.keys.shape[1]
        if check_rows("MemoryQueue", "keys", keys).shape[1] != dim:
            raise ValueError(f"MemoryQueue: keys has shape {shape_of(keys)}; expected (N, {dim}).")
        self.agree(group)
        shard = shard_of(group, "MemoryQueue", keys, size=len(self.keys), position=self.position)
        queue_update_(self.keys, all_rows(keys, shard), self.position, backend=self.backend)
