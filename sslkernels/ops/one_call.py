# SPDX-License-Identifier: Apache-2.0
"""Give a loss one autograd node, whose gradient is computed in the same call as its value.

Reductions "mean" and "sum" weigh every row alike, and the weight is known in the forward. So one call does both:

    forward     value L, and dL/dx for every input x that asks for it, in float32 (float64 for float64)
    backward    grad * dL/dx, rounded once to the dtype of x

At small sizes nodes cost more than arithmetic. At large ones the exponentials and products that the gradient needs live
inside the call and are not left for a backward. If no backward follows, the gradient was computed for nothing: under
`torch.no_grad` and `torch.inference_mode` the value is computed alone. With several ranks the gradient needs numbers of
the others, which are exchanged in the forward. Where all of them return the same value, one number is left for the
backward: the sum of what they send back to it, which need not be alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sslkernels.backends import why_not
from sslkernels.distributed import Shard, summed
from sslkernels.ops import registry
from sslkernels.ops.derivative import first_derivative
from sslkernels.ops.repeats import distinct

# Takes what was asked, which inputs need a gradient, and the inputs. It returns the value and one gradient for each
# input; those that nobody needs are ignored.
Compute = Callable[..., tuple[Any, ...]]
_SETTINGS = 4  # arguments of the node before its inputs


def in_one_call(compute: Compute, asked: Any, *inputs: Tensor | None, alike: Shard = Shard.alone) -> Tensor:
    """Call ``compute(asked, needs, *inputs)`` for the value and the gradients, and return the differentiable value.

    The ranks of ``alike`` all return one value; their inputs get its gradient times the sum of what ranks send back.
    ``compute`` must be a function at the top level of a module and ``asked`` hold no tensor, so that torch.compile can
    trace the call. A second derivative raises.
    """
    differentiable = torch.is_grad_enabled()
    needs = tuple(differentiable and x is not None and x.requires_grad for x in inputs)
    return _OneCall.apply(compute, asked, needs, alike, *distinct(*inputs))


class _OneCall(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:  # torch.compile counts parameters, and would leave out ctx
        compute, asked, needs, ctx.alike, *inputs = arguments
        value, *gradients = compute(asked, needs, *inputs)
        places = [place for place, need in enumerate(needs) if need]
        # The inputs are saved only so that a second derivative finds out that the gradient depends on them.
        ctx.save_for_backward(*(inputs[place] for place in places), *(gradients[place] for place in places))
        ctx.places, ctx.device = places, value.device
        return value

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        saved, count = ctx.saved_tensors, len(ctx.places)
        grad = summed(grad, ctx.alike) if ctx.alike.ranks > 1 else grad
        as_it_is = registry.is_plain() and grad.is_cpu and grad.item() == 1
        # Autograd may take a gradient for its own and add the next one to it in place, so while the graph is kept for
        # another backward it gets a copy.
        copy = as_it_is and torch._C._autograd._get_current_graph_task_keep_graph()
        asked = [place for place in range(count) if ctx.needs_input_grad[ctx.places[place] + _SETTINGS]]
        gradients = [saved[count + place] for place in asked]
        dtypes = [saved[place].dtype for place in asked]
        if as_it_is:
            products = [gradient.to(dtype, copy=copy) for gradient, dtype in zip(gradients, dtypes, strict=True)]
        else:
            products = _times(gradients, grad, dtypes, ctx.device)
        scaled: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        for place, product in zip(asked, products, strict=True):
            scaled[ctx.places[place] + _SETTINGS] = product
        return tuple(scaled)


def _times(gradients: list[Tensor], grad: Tensor, dtypes: list[torch.dtype], device: torch.device) -> list[Tensor]:
    """Multiply in the dtype of the sums and round once, in one pass where nothing traces it; on a GPU in one launch."""
    if gradients and registry.is_plain() and why_not("triton", device, grad.dtype) is None:
        from sslkernels.ops.triton_times import MOST, times

        if len(gradients) <= MOST:
            return times(gradients, grad, dtypes)
    return [_product(gradient, grad, dtype) for gradient, dtype in zip(gradients, dtypes, strict=True)]


def _product(gradient: Tensor, grad: Tensor, dtype: torch.dtype) -> Tensor:
    if gradient.dtype == dtype or not registry.is_plain():
        return (gradient * grad).to(dtype)
    return torch.mul(gradient, grad, out=torch.empty_like(gradient, dtype=dtype))
