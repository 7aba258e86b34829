# SPDX-License-Identifier: Apache-2.0
"""Run the ema family in plain PyTorch. This is the specification, and it runs where no kernel does."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.ema.pairs import Pairs


def update(pairs: Pairs, momentum: float, at: Tensor | None) -> None:
    """Move targets towards sources: t <- m t + (1 - m) s, in float64 and rounded once.

    If a target has a master M, M moves and t <- M. If t is no longer the rounding of M, somebody wrote t since, and M
    begins anew from t.
    """
    seen = set()
    for place, (target, source) in enumerate(zip(pairs.targets, pairs.sources, strict=True)):
        if target.data_ptr() in seen:  # this pair is listed twice
            continue
        seen.add(target.data_ptr())
        master = pairs.masters[place] if pairs.masters and pairs.masters[place].numel() else None
        kept = target if master is None else master
        if master is not None:
            master.copy_(torch.where(master.to(target.dtype) == target, master, target.to(master.dtype)))
        moved = _moved(kept, source, momentum if at is None else at)
        kept.copy_(moved)
        if master is not None:
            target.copy_(master)


def _moved(target: Tensor, source: Tensor, momentum: float | Tensor) -> Tensor:
    exact = torch.float32 if target.device.type == "mps" else torch.float64
    t, s = target.to(exact), source.to(exact)
    m = torch.as_tensor(momentum, dtype=exact, device=target.device)
    # At 0 and at 1 we take one side only, so that infinities of the other do not reach the result.
    return torch.where(m == 1, t, torch.where(m == 0, s, m * t + (1 - m) * s))


def enqueue(queue: Tensor, keys: Tensor, position: Tensor | None, offset: int) -> None:
    """Write at most ``size`` keys: queue[(position + offset + i) mod size] <- keys[i]."""
    rows = torch.arange(keys.shape[0], device=queue.device) + offset
    if position is not None:
        rows = rows + position
    queue.index_copy_(0, rows % queue.shape[0], keys.to(queue.dtype))
