# SPDX-License-Identifier: Apache-2.0
"""Modules whose state is saved: the queue of keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_rows, check_size, shape_of


class MemoryQueue(nn.Module):
    """A ring of the last ``size`` keys; any batch size, nothing dropped at the wrap, saved with the model.

    Args:
        size: rows kept.
        dim: features per row.

    Starts with random unit rows, as MoCo does. Reading ``keys (size, dim)`` makes no copy, and `info_nce` keeps none
    for its backward, so keys may be enqueued between the forward and the backward.

    >>> import torch, sslkernels as sk
    >>> queue = sk.MemoryQueue(size=4, dim=2)
    >>> queue.enqueue(torch.ones(6, 2))
    >>> queue.keys.sum().item(), int(queue.position)
    (8.0, 2)
    """

    keys: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        check_size("MemoryQueue", "size", size)
        check_size("MemoryQueue", "dim", dim)
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Write rows ``(N, dim)`` at the ring's position; of a batch longer than the ring the newest stay."""
        size, dim = self.keys.shape
        if check_rows("MemoryQueue", "keys", keys).shape[1] != dim:
            raise ValueError(f"MemoryQueue: keys has shape {shape_of(keys)}; expected (N, {dim}).")
        skipped = max(0, keys.shape[0] - size)
        slots = (self.position + skipped + torch.arange(keys.shape[0] - skipped, device=self.keys.device)) % size
        self.keys.index_copy_(0, slots, keys[skipped:].to(self.keys.dtype))
        self.position.add_(keys.shape[0]).remainder_(size)
