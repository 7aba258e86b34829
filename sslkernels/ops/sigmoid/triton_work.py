# SPDX-License-Identifier: Apache-2.0
"""The work of the sigmoid kernel. Products are counted in whole tiles, since that is how they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sslkernels.ops.triton_launch import cdiv
from sslkernels.ops.work import Count, Work, size_of


def _tile(launch: Mapping[str, Any]) -> Work:
    side, y = launch["BLOCK"], launch["y"]
    tiles = cdiv(launch["n"], side) * cdiv(launch["m"], side)
    pairs, depth = tiles * side**2, 0 if y is None else cdiv(launch["d"], launch["BLOCK_K"]) * launch["BLOCK_K"]
    out = launch["weights_out"]
    written = pairs * (0 if out is None else out.element_size())
    return Work(
        tensor_ops=2 * pairs * depth,
        exponentials=pairs,
        bytes_read=4 * pairs if y is None else size_of(launch["x"], y),
        bytes_written=written + size_of(launch["row_sums"]) + (0 if launch["tile_sums"] is None else 12 * tiles),
        bytes_asked=0 if y is None else 2 * tiles * side * launch["d"] * y.element_size(),
    )


WORK: dict[str, Count] = {"tile_kernel": _tile}
