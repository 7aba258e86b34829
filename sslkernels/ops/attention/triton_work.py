# SPDX-License-Identifier: Apache-2.0
"""The work of the attention kernels. Products are counted with the features that a launch was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sslkernels.ops.triton_launch import cdiv
from sslkernels.ops.work import Count, Work, size_of

Launch = Mapping[str, Any]


def _products(launch: Launch, operations: int) -> dict[str, int]:
    """Whole float32 is multiplied on the CUDA cores."""
    x = launch["query"] if "query" in launch else launch["x"]
    on_cores = x.dtype == torch.float32 and launch["PRECISION"] == "ieee"
    return {"fp32_ops" if on_cores else "tensor_ops": operations}


def _attend(launch: Launch) -> Work:
    pairs, slices = launch["n"] * launch["m"], launch["slices"]
    return Work(
        **_products(launch, 2 * pairs * (slices * launch["d"] + launch["dv"])),
        exponentials=slices * pairs,
        bytes_read=size_of(launch["query"], launch["keys"], launch["values"], launch["bias"], launch["exclude"]),
        bytes_written=size_of(launch["peaks"], launch["totals"], launch["attended"]),
        bytes_asked=cdiv(launch["n"], launch["BLOCK_N"])
        * (slices * size_of(launch["keys"]) + size_of(launch["values"])),
    )


def _pull(launch: Launch) -> Work:
    pairs, slices = launch["n"] * launch["m"], launch["slices"]
    moved, by, of_bias = (launch[name] for name in ("moved_out", "by_out", "bias_out"))
    features = slices * launch["d"]
    if moved is not None or of_bias is not None:
        features += slices * launch["dv"]
    features += (launch["d"] if moved is not None else 0) + (launch["dv"] if by is not None else 0)
    sides = [launch[name] for name in ("x", "y", "x_by", "y_by")]
    return Work(
        **_products(launch, 2 * pairs * features),
        exponentials=slices * pairs,
        bytes_read=size_of(*sides, launch["bias"], launch["exclude"], launch["lse"], launch["delta"]),
        bytes_written=size_of(moved, by, of_bias),
        bytes_asked=cdiv(launch["n"], launch["BLOCK_N"]) * slices * size_of(launch["y"], launch["y_by"]),
    )


WORK: dict[str, Count] = {"attend_kernel": _attend, "pull_kernel": _pull}
# Rows that list nothing skip a loop.
USUAL: dict[str, dict[str, Any]] = {"attend_kernel": {"exclude": None}, "pull_kernel": {"exclude": None}}
