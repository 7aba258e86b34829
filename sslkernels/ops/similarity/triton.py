# SPDX-License-Identifier: Apache-2.0
"""The similarity family on Triton: choose the way through the pairs, allocate, launch.

Nothing here waits for the device: the scale is read from its pointer, and every size follows from shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from sslkernels import backends
from sslkernels.ops.launch import dot_precision, rows_of
from sslkernels.ops.similarity import triton_kernels as kernels

# What the chunked path holds at once of logits, and of weights beside them: it cannot do without any.
WORKSPACE = max(backends.WORKSPACE, 1 << 20)

# What float16 weights, at most 1, are multiplied by: those of 65536 equal pairs, 2^-16, would be subnormal there.
HEADROOM = 2.0**14
# More exclusions per row than this are looped over, which only the chunked path does; the losses need two.
FUSED_EXCLUSIONS = 2


@dataclass(frozen=True)
class Blocks:
    """Rows a program keeps, rows of the other side per step, warps, pipeline stages, programs per multiprocessor."""

    n: int
    m: int
    warps: int
    stages: int
    programs: int = 1


@dataclass(frozen=True)
class Plan:
    """How a problem is computed, "fused" or "chunked", and why in words."""

    path: str
    reason: str
    forward: Blocks
    attend: Blocks
    backward: Blocks


# Compute capability (major) -> padded D -> blocks of the forward, of the forward with attended keys, of the backward.
# Chosen so that Triton 3.9 compiles every variant for sm_80, sm_90 and sm_100 without spills, and Triton 3.6 with at
# most 16 bytes of them; not measured on a GPU.
TABLE: dict[int, dict[int, tuple[Blocks, Blocks, Blocks]]] = {
    8: {
        64: (Blocks(128, 64, 8, 3), Blocks(128, 64, 8, 3), Blocks(128, 32, 8, 2)),
        128: (Blocks(128, 32, 8, 3), Blocks(64, 64, 8, 2), Blocks(64, 64, 8, 3)),
        256: (Blocks(128, 32, 8, 3), Blocks(64, 32, 8, 2), Blocks(64, 32, 8, 2)),
    },
    9: {
        64: (Blocks(128, 64, 8, 3), Blocks(128, 64, 8, 3), Blocks(128, 64, 8, 3)),
        128: (Blocks(128, 64, 8, 3), Blocks(128, 32, 8, 2), Blocks(128, 64, 8, 3)),
        256: (Blocks(128, 64, 8, 3), Blocks(64, 32, 8, 2), Blocks(64, 64, 8, 2)),
    },
    10: {
        64: (Blocks(128, 32, 8, 3), Blocks(128, 64, 8, 3), Blocks(128, 32, 8, 3)),
        128: (Blocks(64, 64, 8, 3), Blocks(64, 64, 8, 2), Blocks(128, 64, 8, 3)),
        256: (Blocks(128, 32, 16, 2), Blocks(32, 32, 8, 2), Blocks(64, 32, 8, 2)),
    },
}
# Epilogues read a chunk once from memory: small tiles, many programs.
EPILOGUE = Blocks(16, 128, 4, 1, 4)


def plan(n: int, m: int, d: int, dtype: torch.dtype, capability: tuple[int, int], excluded: int = 0) -> Plan:
    """The path for N x M pairs of D features on a device of compute ``capability``, with up to E excluded per row.

    >>> plan(4096, 4096, 128, torch.bfloat16, (9, 0)).path, plan(4096, 4096, 768, torch.bfloat16, (9, 0)).path
    ('fused', 'chunked')
    """
    major, minor = capability
    if dtype == torch.float32:
        reason = "float32 tiles of logits and rows together exceed the registers, and cuBLAS multiplies them faster"
    elif d > 256:
        reason = f"D = {d} features of a block of rows exceed the registers; 256 is the most"
    elif excluded > FUSED_EXCLUSIONS:
        reason = f"{excluded} exclusions per row need a loop inside the tile; {FUSED_EXCLUSIONS} is the most unrolled"
    elif major not in TABLE or (major, minor) in ((8, 6), (8, 9)):
        reason = f"no block sizes for compute capability {major}.{minor}; they exist for 8.0, 8.7, 9.x and 10.x"
    else:
        bucket = max(64, _power_of_two(d))
        reason = f"16-bit rows of D = {d} fit the registers, so that the logits of {n} x {m} pairs never reach memory"
        return Plan("fused", f"fused: {reason}.", *TABLE[major][bucket])
    chunk = f"chunks of logits go through a workspace of {WORKSPACE >> 20} MiB"
    return Plan("chunked", f"chunked: {reason}; {chunk}.", EPILOGUE, EPILOGUE, EPILOGUE)


def forward(
    x: Tensor, y: Tensor | None, scale: Tensor, exclude: Tensor | None, columns: bool, attend: bool, kept: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    x, keys, exclude = rows_of(x), rows_of(x if y is None else y), _lists(exclude)
    n, m, d = x.shape[0], keys.shape[0], x.shape[1]
    if n == 0 or m == 0:
        rows = _floats(x, n).fill_(-torch.inf)
        return (
            rows,
            _floats(x, m if columns else 0).fill_(-torch.inf),
            _floats(x, *((n, d) if attend else (0,))).zero_(),
        )
    way = _plan_for(x, m, exclude)
    with torch.cuda.device_of(x):
        run = _fused_forward if way.path == "fused" else _chunked_attend if attend else _chunked_forward
        return run(way, x, keys, scale, exclude, columns, attend)


def backward(
    x: Tensor,
    y: Tensor | None,
    scale: Tensor,
    exclude: Tensor | None,
    rows: Tensor | None,
    rows_grad: Tensor | None,
    cols: Tensor | None,
    cols_grad: Tensor | None,
    kept: Tensor | None,
    need_x: bool,
    need_y: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    x, exclude = rows_of(x), _lists(exclude)
    keys, itself = x if y is None else rows_of(y), y is None
    need_y = need_y and not itself
    if x.shape[0] == 0 or keys.shape[0] == 0:
        return (
            torch.zeros_like(x, memory_format=torch.contiguous_format) if need_x else x.new_empty(0),
            torch.zeros_like(keys, memory_format=torch.contiguous_format) if need_y else x.new_empty(0),
            _floats(x).zero_(),
        )
    by_rows = None if rows is None or rows_grad is None else (rows.contiguous(), rows_grad.contiguous())
    by_columns = None if cols is None or cols_grad is None else (cols.contiguous(), cols_grad.contiguous())
    unit = None
    if x.dtype == torch.float16 and (by_rows or by_columns):
        by_rows, by_columns, unit = _with_headroom(by_rows, by_columns)
    way = _plan_for(x, keys.shape[0], exclude)
    with torch.cuda.device_of(x):
        run = _fused_backward if way.path == "fused" else _chunked_backward
        dx, dy, row_dscale = run(way, x, keys, itself, scale, exclude, by_rows, by_columns, unit, need_x, need_y)
    dscale = row_dscale.sum()
    return dx, dy, dscale / 2 if itself else dscale


# --- fused ----------------------------------------------------------------------------------------------------------


def _fused_forward(
    way: Plan, x: Tensor, keys: Tensor, scale: Tensor, exclude: Tensor | None, columns: bool, attend: bool
) -> tuple[Tensor, Tensor, Tensor]:
    n, m, d = x.shape[0], keys.shape[0], x.shape[1]
    blocks = way.attend if attend else way.forward
    row_programs, column_programs = _grid(n, m, blocks, x.device, columns)
    row_peaks, row_totals = _floats(x, 2, column_programs, n)
    column_peaks, column_totals = _floats(x, 2, row_programs, m) if columns else (None, None)
    moved = _floats(x, column_programs, n, d) if attend else None
    kernels.forward_kernel[(row_programs * column_programs,)](
        x, keys, scale, exclude, row_peaks, row_totals, column_peaks, column_totals, moved,
        n, m, d, x.stride(0), keys.stride(0), row_programs, column_programs,
        EXCLUDED=_listed(exclude), COLUMNS=columns, ATTEND=attend, HEADROOM=_headroom(x),
        **_tiles(blocks, x),
    )  # fmt: skip
    rows = _merge(row_peaks, row_totals)
    column_sums = _merge(column_peaks, column_totals) if columns else _floats(x, 0)
    if not attend:
        return rows, column_sums, _floats(x, 0)
    attended = _floats(x, n, d)
    size = _row_tiles(d)
    kernels.attended_kernel[(triton.cdiv(n, size["BLOCK_N"]),)](
        moved, row_peaks, rows, attended, n, d, column_programs, **size
    )
    return rows, column_sums, attended


def _fused_backward(
    way: Plan,
    x: Tensor,
    keys: Tensor,
    itself: bool,
    scale: Tensor,
    exclude: Tensor | None,
    by_rows: tuple[Tensor, Tensor] | None,
    by_columns: tuple[Tensor, Tensor] | None,
    unit: Tensor | None,
    need_x: bool,
    need_y: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dx = dy = x.new_empty(0)
    dscale = None
    if need_x or not need_y:
        moved = _sweep(way.backward, x, keys, scale, exclude, by_rows, by_columns, own_lists=True, other_lists=itself)
        dx, dscale = _gradient(moved, x, scale, unit, need_x)
    if need_y:
        moved = _sweep(way.backward, keys, x, scale, exclude, by_columns, by_rows, own_lists=False, other_lists=True)
        dy, from_keys = _gradient(moved, keys, scale, unit, True)
        dscale = from_keys if dscale is None else dscale
    assert dscale is not None
    return dx, dy, dscale


def _sweep(
    blocks: Blocks,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    exclude: Tensor | None,
    own: tuple[Tensor, Tensor] | None,
    other: tuple[Tensor, Tensor] | None,
    own_lists: bool,
    other_lists: bool,
) -> Tensor:
    """G*Y for the rows of x, in parts ``(parts, N, D)``."""
    n, m, d = x.shape[0], y.shape[0], x.shape[1]
    row_programs, parts = _grid(n, m, blocks, x.device, False)
    moved = _floats(x, parts, n, d)
    kernels.backward_kernel[(row_programs * parts,)](
        x, y, scale, exclude, *(own or (None, None)), *(other or (None, None)), moved,
        n, m, d, x.stride(0), y.stride(0), parts,
        EXCLUDED=_listed(exclude), OWN_LISTS=own_lists, OTHER_LISTS=other_lists, **_tiles(blocks, x),
    )  # fmt: skip
    return moved


# --- chunked --------------------------------------------------------------------------------------------------------


def _chunked_forward(
    way: Plan, x: Tensor, keys: Tensor, scale: Tensor, exclude: Tensor | None, columns: bool, attend: bool
) -> tuple[Tensor, Tensor, Tensor]:
    n, m = x.shape[0], keys.shape[0]
    height, width = _chunk(n, m, 4)
    products = _floats(x, height * width)
    row_programs, column_programs = _grid(height, width, way.forward, x.device, columns)
    row_peaks, row_totals = _floats(x, 2, column_programs, n)
    column_peaks, column_totals = _floats(x, 2, row_programs, m) if columns else (None, None)
    for i in range(0, n, height):
        for j in range(0, m, width):
            part = _products(x[i : i + height], keys[j : j + width], products)
            kernels.chunk_forward_kernel[(row_programs * column_programs,)](
                part, scale, None if exclude is None else exclude[i:], row_peaks[:, i:], row_totals[:, i:],
                None if column_peaks is None else column_peaks[:, j:],
                None if column_totals is None else column_totals[:, j:],
                *part.shape, n, m, j, _listed(exclude), row_programs, column_programs, int(j > 0), int(i > 0),
                COLUMNS=columns, **_epilogue_tiles(way.forward),
            )  # fmt: skip
    rows = _merge(row_peaks, row_totals)
    return rows, _merge(column_peaks, column_totals) if columns else _floats(x, 0), _floats(x, 0)


def _chunked_attend(
    way: Plan, x: Tensor, keys: Tensor, scale: Tensor, exclude: Tensor | None, columns: bool, attend: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Chunks as wide as the keys: their rows' sums are complete, so the stored logits turn into softmax at once."""
    n, m, d = x.shape[0], keys.shape[0], x.shape[1]
    itemsize = 0 if x.dtype == torch.float32 else x.element_size()
    height = min(n, max(64, WORKSPACE // ((4 + itemsize) * m)))
    products, attended, sums = _floats(x, height * m), _floats(x, n, d), _floats(x, n)
    weights = x.new_empty(height * m) if itemsize else products
    one = _floats(x, height).fill_(_headroom(x))
    row_programs, column_programs = _grid(height, m, way.forward, x.device, False)
    for i in range(0, n, height):
        part = _products(x[i : i + height], keys, products)
        listed = None if exclude is None else exclude[i : i + height]
        row_peaks, row_totals = _floats(x, 2, column_programs, part.shape[0])
        kernels.chunk_forward_kernel[(row_programs * column_programs,)](
            part, scale, listed, row_peaks, row_totals, None, None,
            *part.shape, part.shape[0], m, 0, _listed(exclude), row_programs, column_programs, 0, 0,
            COLUMNS=False, **_epilogue_tiles(way.forward),
        )  # fmt: skip
        rows = sums[i : i + height]
        _merge(row_peaks, row_totals, rows)
        part_weights = _weights(way, part, weights, scale, exclude, (rows, one), None, i, 0, False)
        _accumulate(attended[i : i + height], part_weights, keys, first=True)
    if _headroom(x) != 1:
        attended.mul_(1 / _headroom(x))
    column_sums = _chunked_forward(way, x, keys, scale, exclude, True, False)[1] if columns else _floats(x, 0)
    return sums, column_sums, attended


def _chunked_backward(
    way: Plan,
    x: Tensor,
    keys: Tensor,
    itself: bool,
    scale: Tensor,
    exclude: Tensor | None,
    by_rows: tuple[Tensor, Tensor] | None,
    by_columns: tuple[Tensor, Tensor] | None,
    unit: Tensor | None,
    need_x: bool,
    need_y: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    n, m, d = x.shape[0], keys.shape[0], x.shape[1]
    sweep_x = need_x or not need_y
    itemsize = 0 if x.dtype == torch.float32 else x.element_size()
    height, width = _chunk(n, m, 4 + itemsize)
    products = _floats(x, height * width)
    weights = x.new_empty(height * width) if itemsize else products
    dx = x.new_empty((n, d) if need_x else (0,))
    row_dscale = _floats(x, n)
    x_moved = _floats(x, height, d) if sweep_x else None
    y_moved = _floats(x, m, d) if need_y else None
    for i in range(0, n, height):
        rows = slice(i, i + height)
        for j in range(0, m, width):
            columns = slice(j, j + width)
            part = _products(x[rows], keys[columns], products)
            own = None if by_rows is None else (by_rows[0][rows], by_rows[1][rows])
            other = None if by_columns is None else (by_columns[0][columns], by_columns[1][columns])
            part_weights = _weights(way, part, weights, scale, exclude, own, other, i, j, itself)
            if x_moved is not None:
                _accumulate(x_moved[: part.shape[0]], part_weights, keys[columns], first=j == 0)
            if y_moved is not None:
                _accumulate(y_moved[columns], part_weights.T, x[rows], first=i == 0)
        if x_moved is not None:
            some = x[rows]
            into = dx[rows] if need_x else None
            _finish(x_moved[None, : some.shape[0]], some, scale, unit, into, row_dscale[rows])
    dy = x.new_empty(0)
    if y_moved is not None:
        dy, from_keys = _gradient(y_moved[None], keys, scale, unit, True)
        row_dscale = row_dscale if sweep_x else from_keys
    return dx, dy, row_dscale


def _products(x: Tensor, y: Tensor, workspace: Tensor) -> Tensor:
    """x @ y.T in float32, at the front of the workspace."""
    out = workspace[: x.shape[0] * y.shape[0]].view(x.shape[0], y.shape[0])
    if x.dtype == torch.float32:
        return torch.mm(x, y.T, out=out)
    if x.is_cuda:
        return torch.mm(x, y.T, out_dtype=torch.float32, out=out)
    return torch.mm(x.float(), y.T.float(), out=out)


def _accumulate(total: Tensor, weights: Tensor, rows: Tensor, first: bool) -> None:
    """total = weights @ rows, or += where not ``first``, in float32."""
    beta = 0 if first else 1
    if rows.dtype == torch.float32:
        torch.addmm(total, weights, rows, beta=beta, out=total)
    elif rows.is_cuda:
        torch.addmm(total, weights, rows, out_dtype=torch.float32, beta=beta, out=total)
    else:
        torch.addmm(total, weights.float(), rows.float(), beta=beta, out=total)


def _weights(
    way: Plan,
    products: Tensor,
    workspace: Tensor,
    scale: Tensor,
    exclude: Tensor | None,
    own: tuple[Tensor, Tensor] | None,
    other: tuple[Tensor, Tensor] | None,
    first_row: int,
    first_column: int,
    itself: bool,
) -> Tensor:
    """G of a chunk of products, in the workspace's dtype."""
    n, m = products.shape
    out = workspace[: n * m].view(n, m)
    blocks = way.backward
    kernels.chunk_backward_kernel[(triton.cdiv(n, blocks.n) * triton.cdiv(m, blocks.m),)](
        products, out, scale, exclude, *(own or (None, None)), *(other or (None, None)),
        n, m, first_row, first_column, _listed(exclude), SELF=itself, **_epilogue_tiles(blocks),
    )  # fmt: skip
    return out


def _chunk(n: int, m: int, bytes_per_pair: int) -> tuple[int, int]:
    """Rows and columns of a chunk: whole sides where they fit the workspace, else as square as can be."""
    pairs = WORKSPACE // bytes_per_pair
    side = max(1, math.isqrt(pairs))
    side = side // 128 * 128 or side
    if n <= side:
        return n, min(m, max(1, pairs // n))
    if m <= side:
        return min(n, max(1, pairs // m)), m
    return side, side


# --- what both ways share -------------------------------------------------------------------------------------------


def _merge(peaks: Tensor, totals: Tensor, into: Tensor | None = None) -> Tensor:
    parts, n = peaks.shape
    lse = _floats(peaks, n) if into is None else into
    kernels.merge_kernel[(triton.cdiv(n, 128),)](peaks, totals, lse, n, parts, BLOCK=128, num_warps=4)
    return lse


def _gradient(moved: Tensor, x: Tensor, scale: Tensor, unit: Tensor | None, need: bool) -> tuple[Tensor, Tensor]:
    dx = x.new_empty(tuple(x.shape)) if need else x.new_empty(0)
    row_dscale = _floats(x, x.shape[0])
    _finish(moved, x, scale, unit, dx if need else None, row_dscale)
    return dx, row_dscale


def _finish(
    moved: Tensor, x: Tensor, scale: Tensor, unit: Tensor | None, dx: Tensor | None, row_dscale: Tensor
) -> None:
    n, d = x.shape
    size = _row_tiles(d)
    kernels.gradient_kernel[(triton.cdiv(n, size["BLOCK_N"]),)](
        moved, x, scale, unit, dx, row_dscale, n, d, x.stride(0), moved.shape[0], **size
    )


def _with_headroom(
    *terms: tuple[Tensor, Tensor] | None,
) -> tuple[tuple[Tensor, Tensor] | None, tuple[Tensor, Tensor] | None, Tensor]:
    """Gradients brought to at most 2^14, so that float16 weights keep their digits, and what undoes it."""
    # One row's infinity or NaN must not become that of all.
    grads = [term[1].nan_to_num(0, 0, 0) for term in terms if term is not None]
    largest = torch.stack([torch.linalg.vector_norm(grad, torch.inf) for grad in grads]).amax()
    unit = largest.clamp_min(2.0**-100) / HEADROOM
    first, second = (None if term is None else (term[0], term[1] / unit) for term in terms)
    return first, second, unit


def _headroom(x: Tensor) -> float:
    return HEADROOM if x.dtype == torch.float16 else 1.0


def _grid(n: int, m: int, blocks: Blocks, device: torch.device, columns: bool) -> tuple[int, int]:
    """Row programs and column programs: about as many together as the device runs at once.

    Without column sums each block of rows has its program, and columns are split only to fill the device. With them,
    row programs are few, because each keeps a sum for every column.
    """
    programs = _processors(device) * blocks.programs
    row_blocks, column_blocks = triton.cdiv(n, blocks.n), triton.cdiv(m, blocks.m)
    if not columns:
        return row_blocks, max(1, min(column_blocks, programs // row_blocks))
    column_programs = min(column_blocks, max(8, programs // row_blocks))
    return min(row_blocks, max(1, programs // column_programs)), column_programs


def _tiles(blocks: Blocks, x: Tensor) -> dict[str, Any]:
    return {
        "PRECISION": dot_precision(),
        "BLOCK_N": blocks.n,
        "BLOCK_M": blocks.m,
        "BLOCK_D": max(16, _power_of_two(x.shape[1])),
        "num_warps": blocks.warps,
        "num_stages": blocks.stages,
    }


def _epilogue_tiles(blocks: Blocks) -> dict[str, Any]:
    return {"BLOCK_N": blocks.n, "BLOCK_M": blocks.m, "num_warps": blocks.warps}


def _row_tiles(d: int) -> dict[str, Any]:
    """A tile of 2048 numbers, as many rows as fit."""
    block_d = min(1024, max(16, _power_of_two(d)))
    return {"BLOCK_N": 2048 // block_d, "BLOCK_D": block_d, "num_warps": 4}


def _plan_for(x: Tensor, m: int, exclude: Tensor | None) -> Plan:
    return plan(x.shape[0], m, x.shape[1], x.dtype, _capability(x.device), _listed(exclude))


def _capability(device: torch.device) -> tuple[int, int]:
    """(0, 0) for what the table does not speak of: the interpreter, and GPUs of other makers."""
    if device.type != "cuda" or torch.version.hip is not None:
        return 0, 0
    return torch.cuda.get_device_capability(device)


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def _power_of_two(d: int) -> int:
    return 1 << (d - 1).bit_length()


def _lists(exclude: Tensor | None) -> Tensor | None:
    return None if exclude is None or exclude.shape[1] == 0 else exclude.contiguous()


def _listed(exclude: Tensor | None) -> int:
    return 0 if exclude is None else exclude.shape[1]


def _floats(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


# --- rows -----------------------------------------------------------------------------------------------------------


def unit_rows_forward(z0: Tensor, z1: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    n0, d = z0.shape
    n = n0 + (0 if z1 is None else z1.shape[0])
    unit, norms = z0.new_empty((n, d), dtype=dtype), _floats(z0, n)
    size = _row_tiles(d)
    with torch.cuda.device_of(z0):
        for part, here in ((z0, slice(0, n0)), (z1, slice(n0, n))):
            if part is not None and part.shape[0]:
                part = rows_of(part)
                kernels.unit_rows_kernel[(triton.cdiv(part.shape[0], size["BLOCK_N"]),)](
                    part, unit[here], norms[here], part.shape[0], d, part.stride(0), **size
                )
    return unit, norms


def unit_rows_backward(unit: Tensor, norms: Tensor, grad: Tensor, n0: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    n, d = unit.shape
    grad = rows_of(grad)
    parts = unit.new_empty((n0, d), dtype=dtype), unit.new_empty((n - n0, d), dtype=dtype)
    size = _row_tiles(d)
    with torch.cuda.device_of(unit):
        for part, here in zip(parts, (slice(0, n0), slice(n0, n)), strict=True):
            if part.shape[0]:
                kernels.unit_rows_backward_kernel[(triton.cdiv(part.shape[0], size["BLOCK_N"]),)](
                    unit[here], norms[here], grad[here], part, part.shape[0], d, grad.stride(0), **size
                )
    return parts


def row_dot_forward(x: Tensor, y: Tensor | None, shift: int) -> Tensor:
    x, y = rows_of(x), rows_of(x if y is None else y)
    n, d = x.shape
    out = _floats(x, n)
    size = _row_tiles(d)
    if n:
        with torch.cuda.device_of(x):
            kernels.row_dot_kernel[(triton.cdiv(n, size["BLOCK_N"]),)](
                x, y, out, n, y.shape[0], d, x.stride(0), y.stride(0), shift % y.shape[0], **size
            )
    return out


def row_dot_backward(
    x: Tensor, y: Tensor | None, shift: int, grad: Tensor, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor]:
    if y is None:
        return _partner_gradient(x, x, shift, grad, given=True, received=True), x.new_empty(0)
    return (
        _partner_gradient(x, y, shift, grad, given=True, received=False) if need_x else x.new_empty(0),
        _partner_gradient(x, y, shift, grad, given=False, received=True) if need_y else x.new_empty(0),
    )


def row_cosine_forward(x: Tensor, y: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    x, y = rows_of(x), rows_of(y)
    n, d = x.shape
    cosines, norms = _floats(x, n), _floats(x, 2, n)
    size = _row_tiles(d)
    if n:
        with torch.cuda.device_of(x):
            kernels.row_cosine_kernel[(triton.cdiv(n, size["BLOCK_N"]),)](
                x, y, cosines, norms, n, d, x.stride(0), y.stride(0), eps, **size
            )
    return cosines, norms


def row_cosine_backward(
    x: Tensor, y: Tensor, cosines: Tensor, norms: Tensor, grad: Tensor, eps: float, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor]:
    x, y = rows_of(x), rows_of(y)
    n, d = x.shape
    dx, dy = x.new_empty((n, d) if need_x else (0,)), y.new_empty((n, d) if need_y else (0,))
    size = _row_tiles(d)
    if n:
        with torch.cuda.device_of(x):
            kernels.row_cosine_backward_kernel[(triton.cdiv(n, size["BLOCK_N"]),)](
                x, y, cosines, norms, grad, dx if need_x else None, dy if need_y else None, n, d, x.stride(0),
                y.stride(0), grad.stride(0), eps, **size,
            )  # fmt: skip
    return dx, dy


def _partner_gradient(x: Tensor, y: Tensor, shift: int, grad: Tensor, given: bool, received: bool) -> Tensor:
    x, y, grad = rows_of(x), rows_of(y), grad.contiguous()
    like = x if given else y
    n, d = like.shape
    out = like.new_empty((n, d))
    size = _row_tiles(d)
    if n:
        with torch.cuda.device_of(x):
            kernels.row_dot_backward_kernel[(triton.cdiv(n, size["BLOCK_N"]),)](
                x, y, grad, out, x.shape[0], y.shape[0], d, x.stride(0), y.stride(0), shift % y.shape[0], n,
                GIVEN=given, RECEIVED=received, **size,
            )  # fmt: skip
    return out
