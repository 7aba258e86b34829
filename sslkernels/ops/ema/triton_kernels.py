# SPDX-License-Identifier: Apache-2.0
"""The ema family in Triton: move targets towards their sources, and write rows into a ring.

    update     t <- m t + (1 - m) s for each chunk of a table, which says where a chunk of target, source and master
               begins and how many elements it has. With a master M in float32, M moves, and t becomes M rounded. Where
               t is no longer M rounded, somebody has written t, and M begins anew from it
    enqueue    queue[(position + offset + i) mod size] <- keys[i]

Both are bound by memory, and read and write everything once: 12 bytes per float32 parameter, 14 per bfloat16 one with a
master, and 32 for each chunk. Launches do not specialise on what follows a schedule (momentum, offset), so that nothing
is compiled anew.
"""

import triton
import triton.language as tl

from sslkernels.ops.triton_pieces import INF, pairs

# A thread accesses 16 bytes at once. The bytes of this many elements are a multiple of them in every dtype.
LINE = tl.constexpr(16)

# --- update ---------------------------------------------------------------------------------------------------------


@triton.jit
def _moved(t, s, keep, take, rest):
    """``keep t + take s``, wrong by little more than half an ulp of max(|t|, |s|), as in csrc/cuda/ema.cu.

    It starts at t or s, whichever has the larger weight, and adds the smaller weight times their difference. Then it
    adds the remainders that rounding left of that weight (``rest``), of the difference and of the sum. Where the
    difference is not finite, it is the sum of both products.
    """
    gap = s - t
    back = s - gap
    gap_rest = (s - (gap + back)) + (back - t)  # s - t = gap + gap_rest exactly
    start = tl.where(keep < 0.5, s, t)
    weight = tl.where(keep < 0.5, -keep, take)
    between = tl.fma(weight, gap, start)
    left = tl.fma(weight, gap, start - between) + tl.fma(weight, gap_rest, rest * gap)
    apart = keep * t + take * s
    return tl.where(keep == 0, s, tl.where(tl.abs(gap) < INF, between + left, apart))


@triton.jit
def _move(kept, source, rounded, offsets, count, keep, take, rest, MASTER: tl.constexpr):
    """Move ``kept``, which is the target or its master, and with a MASTER round it to the target, ``rounded``."""
    inside = offsets < count
    t = tl.load(kept + offsets, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(source + offsets, mask=inside, other=0.0).to(tl.float32)
    if MASTER:
        held = tl.load(rounded + offsets, mask=inside, other=0.0)
        t = tl.where(t.to(held.dtype) == held, t, held.to(tl.float32))
    moved = _moved(t, s, keep, take, rest)
    tl.store(kept + offsets, moved.to(kept.dtype.element_ty), mask=inside)
    if MASTER:
        tl.store(rounded + offsets, moved.to(rounded.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["first", "keep", "take", "rest"])
def update_kernel(
    chunks, first, keep, take, rest, at, TARGET: tl.constexpr, SOURCE: tl.constexpr, MASTER: tl.constexpr,
    ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Move one chunk. A row of ``chunks`` (n, 4), counted from ``first``, has the addresses of its target, source and
    master, and its length, up to BLOCK.

    ``at`` points to the momentum in float64. Where it is None, the momentum comes as ``keep`` and ``take``, the weights
    of target and source, and ``rest``, the remainder of the smaller weight (of the target's with the other sign).
    ALIGNED: the addresses are multiples of 16.
    """
    if at is not None:
        momentum = tl.load(at)
        keep = momentum.to(tl.float32)
        take = (1.0 - momentum).to(tl.float32)
        rest = tl.where(keep < 0.5, keep.to(tl.float64) - momentum, 1.0 - momentum - take.to(tl.float64)).to(tl.float32)
    if take != 0:
        chunk = chunks + (first + tl.program_id(0)) * 4
        target = tl.load(chunk).to(tl.pointer_type(TARGET))
        source = tl.load(chunk + 1).to(tl.pointer_type(SOURCE))
        kept = target
        if MASTER:
            kept = tl.load(chunk + 2).to(tl.pointer_type(tl.float32))
        count = tl.load(chunk + 3).to(tl.int32)
        if ALIGNED:
            target = tl.multiple_of(target, 16)
            source = tl.multiple_of(source, 16)
            kept = tl.multiple_of(kept, 16)
        # Accesses are wide only if the mask is known to change at multiples of their width. The last few elements
        # are therefore moved by themselves.
        whole = count // LINE * LINE
        _move(kept, source, target, tl.arange(0, BLOCK), whole, keep, take, rest, MASTER)
        if whole < count:
            _move(kept, source, target, whole + tl.arange(0, LINE), count, keep, take, rest, MASTER)


# --- enqueue --------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["offset", "size", "count", "column_blocks"])
def enqueue_kernel(
    queue, keys, position, offset, size, count, channels, queue_stride, keys_stride, column_blocks,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write a tile of ``keys`` (count, channels). ``count`` is at most ``size``, so that no row is written twice."""
    place = tl.program_id(0)
    row = place // column_blocks * BLOCK_T + tl.arange(0, BLOCK_T)
    column = place % column_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (row < count)[:, None] & (column < channels)[None, :]
    start = offset.to(tl.int64)
    if position is not None:
        start += tl.load(position).to(tl.int64)
    start %= size
    start = tl.where(start < 0, start + size, start)  # a remainder has the sign of the dividend
    to = start + row
    to = tl.where(to < size, to, to - size)
    source, target = pairs(keys, row, column, keys_stride), pairs(queue, to, column, queue_stride)
    key = tl.load(source, mask=inside, other=0.0)
    if key.dtype != queue.dtype.element_ty:  # otherwise keys are copied, and a NaN keeps its bits
        key = key.to(tl.float32).to(queue.dtype.element_ty)
    tl.store(target, key, mask=inside)
