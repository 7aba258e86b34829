# SPDX-License-Identifier: Apache-2.0
"""The work of the sampled kernels. Shapes do not say which rows an index names, so all entries are counted as right.

Every entry loads a row. If the pool fits L2, device memory gives each row once, and the others come from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sslkernels.ops.work import Count, Work, size_of

Launch = Mapping[str, Any]


def _work(launch: Launch, rows: Tensor, entries: int, read: tuple[Tensor, ...], written: Tensor) -> Work:
    """Count a multiply-add for each number of each row that an entry names."""
    width = launch["d"]
    asked = entries * width * rows.element_size()
    return Work(
        fp32_ops=2 * entries * width,
        bytes_read=min(size_of(rows), asked) + size_of(*read),
        bytes_written=size_of(written),
        bytes_asked=asked + size_of(*read),
    )


def _products(launch: Launch) -> Work:
    out = launch["out"]
    return _work(launch, launch["y"], out.numel(), (launch["x"], launch["index"]), out)


def _gradient_of_x(launch: Launch) -> Work:
    grad = launch["grad"]
    return _work(launch, launch["y"], grad.numel(), (launch["index"], grad), launch["out"])


def _gradient_of_y(launch: Launch) -> Work:
    grad = launch["grad"]
    return _work(launch, launch["x"], grad.numel(), (launch["order"], launch["ends"], grad), launch["dy"])


WORK: dict[str, Count] = {
    "products_kernel": _products,
    "gradient_of_x_kernel": _gradient_of_x,
    "gradient_of_y_kernel": _gradient_of_y,
}
