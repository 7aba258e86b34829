# SPDX-License-Identifier: Apache-2.0
"""Anchors one by one in Triton: log-sum-exps become the loss and its weights, and what moved rows their gradient.

    loss_i = softplus(lse_i - p_i),  w_i = share*sigmoid(lse_i - p_i),  p_i = s*<x_i, y_i>
    g_i    = s*(moved_i - pull_i*partner_i),  dz_i = (g_i - x_i*<x_i, g_i>)/max(|z_i|, 1e-12)

Both read 2*N*D numbers; the second also reads what programs of the sweeps left for N rows of each side, and writes
2*N*D. Programs leave parts of their sums, which the next kernel, or the last program to arrive, joins in a fixed order,
so the same inputs give the same bits; the only atomic counts arrivals. Offsets of rows are int64.
"""

import triton
import triton.language as tl

from sslkernels.ops.similarity.triton_kernels import merged, sum_of_parts, unit_of
from sslkernels.ops.triton_pieces import INF, load_rows, pairs

LARGEST = tl.constexpr(3.4028234663852886e38)  # of float32


@triton.jit
def _softplus(gap):
    """log(1 + e^gap). The logarithm of a number near 1 would lose its digits, so we sum 2*artanh(e/(2 + e))."""
    small = tl.exp(-tl.abs(gap))
    ratio = small / (2.0 + small)  # at most 1/3: nine terms reach the precision of float32
    square = ratio * ratio
    series = tl.zeros_like(gap) + 1.0 / 17.0
    for term in tl.static_range(8):
        series = series * square + 1.0 / (15.0 - 2.0 * term)
    return tl.where(gap > 0, gap, 0.0) + 2.0 * ratio * series


@triton.jit
def _share_of(lse, logit):
    """The loss of one direction, and its derivative by lse."""
    # An infinite positive would pass for a perfect match: the loss is NaN. Beside it only infinite negatives count.
    loss = _softplus(lse - tl.where(logit == INF, float("nan"), logit))
    return loss, 1.0 / (1.0 + tl.exp(tl.where(logit > LARGEST, LARGEST, logit) - lse))


@triton.jit
def _sum_of(parts, count, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, BLOCK):
        places = first + tl.arange(0, BLOCK)
        total += tl.load(parts + places, mask=places < count, other=0.0, cache_modifier=".cg")
    return tl.sum(total, 0)


@triton.jit(do_not_specialize=["n", "row_state", "column_state", "row_parts", "column_parts", "share"])
def weigh_kernel(
    x, y, scale, row_peaks, row_totals, column_peaks, column_totals, lse, weights, pull, losses, pulled, largest,
    arrived, n, d, x_stride, y_stride, row_state, column_state, row_parts, column_parts, share,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """lse and weights, (directions, N), ``pull`` (N,), and of each program its sums of losses and of pull*<x, y>.

    Sums of negatives come as lse, or with totals as running sums in parts, ``row_state`` numbers apart. The second
    direction may be absent. ``lse`` is written unless it is None. Without ``weights`` only losses are written.
    ``largest`` gets each program's largest finite weight, for `unit_of`. ``arrived`` is set to 0 for `finish_kernel`.
    """
    if arrived is not None:
        if tl.program_id(0) == 0:
            tl.store(arrived, 0)
    factor = tl.load(scale)
    loss_sum, pulled_sum = tl.zeros((BLOCK_N,), tl.float32), tl.zeros((BLOCK_N,), tl.float32)
    peak = tl.zeros((BLOCK_N,), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(n, BLOCK_N), tl.num_programs(0)):
        rows = block * BLOCK_N + tl.arange(0, BLOCK_N)
        known = rows < n
        product = tl.zeros((BLOCK_N,), tl.float32)
        for first in range(0, d, BLOCK_D):
            features = first + tl.arange(0, BLOCK_D)
            left = load_rows(x, rows, features, n, d, x_stride).to(tl.float32)
            product += tl.sum(left * load_rows(y, rows, features, n, d, y_stride).to(tl.float32), 1)
        logit = factor * product
        of_rows = merged(row_peaks, row_totals, rows, n, row_state, row_parts, PARTS)
        loss, slope = _share_of(of_rows, logit)
        # The weight comes first: the sum of large losses may overflow where their mean does not.
        loss_sum += tl.where(known, share * loss, 0.0)
        weight = share * slope
        pull_weight = weight
        if lse is not None:
            tl.store(lse + rows, of_rows, mask=known)
        if weights is not None:
            tl.store(weights + rows, weight, mask=known)
        peak = tl.maximum(peak, tl.where(known & (weight < INF), weight, 0.0))
        if column_peaks is not None:
            of_columns = merged(column_peaks, column_totals, rows, n, column_state, column_parts, PARTS)
            loss, slope = _share_of(of_columns, logit)
            loss_sum += tl.where(known, share * loss, 0.0)
            weight = share * slope
            pull_weight += weight
            if lse is not None:
                tl.store(lse + n + rows, of_columns, mask=known)
            if weights is not None:
                tl.store(weights + n + rows, weight, mask=known)
            peak = tl.maximum(peak, tl.where(known & (weight < INF), weight, 0.0))
        if weights is not None:
            # The gradient of an infinite positive is NaN, and nothing else is.
            pull_weight += tl.where(logit > 0, logit, 0.0) * 0.0
            pull_weight = tl.where(logit == logit, pull_weight, logit)
            tl.store(pull + rows, pull_weight, mask=known)
            pulled_sum += tl.where(known, pull_weight * product, 0.0)
    tl.store(losses + tl.program_id(0), tl.sum(loss_sum, 0))
    if weights is not None:
        tl.store(pulled + tl.program_id(0), tl.sum(pulled_sum, 0))
    if largest is not None:
        tl.store(largest + tl.program_id(0), tl.max(peak, 0))


@triton.jit
def _finish_side(
    z, moved, by, norms, out, partners, pull, factor, unit, rows, n, partner_rows, d, z_stride, partner_stride,
    part_rows, parts, NEED_ALONG: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Write one side's gradient where ``out`` is not None, and return <z_i, moved_i>."""
    along, projected = tl.zeros((BLOCK_N,), tl.float32), tl.zeros((BLOCK_N,), tl.float32)
    own_factor = tl.zeros((BLOCK_N,), tl.float32) + unit
    if by is not None:
        own_factor *= tl.load(by + rows, mask=rows < n, other=0.0)
    if pull is not None:
        weight = tl.load(pull + rows, mask=rows < n, other=0.0)
    PROJECT: tl.constexpr = norms is not None and out is not None
    if NEED_ALONG or PROJECT:
        for first in range(0, d, BLOCK_D):
            features = first + tl.arange(0, BLOCK_D)
            own = load_rows(z, rows, features, n, d, z_stride).to(tl.float32)
            part = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
            if moved is not None:
                part = sum_of_parts(moved, rows, features, n, d, part_rows, parts, BLOCK_N, BLOCK_D)
                part *= own_factor[:, None]
                along += tl.sum(own * part, 1)
            if PROJECT:
                if pull is not None:
                    partner = load_rows(partners, rows, features, partner_rows, d, partner_stride).to(tl.float32)
                    part -= weight[:, None] * partner
                projected += tl.sum(own * (factor * part), 1)
    if out is not None:
        divisor = tl.full((BLOCK_N,), 1.0, tl.float32)
        if PROJECT:
            norm = tl.load(norms + rows, mask=rows < n, other=1.0)
            projected = tl.where(norm > 1e-12, projected, 0.0)
            divisor = tl.where(norm < 1e-12, 1e-12, norm)
        for first in range(0, d, BLOCK_D):
            features = first + tl.arange(0, BLOCK_D)
            part = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
            if moved is not None:
                part = sum_of_parts(moved, rows, features, n, d, part_rows, parts, BLOCK_N, BLOCK_D)
                part *= own_factor[:, None]
            if pull is not None:
                partner = load_rows(partners, rows, features, partner_rows, d, partner_stride).to(tl.float32)
                part -= weight[:, None] * partner
            part *= factor
            if PROJECT:
                own = load_rows(z, rows, features, n, d, z_stride).to(tl.float32)
                part = (part - own * projected[:, None]) / divisor[:, None]
            inside = (rows[:, None] < n) & (features[None, :] < d)
            tl.store(pairs(out, rows, features, d), part, mask=inside)
    return along


@triton.jit(
    do_not_specialize=["n", "m", "x_part_rows", "y_part_rows", "x_parts", "y_parts", "largest_count", "losses_count"]
)
def finish_kernel(
    x, x_moved, x_by, x_norms, dx, y, y_moved, y_norms, dy, pull, scale, largest, along, scale_grad,
    arrived, losses, pulled, value,
    n, m, d, x_stride, y_stride, x_part_rows, y_part_rows, x_parts, y_parts, largest_count, losses_count,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradients dx (N, D) and dy (M, D), from parts of what moved the rows over `unit_of` ``largest``.

    ``x_by`` (N,) multiplies what moved x's rows. ``along`` gets of each program its part of the scale's gradient: the
    mean over the sides that were moved of <row, moved>. The first program adds up what `weigh_kernel` left: losses to
    the value, and ``pulled``, which is taken from along. With ``arrived``, which holds 0, the last program adds
    up along to ``scale_grad``. Any of the tensors may be None but x and scale.
    """
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    factor = tl.load(scale)
    unit = unit_of(largest, largest_count)
    NEED_ALONG: tl.constexpr = along is not None
    total = _finish_side(
        x, x_moved, x_by, x_norms, dx, y, pull, factor, unit, rows, n, m, d, x_stride, y_stride, x_part_rows, x_parts,
        NEED_ALONG, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    if y is not None:
        other = _finish_side(
            y, y_moved, None, y_norms, dy, x, pull, factor, unit, rows, m, n, d, y_stride, x_stride, y_part_rows,
            y_parts, NEED_ALONG, BLOCK_N, BLOCK_D,
        )  # fmt: skip
        total = (total + other) * (0.5 if x_moved is not None and y_moved is not None else 1.0)
    if along is not None:
        share = tl.sum(total, 0)
        if pulled is not None:
            if tl.program_id(0) == 0:
                share -= _sum_of(pulled, losses_count, 128)
        tl.store(along + tl.program_id(0), share)
        if arrived is not None:
            # The last program to arrive adds up the parts, in the same order whichever it is. What others stored
            # before they arrived is there for it, but not in its own L1.
            tl.debug_barrier()
            if tl.atomic_add(arrived, 1, sem="acq_rel", scope="gpu") == tl.num_programs(0) - 1:
                tl.store(scale_grad, _sum_of(along, tl.num_programs(0), 1024))
    if value is not None:
        if tl.program_id(0) == 0:
            tl.store(value, _sum_of(losses, losses_count, 128))


@triton.jit(do_not_specialize=["count"])
def sum_kernel(first, first_sum, second, second_sum, count):
    """The sums of one or two arrays of ``count`` parts. The second may be None."""
    tl.store(first_sum, _sum_of(first, count, 1024))
    if second is not None:
        tl.store(second_sum, _sum_of(second, count, 1024))
