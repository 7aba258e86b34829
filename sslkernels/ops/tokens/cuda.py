# SPDX-License-Identifier: Apache-2.0
"""Run the tokens family on compiled CUDA kernels: allocate, choose how many numbers a thread moves at a time, launch.

Nothing here waits for the device, and no size depends on the numbers in an index.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkernels.cuda import launch
from sslkernels.ops.dtypes import wide
from sslkernels.ops.launch import contiguous, pointer, power_of_two, rows_of
from sslkernels.ops.tokens.schema import Masked

# csrc/cuda/tokens.cu uses the same names and numbers.
TYPES = {torch.float32: "f32", torch.float64: "f64", torch.bfloat16: "bf16", torch.float16: "f16"}
NORMS = {"none": 0, "mae": 1, "layer": 2}
# A block has THREADS threads, and a row at most WARP of them.
THREADS, WARP = 256, 32
# Each block of collect reads all indices of its sample, so it takes up to PASSES rows per thread, once there are
# BLOCKS blocks to keep every device busy.
BLOCKS, PASSES = 2048, 4
# Sums over a batch are divided among this many warps on every device, so that all devices give the same bits.
SUMS_WARPS = 4096


def gather(
    x: Tensor,
    index: Tensor,
    fill: Tensor | None,
    pos: Tensor | None,
    prefix: int,
    by_place: bool,
    dtype: torch.dtype,
) -> Tensor:
    x, index, fill, pos = rows_of(x), index.contiguous(), contiguous(fill), contiguous(pos)
    (sets, batch, kept), length = index.shape, x.shape[1] - prefix
    out = _empty(x, sets * batch, prefix + kept, x.shape[2], dtype=dtype)
    if out.numel():
        kernel, width = _kernel("gather", (x.dtype, dtype), out.shape[2], x, out, fill, pos)
        blocks, threads, tiles = _grid(out, width)
        launch(
            "tokens", kernel, x, blocks, threads,
            x.data_ptr(), x.stride(0), x.stride(1), index.data_ptr(), index.element_size(), pointer(fill), pointer(pos),
            out.data_ptr(), batch, prefix, length, kept, out.shape[2], by_place, tiles,
        )  # fmt: skip
    return out


def collect(
    x: Tensor, index: Tensor, length: int, fill: Tensor | None, prefix: int, strict: bool, dtype: torch.dtype
) -> Tensor:
    x, index, fill = rows_of(x), index.contiguous(), contiguous(fill)
    sets, batch, kept = index.shape
    out = _empty(x, batch, prefix + length, x.shape[2], dtype=dtype)
    if out.numel():
        kernel, width = _kernel("collect", (x.dtype, dtype), out.shape[2], x, out, fill)
        blocks, (across, down), _ = _grid(out, width)
        rows = down * min(PASSES, THREADS // down, max(1, blocks[0] // BLOCKS))
        tiles = -(-out.shape[1] // rows)
        launch(
            "tokens", kernel, x, (batch * tiles, 1), (across, down),
            x.data_ptr(), x.stride(0), x.stride(1), index.data_ptr(), index.element_size(), pointer(fill),
            out.data_ptr(), batch, sets, prefix, length, kept, out.shape[2], strict, tiles, rows,
        )  # fmt: skip
    return out


def sums(x: Tensor, index: Tensor, length: int) -> Tensor:
    x, index = rows_of(x), index.contiguous()
    samples, kept, channels = x.shape
    if not (x.numel() and length):
        return _empty(x, length, channels, dtype=wide(x.dtype)).zero_()
    kernel, width = _kernel("sums" if length > 1 else "total", (x.dtype,), channels, x)
    columns = -(-channels // (WARP * width))
    sizes: tuple[int, ...]
    if length == 1:  # the rows of all samples are divided among parts, and those of a part among a block's threads
        _, (across, _), _ = _grid(x, width)
        rows, threads = samples * kept, (across, THREADS // across)
        per_part = -(-rows // max(1, SUMS_WARPS * WARP // (THREADS * columns)))
        parts = _empty(x, -(-rows // per_part), length, channels, dtype=torch.float64)
        blocks, sizes = len(parts), (rows, per_part, kept, channels)
    else:
        per_part = -(-samples // max(1, SUMS_WARPS // (length * columns)))
        parts = _empty(x, -(-samples // per_part), length, channels, dtype=torch.float64)
        (blocks, _), threads, tiles = _grid(parts, width)
        sizes = samples, per_part, length, kept, channels, tiles
    launch(
        "tokens", kernel, x, (blocks, min(columns, 65535)), threads,
        x.data_ptr(), x.stride(0), x.stride(1), index.data_ptr(), index.element_size(), parts.data_ptr(), *sizes,
    )  # fmt: skip
    return parts.sum(0).to(wide(x.dtype))


def ranks(keys: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    keys = keys.contiguous()
    batch, length = keys.shape
    ids_keep = _empty(keys, batch, keep, dtype=torch.int64)
    ids_restore = _empty(keys, batch, length, dtype=torch.int64)
    mask = _empty(keys, batch, length, dtype=torch.float32)
    if keys.numel():
        blocks, threads, tiles = _grid(keys[..., None], 1)
        launch(
            "tokens", f"ranks_{TYPES[keys.dtype]}", keys, blocks, threads,
            keys.data_ptr(), ids_keep.data_ptr(), ids_restore.data_ptr(), mask.data_ptr(), length, keep, tiles,
        )  # fmt: skip
    return ids_keep, ids_restore, mask


def patches(images: Tensor, index: Tensor, patch: int) -> Tensor:
    images, index = images.contiguous(), index.contiguous()
    (batch, kept), (_, channels, height, width) = index.shape, images.shape
    out = _empty(images, batch, kept, channels * patch * patch, dtype=images.dtype)
    if out.numel():
        # Lines of a patch are moved whole; each begins where patches cut a row of the image.
        kernel, step = _kernel("patches", (images.dtype,), patch, images.view(-1, width), out)
        blocks, threads, tiles = _grid(out, step)
        launch(
            "tokens", kernel, images, blocks, threads,
            images.data_ptr(), index.data_ptr(), index.element_size(), out.data_ptr(),
            kept, channels, height, width, patch, tiles,
        )  # fmt: skip
    return out


def masked_error(masked: Masked, grad: Tensor | None, need: bool) -> tuple[Tensor, Tensor]:
    pred, target, weights, norm, beta = masked
    pred, target, weights = rows_of(pred), _target(target, pred.dtype), weights.contiguous()
    (_, length, channels), rows = pred.shape, weights.numel()
    losses = _empty(pred, rows, dtype=weights.dtype)
    dpred = _empty(pred, *(pred.shape if need else (0,)), dtype=pred.dtype)
    if rows:
        kernel, _ = _kernel("errors", (pred.dtype, target.dtype), channels, pred, target, dpred if need else None)
        height, total = THREADS // WARP, weights.sum()
        launch(
            "tokens", kernel, pred, (-(-rows // height), 1), (WARP, height),
            pred.data_ptr(), pred.stride(0), pred.stride(1), target.data_ptr(), target.stride(0), target.stride(1),
            weights.data_ptr(), total.data_ptr(), pointer(grad), losses.data_ptr(), pointer(dpred if need else None),
            rows, length, channels, NORMS[norm], float(beta),
        )  # fmt: skip
    return losses.sum(), dpred


def _kernel(name: str, dtypes: Sequence[torch.dtype], channels: int, *tensors: Tensor | None) -> tuple[str, int]:
    """Choose the kernel of that name for ``dtypes``, and how many of the ``channels`` numbers it moves at a time.

    These are 16 bytes of the narrowest dtype if every row of the tensors begins at a multiple of 16 bytes, else one
    number.
    """
    width = 16 // min(dtype.itemsize for dtype in dtypes)
    even = channels % width == 0 and all(
        step % 16 == 0
        for tensor in tensors
        if tensor is not None
        for step in (tensor.data_ptr(), *(stride * tensor.element_size() for stride in tensor.stride()[:-1]))
    )
    return "_".join([name, *(TYPES[dtype] for dtype in dtypes), "vector" if even else "scalar"]), width if even else 1


def _grid(out: Tensor, width: int) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Return blocks, threads per block, and blocks per sample of ``out`` (samples, rows, C).

    A thread writes ``width`` numbers.
    """
    samples, rows, channels = out.shape
    across = min(WARP, power_of_two(-(-channels // width)))
    down = min(THREADS // across, power_of_two(rows))
    tiles = -(-rows // down)
    return (samples * tiles, 1), (across, down), tiles


def _target(target: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a target for which there is no kernel: kernels take one dtype for both, or float32 and a 16-bit dtype."""
    return rows_of(target if target.dtype == dtype or torch.float32 in (dtype, target.dtype) else target.float())


def _empty(like: Tensor, *shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=like.device)
