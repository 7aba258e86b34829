# SPDX-License-Identifier: Apache-2.0
"""Up to four gradients times one number, in Triton: 4 bytes read for each entry, and an entry of the output written."""

import triton
import triton.language as tl


@triton.jit
def _write_product(gradient, out, size, factor, BLOCK: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    if first < size:
        places = first + tl.arange(0, BLOCK)
        known = places < size
        product = tl.load(gradient + places, mask=known, other=0.0) * factor
        tl.store(out + places, product.to(out.dtype.element_ty), mask=known)


@triton.jit
def times_kernel(
    number, first, first_out, second, second_out, third, third_out, fourth, fourth_out,
    first_size, second_size, third_size, fourth_size, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write ``number`` times each gradient, rounded to the dtype of its output. All but the first may be None."""
    which = tl.program_id(1)
    factor = tl.load(number).to(tl.float32)
    if which == 0:
        _write_product(first, first_out, first_size, factor, BLOCK)
    if second is not None:
        if which == 1:
            _write_product(second, second_out, second_size, factor, BLOCK)
    if third is not None:
        if which == 2:
            _write_product(third, third_out, third_size, factor, BLOCK)
    if fourth is not None:
        if which == 3:
            _write_product(fourth, fourth_out, fourth_size, factor, BLOCK)
