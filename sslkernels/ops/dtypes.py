# SPDX-License-Identifier: Apache-2.0
"""Which dtype a number is read, multiplied and summed in."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums of numbers of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widened(x: Tensor) -> Tensor:
    """``x`` in the dtype that it is summed in."""
    return x.to(wide(x.dtype))


def promoted(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors in the one dtype that holds all of theirs; autocast lets those of one call differ."""
    dtype = tensors[0].dtype
    if all(tensor.dtype == dtype for tensor in tensors):
        return tensors
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def stacked(*parts: Tensor) -> Tensor:
    """Parts one after another, `promoted`. Under autocast torch.cat refuses a 16-bit dtype that is not autocast's."""
    parts = promoted(*parts)
    if not torch.is_autocast_enabled(parts[0].device.type):
        return torch.cat(parts)
    with torch.autocast(parts[0].device.type, enabled=False):
        return torch.cat(parts)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that a matrix product of ``x`` would run in: autocast's, or its own."""
    kind = x.device.type
    if x.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def scale_tensor(scale: float | Tensor, like: Tensor) -> Tensor:
    """``scale`` as a 0-dim tensor in the dtype that ``like`` is summed in; the host does not wait for the device."""
    dtype = wide(like.dtype)
    if isinstance(scale, Tensor):
        return scale.reshape(()).to(device=like.device, dtype=dtype)
    return torch.full((), float(scale), dtype=dtype, device=like.device)
