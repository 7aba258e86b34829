# SPDX-License-Identifier: Apache-2.0
"""How the ops of every family are registered, find their backend, and refuse a second derivative.

Each op is defined once and takes the backend's name; the name is resolved before the op is called, so that a compiled
graph holds the same choice as the eager call.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

_library = torch.library.Library("sslkernels", "DEF")
# What an argument of an op may be for `define` to hand it straight to the implementation: no subclass, no SymInt.
_ORDINARY = frozenset((Tensor, torch.nn.Parameter, torch.dtype, type(None), bool, int, float, str))


def family(name: str) -> Callable[..., Any]:
    """``run(function, backend, x, *arguments)`` for the ops of a family: the function of that name in the backend's
    module, sslkernels.ops.<family>.<backend>. The inputs have their dtypes already: autocast must not touch them.
    """
    loaded: dict[str, ModuleType] = {}

    def run(function: str, backend: str, x: Tensor, *arguments: Any) -> Any:
        module = loaded.get(backend)
        if module is None:
            module = loaded[backend] = importlib.import_module(f"sslkernels.ops.{name}.{backend}")
        implementation = getattr(module, function)
        if not torch.is_autocast_enabled(x.device.type):
            return implementation(x, *arguments)
        with torch.autocast(x.device.type, enabled=False):
            return implementation(x, *arguments)

    return run


def define(schema: str, implementation: Any, fake: Any) -> Any:
    """Registers an op for every device that a backend may run on, and returns what calls it.

    Host tensors that nothing watches go to the implementation at once: at small sizes the dispatcher's way to a Python
    function and back costs as much as the function.
    """
    name = schema.split("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA", "MPS", "XPU"):
        _library.impl(name, implementation, key)
    torch.library.register_fake(f"sslkernels::{name}", fake, lib=_library)
    registered = getattr(torch.ops.sslkernels, name).default

    def call(*arguments: Any) -> Any:
        direct = is_plain() and _ORDINARY.issuperset(map(type, arguments)) and arguments[0].is_cpu
        # memory of a negated view has the other sign: the dispatcher makes a copy
        if direct and not any(isinstance(x, Tensor) and x.is_neg() for x in arguments):
            return implementation(*arguments)
        return registered(*arguments)

    return call


def is_plain() -> bool:
    """Whether nothing stands between a call and its tensors: no compiler, no tracer, no fake tensors, no vmap."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums of numbers of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def promoted(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors in the dtype that holds all of theirs; autocast lets those of one call differ."""
    dtype = tensors[0].dtype
    if all(tensor.dtype == dtype for tensor in tensors):
        return tensors
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def stacked(*parts: Tensor) -> Tensor:
    """Parts one after another, `promoted`. Under autocast torch.cat refuses a 16-bit dtype that is not autocast's."""
    parts = promoted(*parts)
    if not torch.is_autocast_enabled(parts[0].device.type):
        return torch.cat(parts)
    with torch.autocast(parts[0].device.type, enabled=False):
        return torch.cat(parts)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype a matrix product of ``x`` would run in: autocast's, or its own."""
    kind = x.device.type
    if x.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


class _NoSecondDerivative(torch.autograd.Function):
    """Gradients that complain when they are differentiated, instead of passing for constants.

    The first ``count`` tensors are what they depend on: whoever differentiates with respect to those must come by here.
    """

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(gradient.view_as(gradient) for gradient in tensors[count:])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise RuntimeError(
            "sslkernels gives first derivatives only, and a second derivative was asked for; "
            "compute the part that needs it (a gradient penalty, say) with plain PyTorch."
        )


def first_derivative(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """For the backward of an autograd.Function: its gradients have none of their own.

    torch's once_differentiable complains only where the incoming gradient requires one; a gradient penalty on a loss
    would pass through it as a constant.
    """

    @functools.wraps(backward)
    def wrapper(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return backward(ctx, *grads)
        with torch.no_grad():
            outputs = backward(ctx, *grads)
        present = [output for output in outputs if output is not None]
        inputs = [x for x in (*ctx.saved_tensors, *grads) if x is not None and x.requires_grad]
        guarded = iter(_NoSecondDerivative.apply(len(inputs), *inputs, *present))
        return tuple(None if output is None else next(guarded) for output in outputs)

    return wrapper
