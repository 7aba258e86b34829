# SPDX-License-Identifier: Apache-2.0
"""Prepare the pairs of tensors that one update works on, so that a kernel may take them for flat memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels import _C
from sslkernels.ops.launch import CODES


class Pairs(NamedTuple):
    """Hold targets, the sources that they follow, and their float32 masters.

    There is one master for each target, without elements if the target has none, or there are no masters at all.
    The tensors of a pair have one shape, one device and the same strides, and fill their memory without gaps. Two
    targets share memory only if the same pair is listed twice. ``table`` holds, for each different pair with elements,
    five int64: the addresses of target, source and master (0 for none), the number of elements, and the target's dtype
    code + 256 times the source's (`sslkernels.ops.launch.CODES`).
    """

    targets: Sequence[Tensor]
    sources: Sequence[Tensor]
    masters: Sequence[Tensor]
    table: bytes

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the arithmetic: float64 if a tensor has it, else float32."""
        codes = self.table[32::40] + self.table[33::40]  # the two low bytes of every fifth int64
        return torch.float64 if CODES[torch.float64] in codes else torch.float32


def pairs_of(targets: Sequence[Tensor], sources: Sequence[Tensor], masters: Sequence[Tensor]) -> Pairs | None:
    """Make the pairs, or return None if a tensor is not of the ordinary kind that `Pairs` describes."""
    table = _C.ema_table(targets, sources, masters, Tensor, torch.nn.Parameter)
    return None if table is None else Pairs(targets, sources, masters, table)


def flat_pairs_of(
    targets: Sequence[Tensor], sources: Sequence[Tensor], masters: Sequence[Tensor]
) -> tuple[Pairs | None, list[tuple[Tensor, Tensor]]]:
    """Make the pairs with copies in place of tensors that have gaps or unlike strides.

    The second value lists as (tensor, copy) what must be copied back after the update. The pairs are None if targets
    share memory without being the same pair.
    """
    flat: tuple[list[Tensor], ...] = ([], [], [])
    back = []
    for place, (target, source) in enumerate(zip(targets, sources, strict=True)):
        master = masters[place] if masters else target.new_empty(0)
        # A clone has no gaps: it keeps the strides of a tensor without gaps, and is contiguous otherwise.
        kept = target.detach().clone()
        kept = target if kept.stride() == target.stride() else kept
        own = [kept, _like(kept, source), _like(kept, master) if master.numel() else master]
        back += [(mine, copy) for mine, copy in ((target, own[0]), (master, own[2])) if copy is not mine]
        for tensors, tensor in zip(flat, own, strict=True):
            tensors.append(tensor.as_subclass(Tensor))
    return pairs_of(flat[0], flat[1], flat[2] if masters else ()), back


def _like(kept: Tensor, other: Tensor) -> Tensor:
    """Return ``other`` with the strides of ``kept``."""
    if other.stride() == kept.stride():
        return other
    return torch.empty_like(kept, dtype=other.dtype).copy_(other)
