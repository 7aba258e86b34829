# SPDX-License-Identifier: Apache-2.0
"""The work that one launch of a kernel does, counted from its arguments.

``ops/<family>/triton_work.py`` has ``WORK``, a dictionary from a kernel's name to a function that counts its work.
The function is given the arguments of the launch by name: tensors, sizes and compile-time constants alike. The tensors
may be fake ones, so that shapes and dtypes can be read and values cannot. `sslkernels.device` turns work into time.

A kernel with branches for what is rare has an entry in ``USUAL`` too: the compile-time constants under which it has
none. It is counted so, instruction by instruction.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import torch


class Work(NamedTuple):
    """Operations and bytes of one launch, all programs together. A multiply-add is two operations.

    >>> Work(tensor_ops=2 * 128 * 64 * 32, exponentials=128 * 64).bytes
    0
    """

    tensor_ops: int = 0  # products of 16-bit or TF32 operands, on the tensor cores
    fp32_ops: int = 0  # sums and products of float32, on the CUDA cores
    exponentials: int = 0  # exponentials, logarithms, sines and cosines of the special-function units
    bytes_read: int = 0  # what has to come from device memory; what is read again from L2 is in bytes_asked
    bytes_written: int = 0
    bytes_asked: int = 0  # what all blocks load, much of it again from L2, where that is far more than bytes_read

    @property
    def bytes(self) -> int:
        """All bytes that cross device memory."""
        return self.bytes_read + self.bytes_written


Count = Callable[[Mapping[str, Any]], Work]


def counted_in(package: str, kind: str) -> ModuleType | None:
    """Import ``triton_work``, or the like of another kind, of the package; None where nobody has written it."""
    module = f"{package}.{kind}_work"
    return None if importlib.util.find_spec(module) is None else importlib.import_module(module)


def size_of(*tensors: torch.Tensor | None) -> int:
    """Bytes of these tensors' elements; an absent tensor has none, and an expanded one those that lie in memory.

    >>> size_of(torch.empty(3, 2), None, torch.empty(4, dtype=torch.bfloat16), torch.empty(1).expand(9))
    36
    """
    return sum(_elements(tensor) * tensor.element_size() for tensor in tensors if tensor is not None)


def _elements(x: torch.Tensor) -> int:
    return math.prod(size for size, stride in zip(x.shape, x.stride(), strict=True) if stride or not size)
