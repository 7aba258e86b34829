# SPDX-License-Identifier: Apache-2.0
"""The work of the similarity kernels. Products are counted in whole tiles, since that is how they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sslkernels.ops.triton_launch import cdiv
from sslkernels.ops.work import Count, Work, size_of

_SUM = 8  # bytes of a peak and a total

Launch = Mapping[str, Any]


def _tiles(launch: Launch, triangle: bool) -> int:
    rows, columns = cdiv(launch["n"], launch["BLOCK"]), cdiv(launch["m"], launch["BLOCK"])
    return rows * (rows + 1) // 2 if triangle else rows * columns


def _tile_products(launch: Launch, triangle: bool) -> tuple[int, int]:
    """The pairs of all tiles, and the operations of their products; none where cuBLAS formed them."""
    pairs = _tiles(launch, triangle) * launch["BLOCK"] ** 2
    if launch["y"] is None:
        return pairs, 0
    return pairs, 2 * pairs * cdiv(launch["d"], launch["BLOCK_K"]) * launch["BLOCK_K"]


def _asked(launch: Launch, triangle: bool) -> int:
    """The bytes that all tiles load: each its rows of both sides."""
    x, y = launch["x"], launch["y"]
    each = 0 if y is None else 2 * launch["BLOCK"] * launch["d"] * x.element_size()
    return _tiles(launch, triangle) * each


def _rows_of(launch: Launch, pairs: int) -> int:
    """The bytes that tiles are made of: rows of both sides, or products."""
    return 4 * pairs if launch["y"] is None else size_of(launch["x"], launch["y"])


def _tile_sums(launch: Launch) -> Work:
    pairs, products = _tile_products(launch, launch["TRIANGLE"])
    sides = 1 if launch["column_peaks"] is None else 2
    return Work(
        tensor_ops=products,
        exponentials=pairs,
        bytes_read=_rows_of(launch, pairs),
        bytes_written=sides * _tiles(launch, launch["TRIANGLE"]) * launch["BLOCK"] * _SUM,
        bytes_asked=_asked(launch, launch["TRIANGLE"]),
    )


def _tile_weights(launch: Launch) -> Work:
    pairs, products = _tile_products(launch, launch["MIRROR"])
    terms = sum(launch[lse] is not None for lse in ("lse", "other_lse"))
    written = launch["n"] * launch["m"] if launch["MIRROR"] else pairs
    return Work(
        tensor_ops=products,
        exponentials=terms * pairs,
        bytes_read=_rows_of(launch, pairs),
        bytes_written=written * launch["weights_out"].element_size(),
        bytes_asked=_asked(launch, launch["MIRROR"]),
    )


def _fused(launch: Launch, terms: int, written: int) -> Work:
    pairs = launch["n"] * launch["m"]
    return Work(
        tensor_ops=4 * pairs * launch["BLOCK_D"],
        exponentials=terms * pairs,
        bytes_read=size_of(launch["x"], launch["y"]),
        bytes_written=written,
        bytes_asked=cdiv(launch["n"], launch["BLOCK_N"]) * size_of(launch["y"]),
    )


def _attend(launch: Launch) -> Work:
    return _fused(launch, 1, size_of(launch["attended"], launch["row_peaks"], launch["row_totals"]))


def _move(launch: Launch) -> Work:
    terms = sum(launch[lse] is not None for lse in ("lse", "other_lse"))
    return _fused(launch, terms, size_of(launch["moved_out"]))


def _parts(*, read: str, written: str) -> Count:
    """Count the work of a kernel that reads and writes these arguments whole; its arithmetic is hidden by that."""

    def count(launch: Launch) -> Work:
        tensors_read, tensors_written = ([launch[name] for name in names.split()] for names in (read, written))
        return Work(bytes_read=size_of(*tensors_read), bytes_written=size_of(*tensors_written))

    return count


WORK: dict[str, Count] = {
    "tile_sums_kernel": _tile_sums,
    "tile_weights_kernel": _tile_weights,
    "attend_kernel": _attend,
    "move_kernel": _move,
    "merge_kernel": _parts(read="peaks totals", written="lse"),
    "largest_kernel": _parts(read="rows columns", written="largest"),
    "attended_kernel": _parts(read="moved row_peaks lse", written="attended"),
    "total_kernel": _parts(read="moved largest", written="out"),
    "weigh_kernel": _parts(
        read="x y row_peaks row_totals column_peaks column_totals", written="lse weights pull losses pulled"
    ),
    "finish_kernel": _parts(read="x x_moved y y_moved pull x_norms y_norms", written="dx dy along"),
    "sum_kernel": _parts(read="first second", written="first_sum second_sum"),
}
# Tiles that take one exponential a pair do not form their logits again.
USUAL: dict[str, dict[str, Any]] = {"tile_sums_kernel": {"APART": False}}
