# SPDX-License-Identifier: Apache-2.0
"""Sum cosines and sines of projections, as one differentiable function.

    cos_k = sum_n cos(t_k p_n),  sin_k = sum_n sin(t_k p_n),  t_k = k step
    dp_n = sum_k t_k (g_sin_k cos(t_k p_n) - g_cos_k sin(t_k p_n))
The backward evaluates cosines and sines again: keeping them would take ``knots`` times the memory of the projections.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from sslkernels.distributed import Shard, summed
from sslkernels.ops.derivative import first_derivative
from sslkernels.ops.sigreg import schema as sigreg

_TURNS_PER_RADIAN = Fraction("0.159154943091895335768883763372514362034459645740456448747667")


class CharacteristicSums(torch.autograd.Function):
    """Sum projections (M, N, S) in fp32 or fp64 to (M, 2, knots, S), over all ranks of ``shard``.

    The backward sums over ranks the gradients that their losses send, so that gradients averaged over ranks are those
    of one process that holds all samples.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, step: float, knots: int, shard: Shard, backend: str) -> Tensor:
        sums = sigreg.sums(p, step, knots, backend)
        ctx.save_for_backward(p)
        ctx.step, ctx.shard, ctx.backend = step, shard, backend
        return summed(sums, shard)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        (p,) = ctx.saved_tensors
        grad = summed(grad.contiguous(), ctx.shard)
        return sigreg.adjoint(p, grad, ctx.step, ctx.backend), None, None, None, None


@functools.lru_cache
def turns(step: float, dtype: torch.dtype) -> tuple[float, float, float]:
    """Split ``step / 2 pi`` into a sum of three terms, so that kernels take whole turns off an angle without rounding.

    The first two terms have so few bits that their products with half of a number's bits are exact.

    >>> turns(3 / 16, torch.float32)
    (0.02983856201171875, 2.989545464515686e-06, 2.725471097706306e-10)
    """
    bits = 26 if dtype == torch.float64 else 12
    rest, pieces = Fraction(step) * _TURNS_PER_RADIAN, []
    for _ in range(2):
        unit = Fraction(2) ** (math.frexp(float(rest))[1] - bits)
        piece = rest // unit * unit
        pieces.append(float(piece))
        rest -= piece
    return pieces[0], pieces[1], float(rest)
