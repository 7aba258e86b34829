# SPDX-License-Identifier: Apache-2.0
"""The tokens family in Triton: a gather, its adjoint, sums by index, ranks, patches, and errors of the rows that count.

    gather     out[m B + b, P + k] = x[b, P + i] or fill, + pos     rows that are kept are read and written once
    collect    out[b, P + s] = sum of x[m B + b, P + k] with index s: rows with an index are read once, and all are
               written once; each block of 16 rows also reads the M*K indices of its sample, from a cache
    sums       a collect over parts of the batch, (parts, N, C) in float32; for N = 1 only (parts, C)
    ranks      L^2 comparisons per sample, where a sort would be several launches
    patches    a gather of pixels
    errors     a row of pred is read once; one of target once from memory, and twice more from a cache where it is
               standardised

All of it is bound by memory. One program writes a row, and adds its sources in float32 and in the order of the index;
programs that share a sum leave parts of it, which are added in a fixed order. No atomics, so the same inputs give the
same bits. Indices are compared before they become addresses: a wrong one gives NaN. Offsets are int64. Launches do not
specialise on sizes that change from step to step, so that nothing is compiled anew.
"""

import triton
import triton.language as tl

from sslkernels.ops.triton_pieces import pairs

NAN = tl.constexpr(float("nan"))

# --- pieces ---------------------------------------------------------------------------------------------------------


@triton.jit
def _load_rows(x, rows, columns, present, width, stride):
    """Rows in float32, zero where they are not ``present`` and beyond ``width``."""
    inside = present[:, None] & (columns[None, :] < width)
    return tl.load(pairs(x, rows, columns, stride), mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _store_rows(x, rows, columns, present, width, value):
    inside = present[:, None] & (columns[None, :] < width)
    tl.store(pairs(x, rows, columns, width), value.to(x.dtype.element_ty), mask=inside)


@triton.jit
def _load_row(x, columns, width):
    """One row, to go with a tile of them."""
    return tl.load(x + columns, mask=columns < width, other=0.0)[None, :]


@triton.jit
def _place(row_blocks, column_blocks):
    """Sample, block of rows and block of columns of a program; those of the same rows run together."""
    place = tl.program_id(0)
    rows = place // column_blocks
    return (rows // row_blocks).to(tl.int64), rows % row_blocks, place % column_blocks


# --- gather ---------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["batch", "length", "kept", "prefix", "index_stride", "row_blocks", "column_blocks"])
def gather_kernel(
    x, index, fill, pos, out, batch, length, kept, prefix, channels, sample_stride, row_stride, index_stride,
    row_blocks, column_blocks, BY_PLACE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """A tile of out (M B, P + K, C). BY_PLACE: rows of ``pos`` are those of the output, else those of the source."""
    sample, row_block, column_block = _place(row_blocks, column_blocks)
    rows = row_block * BLOCK_T + tl.arange(0, BLOCK_T)
    columns = column_block * BLOCK_C + tl.arange(0, BLOCK_C)
    written = rows < prefix + kept
    passed = rows < prefix
    indexed = written & (rows >= prefix)
    i = tl.load(index + sample * index_stride + (rows - prefix), mask=indexed, other=0).to(tl.int64)
    inside = indexed & (i >= 0) & (i < length)
    source = x + sample % batch * sample_stride
    value = _load_rows(source, tl.where(passed, rows, prefix + i), columns, passed | inside, channels, row_stride)
    wrong = indexed & (i < 0)
    if fill is not None:
        value = tl.where((indexed & (i >= length))[:, None], _load_row(fill, columns, channels), value)
    else:
        wrong = indexed & ~inside
    if pos is not None:
        if BY_PLACE:
            value += _load_rows(pos, rows, columns, written, channels, channels)
        else:
            value += _load_rows(pos, i, columns, inside, channels, channels)
    value = tl.where(wrong[:, None], NAN, value)
    _store_rows(out, sample * (prefix + kept) + rows, columns, written, channels, value)


# --- collect --------------------------------------------------------------------------------------------------------


@triton.jit
def _find(index, tokens, after, kept, length, BLOCK_K: tl.constexpr):
    """Per token, the first k after ``after`` with index[k] = token, and how many there are."""
    first = tl.zeros((tokens.shape[0], BLOCK_K), tl.int32) + kept
    count = tl.zeros((tokens.shape[0], BLOCK_K), tl.int32)
    for start in range(0, kept, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        i = tl.load(index + k, mask=k < kept, other=-1)
        # Pairs are compared in 32 bits. Cut to those, a wrong index could pass for a right one.
        i = tl.where((i >= 0) & (i < length), i, -1).to(tl.int32)
        same = (i[None, :] == tokens[:, None]) & (k[None, :] > after[:, None])
        first = tl.minimum(first, tl.where(same, k[None, :], kept))
        count += same.to(tl.int32)
    return tl.min(first, 1), tl.sum(count, 1)


@triton.jit
def _find_first(index, tokens, kept, length, BLOCK_K: tl.constexpr):
    """`_find` from the start. A row of the prefix, whose token is negative, comes once, from the same row of x."""
    at, count = _find(index, tokens, tl.full(tokens.shape, -1, tl.int32), kept, length, BLOCK_K)
    return tl.where(tokens < 0, tokens, at), tl.where(tokens < 0, 1, count)


@triton.jit
def _any_outside(index, length, kept, BLOCK_K: tl.constexpr):
    outside = tl.zeros((BLOCK_K,), tl.int32)
    for start in range(0, kept, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        i = tl.load(index + k, mask=k < kept, other=0)
        outside |= ((k < kept) & ((i < 0) | (i >= length))).to(tl.int32)
    return tl.max(outside, 0)


@triton.jit(
    do_not_specialize=[
        "samples", "batch", "length", "kept", "prefix", "index_stride", "row_blocks", "column_programs"
    ]
)  # fmt: skip
def collect_kernel(
    x, index, fill, out, samples, batch, length, kept, prefix, channels, sample_stride, row_stride, index_stride,
    row_blocks, column_programs,
    STRICT: tl.constexpr, HELD: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Rows of out (batch, P + length, C), which add up those of samples b, b + batch, b + 2 batch, ... of x.

    A first search finds the sources of each row, which are then read for all columns. If more than HELD arrive at one
    row of the block, each step along the columns searches again: sample after sample, and within it k after k.
    """
    b, row_block, column_program = _place(row_blocks, column_programs)
    rows = row_block * BLOCK_S + tl.arange(0, BLOCK_S)
    tokens = rows - prefix
    count = tl.zeros((BLOCK_S,), tl.int32)
    # Arrival n of a row is in column n of both.
    places = tl.arange(0, HELD)[None, :]
    held_sample = tl.zeros((BLOCK_S, HELD), tl.int32)
    held_at = tl.zeros((BLOCK_S, HELD), tl.int32)
    outside = 0
    for sample in range(b, samples, batch):
        of_sample = index + sample * index_stride
        at, more = _find_first(of_sample, tokens, kept, length, BLOCK_K)
        most = tl.max(count + more, 0)
        for turn in range(0, tl.where(most <= HELD, tl.max(more, 0), 0)):
            if turn > 0:
                at, _ = _find(of_sample, tokens, at, kept, length, BLOCK_K)
            new = (places == (count + turn)[:, None]) & (turn < more)[:, None]
            held_sample = tl.where(new, tl.cast(sample, tl.int32), held_sample)
            held_at = tl.where(new, at[:, None], held_at)
        count += more
        if STRICT:
            outside |= _any_outside(of_sample, length, kept, BLOCK_K)
    most = tl.max(count, 0)
    written = rows < prefix + length
    for start in range(column_program * BLOCK_C, channels, column_programs * BLOCK_C):
        columns = start + tl.arange(0, BLOCK_C)
        total = tl.zeros((BLOCK_S, BLOCK_C), tl.float32)
        if most <= HELD:
            for n in range(0, most):
                source = tl.sum(tl.where(places == n, held_sample, 0), 1).to(tl.int64)
                row = (prefix + tl.sum(tl.where(places == n, held_at, 0), 1)).to(tl.int64)
                pointers = x + source * sample_stride + row * row_stride
                there = (written & (n < count))[:, None] & (columns[None, :] < channels)
                total += tl.load(pointers[:, None] + columns[None, :], mask=there, other=0.0).to(tl.float32)
        else:
            for sample in range(b, samples, batch):
                of_sample = index + sample * index_stride
                at, more = _find_first(of_sample, tokens, kept, length, BLOCK_K)
                for turn in range(0, tl.max(more, 0)):
                    if turn > 0:
                        at, _ = _find(of_sample, tokens, at, kept, length, BLOCK_K)
                    total += _load_rows(
                        x + sample * sample_stride, prefix + at, columns, written & (turn < more), channels, row_stride
                    )  # fmt: skip
        if fill is not None:
            total = tl.where((count == 0)[:, None], _load_row(fill, columns, channels), total)
        if STRICT:
            total = tl.where((tokens >= 0)[:, None] & (outside > 0), NAN, total)
        _store_rows(out, b * (prefix + length) + rows, columns, written, channels, total)


@triton.jit(do_not_specialize=["n", "kept", "index_stride", "parts", "column_blocks"])
def sums_kernel(
    x, index, out, n, kept, channels, sample_stride, row_stride, index_stride, parts, column_blocks,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sums (parts, C) of the rows of index 0 in every ``parts``-th block of the n = M B K rows of x."""
    part, column_block = tl.program_id(0) // column_blocks, tl.program_id(0) % column_blocks
    columns = column_block * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for block in range(part, tl.cdiv(n, BLOCK_N), parts):
        rows = tl.cast(block, tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
        sample, k = rows // kept, rows % kept
        taken = tl.load(index + sample * index_stride + k, mask=rows < n, other=-1) == 0
        pointers = x + sample * sample_stride + k * row_stride
        inside = taken[:, None] & (columns[None, :] < channels)
        total += tl.load(pointers[:, None] + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(out + tl.cast(part, tl.int64) * channels + columns, tl.sum(total, 0), mask=columns < channels)


# --- ranks ----------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["length", "keep", "row_blocks"])
def ranks_kernel(
    keys, ids_keep, ids_restore, mask, length, keep, row_blocks, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr
):  # fmt: skip
    """Rank each key by the number that come before it in the sample: smaller ones, and of equal ones those in front.

    NaN comes last, as in torch.argsort.
    """
    sample, row_block, _ = _place(row_blocks, 1)
    places = row_block * BLOCK_N + tl.arange(0, BLOCK_N)
    known = places < length
    mine = tl.load(keys + sample * length + places, mask=known, other=0.0).to(tl.float32)[:, None]
    before = tl.zeros((BLOCK_N, BLOCK_M), tl.int32)
    for start in range(0, length, BLOCK_M):
        others = start + tl.arange(0, BLOCK_M)
        other = tl.load(keys + sample * length + others, mask=others < length, other=0.0).to(tl.float32)[None, :]
        smaller = (other < mine) | ((mine != mine) & (other == other))
        equal = (other == mine) | ((mine != mine) & (other != other))
        in_front = others[None, :] < places[:, None]
        before += ((others < length)[None, :] & (smaller | (equal & in_front))).to(tl.int32)
    rank = tl.sum(before, 1)
    tl.store(ids_restore + sample * length + places, rank.to(tl.int64), mask=known)
    tl.store(mask + sample * length + places, (rank >= keep).to(tl.float32), mask=known)
    tl.store(ids_keep + sample * keep + rank, places.to(tl.int64), mask=known & (rank < keep))


# --- patches --------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["kept", "index_stride", "row_blocks", "column_blocks"])
def patches_kernel(
    images, index, out, kept, pixels, height, width, index_stride, row_blocks, column_blocks,
    PATCH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """A tile of out (B, K, pixels). The pixels of a patch are in the order of channels, rows and columns."""
    sample, row_block, column_block = _place(row_blocks, column_blocks)
    rows = row_block * BLOCK_T + tl.arange(0, BLOCK_T)
    columns = column_block * BLOCK_C + tl.arange(0, BLOCK_C)
    written = rows < kept
    i = tl.load(index + sample * index_stride + rows, mask=written, other=0).to(tl.int64)
    across = width // PATCH
    number = height // PATCH * across
    inside = (i >= 0) & (i < number)
    corners = images + sample * number * pixels + (i // across * width + i % across) * PATCH
    lines = columns // (PATCH * PATCH) * height + columns // PATCH % PATCH
    pixel = lines.to(tl.int64) * width + columns % PATCH
    there = (written & inside)[:, None] & (columns[None, :] < pixels)
    value = tl.load(corners[:, None] + pixel[None, :], mask=there, other=0.0).to(tl.float32)
    _store_rows(out, sample * kept + rows, columns, written, pixels, tl.where(inside[:, None], value, NAN))


# --- errors ---------------------------------------------------------------------------------------------------------


@triton.jit
def _load_tokens(x, rows, columns, counted, channels, tokens, sample_stride, row_stride):
    """Tokens in float32, zero where they are not ``counted`` and beyond C."""
    inside = counted[:, None] & (columns[None, :] < channels)
    starts = (rows // tokens).to(tl.int64) * sample_stride + (rows % tokens).to(tl.int64) * row_stride
    return tl.load(x + starts[:, None] + columns[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["n", "tokens", "correction", "eps", "beta"])
def errors_kernel(
    pred, target, weights, total_weight, grad, errors, dpred, n, tokens, channels, pred_sample, pred_row,
    target_sample, target_row, correction, eps, beta,
    NORM: tl.constexpr, SQUARES: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Errors (R,), each times its share of the weights, and their gradient, times ``grad`` if there is one.

    Rows of weight 0 have error 0 and gradient 0. The variance is summed about the mean: the mean square less the
    squared mean would cancel.
    """
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    known = rows < n
    weight, sum_of_weights = tl.load(weights + rows, mask=known, other=0.0), tl.load(total_weight)
    counted = weight != 0
    share = weight / tl.where(sum_of_weights < 1, 1.0, sum_of_weights)
    mean = tl.zeros((BLOCK_N,), tl.float32)
    inverse = tl.full((BLOCK_N,), 1.0, tl.float32)
    if NORM:
        total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
        peaks = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
        for start in range(0, channels, BLOCK_C):
            columns = start + tl.arange(0, BLOCK_C)
            rows_here = _load_tokens(target, rows, columns, counted, channels, tokens, target_sample, target_row)
            total += rows_here
            peaks = tl.maximum(peaks, tl.abs(rows_here))
        mean = tl.sum(total, 1) / channels
        unit = tl.maximum(tl.max(peaks, 1), 1.0)  # squares of large numbers would leave the range
        total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
        for start in range(0, channels, BLOCK_C):
            columns = start + tl.arange(0, BLOCK_C)
            away = _load_tokens(target, rows, columns, counted, channels, tokens, target_sample, target_row)
            away = (away - mean[:, None]) / unit[:, None]
            total += tl.where(columns[None, :] < channels, away * away, 0.0)
        variance = tl.sum(total, 1) / (channels - correction)
        inverse = tl.where(counted, tl.rsqrt(variance + eps / unit / unit) / unit, 1.0)
    scale = share / channels
    if grad is not None:
        scale = tl.load(grad) * share / channels
    total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for start in range(0, channels, BLOCK_C):
        columns = start + tl.arange(0, BLOCK_C)
        wanted = _load_tokens(target, rows, columns, counted, channels, tokens, target_sample, target_row)
        wanted = (wanted - mean[:, None]) * inverse[:, None]
        # It is not zero beyond C.
        difference = _load_tokens(pred, rows, columns, counted, channels, tokens, pred_sample, pred_row) - wanted
        if SQUARES:
            error = difference * difference
            slope = 2 * difference
        else:
            size = tl.abs(difference)
            error = tl.where(size < beta, difference * difference * (0.5 / beta), size - 0.5 * beta)
            slope = tl.maximum(difference / beta, -1.0, propagate_nan=tl.PropagateNan.ALL)
            slope = tl.minimum(slope, 1.0, propagate_nan=tl.PropagateNan.ALL)
        # Each error is divided before it is added: the sum of large ones may leave the range.
        total += tl.where(counted[:, None] & (columns[None, :] < channels), error * (1.0 / channels), 0.0)
        if dpred is not None:
            slope = tl.where(counted[:, None] & (scale[:, None] != 0), slope * scale[:, None], 0.0)
            _store_rows(dpred, rows, columns, known, channels, slope)
    tl.store(errors + rows, tl.where(counted, tl.sum(total, 1) * share, 0.0), mask=known)
