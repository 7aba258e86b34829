# SPDX-License-Identifier: Apache-2.0
"""Declare the ops of the ema family: the update of a teacher, and of a queue, both in place and without a gradient.

update     t <- t + (1 - m)(s - t) for every pair of a target and a source; with a master M in float32 beside a
           16-bit target, M moves and t is M rounded; if t is not the rounding of M, M begins anew from t
enqueue    queue[(position + offset + i) mod size] <- keys[i]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from sslkernels.ops.ema.pairs import Pairs, flat_pairs_of
from sslkernels.ops.registry import family

EMA = family("ema", kernels=("cpu", "cuda", "triton"))


@torch.no_grad()
def move(pairs: Pairs, momentum: float, at: Tensor | None, backend: str) -> None:
    """Move the targets; the momentum is ``at``, a 0-dim float64 tensor, or the number ``momentum`` if that is None."""
    if at is not None and at.device.type == "cpu":
        momentum, at = at.item(), None
    if not pairs.table or (at is None and momentum == 1):
        return
    increment_version([*pairs.targets, *pairs.masters])
    EMA.run("update", backend, pairs, momentum, at)


def _update(
    targets: Sequence[Tensor],
    sources: Sequence[Tensor],
    masters: Sequence[Tensor],
    momentum: float,
    at: Tensor | None,
    backend: str,
) -> None:
    pairs, back = flat_pairs_of(targets, sources, masters)
    if pairs is None:
        raise ValueError(
            "ema_update_: two of the targets, or one and the source of another, share memory and are not the same "
            "pair; pass what they are views of, once."
        )
    move(pairs, momentum, at, backend)
    with torch.no_grad():
        for tensor, copy in back:
            tensor.copy_(copy)


def _enqueue(queue: Tensor, keys: Tensor, position: Tensor | None, offset: int, backend: str) -> None:
    increment_version(queue)
    if keys.untyped_storage().data_ptr() == queue.untyped_storage().data_ptr():
        keys = keys.clone()  # the keys lie in the ring itself: all must be read before any is overwritten
    EMA.run("enqueue", backend, queue, keys, position, offset)


@EMA.op(mutates=("targets", "masters"), run=_update)
def update(
    targets: Sequence[Tensor],
    sources: Sequence[Tensor],
    masters: Sequence[Tensor],
    momentum: float,
    at: Tensor | None,
    backend: str,
) -> None:
    """`move` tensors that need not be flat in memory."""


@EMA.op(mutates=("queue",), run=_enqueue)
def enqueue(queue: Tensor, keys: Tensor, position: Tensor | None, offset: int, backend: str) -> None:
    """Write at most ``size`` keys into the ring."""
