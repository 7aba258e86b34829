# SPDX-License-Identifier: Apache-2.0
"""The work of the neighbours kernels: products of whole tiles, and differences of the winners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sslkernels.ops.triton_launch import cdiv
from sslkernels.ops.work import Count, Work, size_of

# Operations on a pair besides its product: to order its bits, to pack the key, and to compare it.
_KEY = 8


def _best(launch: Mapping[str, Any]) -> Work:
    x, y = launch["x"], launch["y"]
    problems, row_tiles = launch["best_out"].shape[0], cdiv(launch["n"], launch["BLOCK_N"])
    pairs = problems * row_tiles * launch["BLOCK_N"] * cdiv(launch["m"], launch["BLOCK_M"]) * launch["BLOCK_M"]
    products = 2 * pairs * cdiv(launch["d"], launch["BLOCK_D"]) * launch["BLOCK_D"]
    on_cores = x.dtype == torch.float32 and launch["PRECISION"] == "ieee"
    return Work(
        tensor_ops=0 if on_cores else products,
        fp32_ops=_KEY * pairs + (products if on_cores else 0),
        bytes_read=size_of(x, y, launch["bias"], launch["exclude"], launch["bound"]),
        bytes_written=size_of(launch["best_out"]),
        bytes_asked=row_tiles * size_of(y) + cdiv(launch["m"], launch["BLOCK_M"]) * size_of(x),
    )


def _distances(launch: Mapping[str, Any]) -> Work:
    numbers = launch["count"] * launch["d"]
    rows = 2 * numbers * launch["x"].element_size()
    return Work(
        fp32_ops=3 * numbers,
        bytes_read=size_of(launch["indices"]) + rows,
        bytes_written=size_of(launch["distances_out"]),
    )


WORK: dict[str, Count] = {"best_kernel": _best, "distances_kernel": _distances}
