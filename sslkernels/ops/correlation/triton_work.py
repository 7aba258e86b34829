# SPDX-License-Identifier: Apache-2.0
"""The work of the correlation kernels. But for the products, it is the bytes of the rows, columns, da and matrices."""

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


def _multiplied(launch: Mapping[str, Any], operations: int, read: int, written: int) -> Work:
    """Count products on the tensor cores, unless their operands are whole float32 numbers."""
    exact = launch["DTYPE"].primitive_bitwidth == 32 and launch["PRECISION"] == "ieee"
    tensor_ops, fp32_ops = (0, operations) if exact else (operations, 0)
    return Work(tensor_ops=tensor_ops, fp32_ops=fp32_ops, bytes_read=read, bytes_written=written)


def _matrix(launch: Mapping[str, Any]) -> Work:
    """Count the products of each view; tiles of the lower triangle alone where a matrix is symmetric."""
    height, width, depth, views = launch["height"], launch["width"], launch["depth"], launch["out"].shape[0]
    pairs = height * width
    if launch["SYMMETRIC"]:
        tiles = -(-height // launch["BLOCK_N"])
        pairs = tiles * (tiles + 1) // 2 * launch["BLOCK_N"] * launch["BLOCK_M"]
    operands = (launch["left"],) if launch["SYMMETRIC"] else (launch["left"], launch["right"])
    return _multiplied(launch, 2 * views * pairs * depth, views * size_of(*operands), size_of(launch["out"]))


def _backward(launch: Mapping[str, Any]) -> Work:
    rows = {id(launch[name]): launch[name] for name in ("source", "z", "other")}  # they may be one tensor
    read = size_of(*rows.values(), launch["matrix"])
    operations = 2 * launch["n"] * launch["d"] * launch["depth"]
    return _multiplied(launch, operations, read, size_of(launch["out"], launch["sums"]))


def _standardise(launch: Mapping[str, Any]) -> Work:
    return Work(bytes_read=size_of(launch["z0"], launch["z1"]), bytes_written=size_of(launch["columns"]))


def _slopes(launch: Mapping[str, Any]) -> Work:
    """Sums of da a over rows read both; otherwise numbers of columns are read, and sums of tiles."""
    read = size_of(launch["row_parts"], launch["column_parts"], launch["sums"], launch["squares"])
    if launch["taken"] is not None and launch["SCALED"]:
        read += size_of(launch["z0"], launch["z1"], launch["da0"], launch["da1"])
    return Work(bytes_read=read, bytes_written=size_of(launch["factors"]))


def _gradients(launch: Mapping[str, Any]) -> Work:
    gradients = size_of(launch["dz0"], launch["dz1"])
    rows = size_of(launch["z0"], launch["z1"])
    return Work(bytes_read=rows + gradients * launch["ENERGY"], bytes_written=gradients)


WORK: dict[str, Count] = {
    "moments_kernel": _moves("z0 z1", "means squares products gaps"),
    "merge_kernel": _moves("part_means part_squares part_products part_gaps", "means squares products gaps"),
    "columns_kernel": _moves(
        "part_means part_squares part_products part_gaps", "mean squares scale diagonal largest terms"
    ),
    "standardise_kernel": _standardise,
    "matrix_kernel": _matrix,
    "samples_kernel": _moves("matrix", "rounded diagonal sums"),
    "sample_energies_kernel": _moves("matrix", "sums"),
    "feature_energies_kernel": _moves("matrix", "row_parts column_parts sums rounded"),
    "backward_kernel": _backward,
    "slopes_kernel": _slopes,
    "gradients_kernel": _gradients,
    "finish_kernel": _moves("da z other", "dz"),
}
