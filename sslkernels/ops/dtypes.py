# SPDX-License-Identifier: Apache-2.0
"""Choose the dtypes in which numbers are read, multiplied and summed."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which numbers of ``dtype`` are summed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widened(x: Tensor) -> Tensor:
    """Convert ``x`` to the dtype in which it is summed."""
    return x.to(wide(x.dtype))


def promoted(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Convert tensors to one dtype that holds all of theirs; under autocast the inputs of one call may differ."""
    dtype = tensors[0].dtype
    if all(tensor.dtype == dtype for tensor in tensors):
        return tensors
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def stacked(*parts: Tensor) -> Tensor:
    """Stack the `promoted` parts. Under autocast torch.cat alone refuses a 16-bit dtype that is not autocast's."""
    parts = promoted(*parts)
    if not torch.is_autocast_enabled(parts[0].device.type):
        return torch.cat(parts)
    with torch.autocast(parts[0].device.type, enabled=False):
        return torch.cat(parts)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which a matrix product of ``x`` would run: autocast's, or that of ``x``."""
    kind = x.device.type
    if x.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def scale_tensor(scale: float | Tensor, like: Tensor) -> Tensor:
    """Make ``scale`` a 0-dim tensor in the dtype in which ``like`` is summed, without waiting for the device."""
    dtype = wide(like.dtype)
    if isinstance(scale, Tensor):
        if scale.dim():
            scale = scale.reshape(())  # as a view of a parameter it would cost a node
        return scale.to(device=like.device, dtype=dtype)
    return torch.full((), float(scale), dtype=dtype, device=like.device)
