# SPDX-License-Identifier: Apache-2.0
"""Give a loss lightly's ``memory_bank_size``, and the bank that comes of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sslkernels.arguments import came, check_alike, check_fits, is_whole
from sslkernels.modules import Module
from sslkernels.state import MemoryQueue


class Banked(Module):
    """A loss with a memory bank, or without one.

    Args:
        memory_bank_size: 0 for no bank, or ``(size, dim)``. An integer, as older versions of lightly take, creates the
            bank at the first call and warns.
    """

    memory_bank: MemoryQueue | None

    def __init__(self, memory_bank_size: int | Sequence[int] = 0) -> None:
        super().__init__()
        function = type(self).__name__
        self.memory_bank = None
        self._lazy_size = 0
        sizes = list(memory_bank_size) if isinstance(memory_bank_size, Sequence) else [memory_bank_size]
        lazy = is_whole(memory_bank_size, 0)
        known = all(is_whole(n, 0) for n in sizes) and (lazy or len(sizes) == 2 or sizes == [0])
        if not known or (sizes[0] > 0 and sizes[-1] == 0):
            raise ValueError(
                f"{function}: memory_bank_size is {came(memory_bank_size)}; "
                "pass 0 for none, or (size, dim) with whole numbers of at least 1."
            )
        check_fits(function, "memory_bank_size", memory_bank_size, math.prod(int(n) for n in sizes))
        if sizes[0] > 0 and len(sizes) == 2:
            self.memory_bank = MemoryQueue(*sizes)
        elif lazy and sizes[0] > 0:
            self._lazy_size = int(sizes[0])
            warnings.warn(
                f"memory_bank_size={sizes[0]} creates the bank at the first call; "
                f"pass ({sizes[0]}, dim) so that it is there when a checkpoint is loaded.",
                stacklevel=3,
            )

    def _bank_for(self, out0: Tensor) -> MemoryQueue | None:
        """Return the bank, which the first call creates where its size alone is known."""
        if self.memory_bank is None and self._lazy_size:
            with torch.inference_mode(False), torch.device(out0.device):
                self.memory_bank = MemoryQueue(self._lazy_size, out0.shape[1])
        return self.memory_bank

    def _negatives(self, bank: MemoryQueue, out0: Tensor) -> Tensor:
        negatives = bank.keys.to(out0.dtype)
        check_alike(type(self).__name__, "memory_bank", negatives, "out0", out0, rows=False)
        return negatives

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        keys, position = f"{prefix}memory_bank.keys", f"{prefix}memory_bank.position"
        if self.memory_bank is None and self._lazy_size and keys in state_dict:
            self.memory_bank = MemoryQueue(*state_dict[keys].shape)
        elif self.memory_bank is not None and keys not in state_dict:
            warnings.warn("the checkpoint holds no memory bank (lightly saves none): it starts random.", stacklevel=2)
            state_dict[keys] = self.memory_bank.keys  # type: ignore[index]
            state_dict[position] = self.memory_bank.position  # type: ignore[index]
        super()._load_from_state_dict(state_dict, prefix, *arguments)
