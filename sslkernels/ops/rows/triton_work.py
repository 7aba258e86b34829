# SPDX-License-Identifier: Apache-2.0
"""The work of the rows kernels: each reads its rows once and writes its results. Their arithmetic is hidden by that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sslkernels.ops.work import Count, Work, size_of


def _moves(read: str, written: str) -> Count:
    """Count the work of a kernel that reads and writes these arguments whole; those that are None count nothing."""

    def count(launch: Mapping[str, Any]) -> Work:
        tensors_read, tensors_written = ([launch[name] for name in names.split()] for names in (read, written))
        return Work(bytes_read=size_of(*tensors_read), bytes_written=size_of(*tensors_written))

    return count


WORK: dict[str, Count] = {
    "unit_rows_kernel": _moves("z other", "unit norms"),
    "unit_rows_backward_kernel": _moves("unit norms grad", "dz"),
    "row_dot_kernel": _moves("x y", "out"),
    "row_dot_backward_kernel": _moves("x y grad", "out"),
    "row_cosine_kernel": _moves("x y", "cosines norms"),
    "row_cosine_backward_kernel": _moves("x y cosines norms grad", "dx dy"),
    "cosine_loss_kernel": _moves("x y", "losses dx dy"),
}
