# SPDX-License-Identifier: Apache-2.0
"""The ema family in Triton: targets that follow their sources, and rows into a ring.

    update     t <- m t + (1 - m) s over the chunks of a table: where a chunk of target, source and master begins and
               how many elements it has. With a master M in float32, M moves and t is M rounded; an M whose rounding t
               is not begins anew from t
    enqueue    queue[(position + offset + i) mod size] <- keys[i]

Both are bound by memory, and what is read and written is so once: 12 bytes per float32 parameter, 14 per bfloat16 one
with a master, beside 32 for each chunk. What is scheduled (momentum, offset) is not specialised on, so that it compiles
nothing anew.
"""

import triton
import triton.language as tl

from sslkernels.ops.triton_pieces import INF, pairs

# Elements whose bytes are a multiple of the 16 that a thread accesses at once, in every dtype.
LINE = tl.constexpr(16)

# --- update ---------------------------------------------------------------------------------------------------------


@triton.jit
def _moved(t, s, keep, take, rest):
    """``keep t + take s`` to half a bit of max(|t|, |s|) and little more, as csrc/cuda/ema.cu has it.

    From the nearer of the two by the smaller weight of their difference, and then by what rounding left of the weight
    (``rest``), the difference and the sum. Where the difference is not finite, the sum of both products.
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
    """Move one chunk, a row of ``chunks`` (n, 4) from ``first`` on: addresses of target, source and master, and a count
    up to BLOCK.

    ``at`` is the momentum in float64, or None where ``keep`` and ``take``, the weights of target and source, say it,
    and ``rest``, what rounding left of the smaller one (of the target's with the other sign).
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
        # a mask is in the way of wide accesses unless it is known to change at multiples of them: the last few
        # elements are moved apart
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
    """Write a tile of ``keys`` (count, channels); no more of them than ``size``, so that no row is written twice."""
    place = tl.program_id(0)
    row = place // column_blocks * BLOCK_T + tl.arange(0, BLOCK_T)
    column = place % column_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (row < count)[:, None] & (column < channels)[None, :]
    start = offset.to(tl.int64)
    if position is not None:
        start += tl.load(position).to(tl.int64)
    start %= size
    start = tl.where(start < 0, start + size, start)  # a remainder has the sign of what was divided
    to = start + row
    to = tl.where(to < size, to, to - size)
    source, target = pairs(keys, row, column, keys_stride), pairs(queue, to, column, queue_stride)
    key = tl.load(source, mask=inside, other=0.0)
    if key.dtype != queue.dtype.element_ty:  # else as they are, whatever the bits of a NaN say
        key = key.to(tl.float32).to(queue.dtype.element_ty)
    tl.store(target, key, mask=inside)
