# SPDX-License-Identifier: Apache-2.0
"""The work of the sigreg kernels: a few float32 operations for each knot of each projection. Nothing takes a sine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sslkernels.ops.work import Count, Work, size_of

# For a pair of knots K + j and K - j: four products of cosines and sines. Their sums over samples take four operations
# more; the adjoint combines them to both points (4), and takes a difference of products of each and adds it (8).
_SUMS, _ADJOINT = 8 // 2, 16 // 2


def _sums(launch: Mapping[str, Any]) -> Work:
    p, out = launch["p"], launch["out"]
    return Work(fp32_ops=_SUMS * launch["knots"] * p.numel(), bytes_read=size_of(p), bytes_written=size_of(out))


def _adjoint(launch: Mapping[str, Any]) -> Work:
    p, grad, dp = launch["p"], launch["grad"], launch["dp"]
    read = size_of(p, grad)
    return Work(fp32_ops=_ADJOINT * launch["knots"] * p.numel(), bytes_read=read, bytes_written=size_of(dp))


WORK: dict[str, Count] = {"sums_kernel": _sums, "adjoint_kernel": _adjoint}
