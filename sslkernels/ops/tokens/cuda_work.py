# SPDX-License-Identifier: Apache-2.0
"""The work of the tokens kernels in csrc/cuda: each reads and writes its rows once, as far as shapes tell which.

A launch has the fields of the kernel's struct in order, with tensors in place of addresses, and 0 where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sslkernels.ops.work import Count, Work, size_of


def _gather(launch: Mapping[str, Any]) -> Work:
    """Rows are read once for each set of indices, at most all of x."""
    x, _, _, index, _, fill, pos, out, batch, *_ = launch["fields"]
    rows = min(_rows(out), out.shape[0] // batch * _rows(x))
    return Work(bytes_read=_bytes(x, rows) + _given(index, fill, pos), bytes_written=size_of(out))


def _collect(launch: Mapping[str, Any]) -> Work:
    x, _, _, index, _, fill, out, batch, sets, *_ = launch["fields"]
    rows = min(_rows(x), sets * _rows(out))
    return Work(bytes_read=_bytes(x, rows) + _given(index, fill), bytes_written=size_of(out))


def _sums(launch: Mapping[str, Any]) -> Work:
    x, index, parts = (field for field in launch["fields"] if isinstance(field, Tensor))
    return Work(bytes_read=size_of(x, index), bytes_written=size_of(parts))


def _ranks(launch: Mapping[str, Any]) -> Work:
    keys, ids_keep, ids_restore, mask, *_ = launch["fields"]
    return Work(bytes_read=size_of(keys), bytes_written=_given(ids_keep, ids_restore, mask))


def _patches(launch: Mapping[str, Any]) -> Work:
    images, index, _, out, *_ = launch["fields"]
    return Work(bytes_read=min(size_of(images), size_of(out)) + size_of(index), bytes_written=size_of(out))


def _errors(launch: Mapping[str, Any]) -> Work:
    pred, _, _, target, _, _, weights, total, grad, losses, dpred, *_ = launch["fields"]
    return Work(bytes_read=_given(pred, target, weights, total, grad), bytes_written=_given(losses, dpred))


def _given(*tensors: Tensor | int) -> int:
    return size_of(*(x for x in tensors if isinstance(x, Tensor)))


def _rows(x: Tensor) -> int:
    return math.prod(x.shape[:-1])


def _bytes(x: Tensor, rows: int) -> int:
    return rows * x.shape[-1] * x.element_size()


# By the name of a kernel as far as its dtypes.
WORK: dict[str, Count] = {
    "gather": _gather, "collect": _collect, "sums": _sums, "total": _sums, "ranks": _ranks, "patches": _patches,
    "errors": _errors,
}  # fmt: skip
