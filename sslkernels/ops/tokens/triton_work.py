# SPDX-License-Identifier: Apache-2.0
"""The work of the tokens kernels. Shapes do not say which rows an index names, so it is counted as if none were wrong.

Bytes are of rows that are moved once, which is all that these kernels do. The comparisons of indices and of keys run on
the CUDA cores too, and are counted with float32's operations, two for each pair: to compare, and to count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sslkernels.ops.work import Count, Work, size_of

Launch = Mapping[str, Any]


def _gather(launch: Launch) -> Work:
    """Rows of x are read once for each set of indices. Where there is a fill, an index names each of them once."""
    x, out, pos = launch["x"], launch["out"], launch["pos"]
    sets = out.shape[0] // launch["batch"]
    rows = min(_rows(out), sets * _rows(x))
    return Work(
        fp32_ops=0 if pos is None else out.numel(),
        bytes_read=_bytes(x, rows) + size_of(launch["index"], launch["fill"], pos),
        bytes_written=size_of(out),
    )


def _collect(launch: Launch) -> Work:
    """Each row of x arrives at most once, and at each place one of every sample at most."""
    x, out, index = launch["x"], launch["out"], launch["index"]
    samples = launch["samples"]
    rows = min(_rows(x), -(-samples // launch["batch"]) * _rows(out))
    compared = samples * launch["kept"] * (launch["length"] + launch["prefix"]) * launch["column_programs"]
    return Work(
        fp32_ops=rows * out.shape[-1] + 2 * compared,
        bytes_read=_bytes(x, rows) + size_of(index, launch["fill"]),
        bytes_written=size_of(out),
    )


def _sums(launch: Launch) -> Work:
    """All rows are taken."""
    x = launch["x"]
    return Work(fp32_ops=x.numel(), bytes_read=size_of(x, launch["index"]), bytes_written=size_of(launch["out"]))


def _ranks(launch: Launch) -> Work:
    keys = launch["keys"]
    written = launch["ids_keep"], launch["ids_restore"], launch["mask"]
    return Work(fp32_ops=2 * keys.numel() * keys.shape[1], bytes_read=size_of(keys), bytes_written=size_of(*written))


def _patches(launch: Launch) -> Work:
    """Each patch is read once."""
    images, out = launch["images"], launch["out"]
    return Work(bytes_read=size_of(launch["index"]) + min(size_of(images), size_of(out)), bytes_written=size_of(out))


def _errors(launch: Launch) -> Work:
    """All tokens count. A target that is standardised is read again from a cache."""
    pred, target, dpred = launch["pred"], launch["target"], launch["dpred"]
    numbers = launch["n"] * launch["channels"]
    return Work(
        fp32_ops=numbers * (6 + 5 * bool(launch["NORM"]) + 2 * (dpred is not None)),
        bytes_read=numbers * (pred.element_size() + target.element_size()) + size_of(launch["weights"]),
        bytes_written=size_of(launch["errors"], dpred),
    )


def _rows(x: Tensor) -> int:
    return math.prod(x.shape[:-1])


def _bytes(x: Tensor, rows: int) -> int:
    return rows * x.shape[-1] * x.element_size()


WORK: dict[str, Count] = {
    "gather_kernel": _gather,
    "collect_kernel": _collect,
    "sums_kernel": _sums,
    "ranks_kernel": _ranks,
    "patches_kernel": _patches,
    "errors_kernel": _errors,
}
