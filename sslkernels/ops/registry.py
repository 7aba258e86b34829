# SPDX-License-Identifier: Apache-2.0
"""Let a family of ops declare itself: its name, the backends that it has kernels for, and one function for each op.

    ROWS = family("rows", kernels=("cpu", "triton"))

    @ROWS.op
    def dot_forward(x: Tensor, y: Tensor | None, shift: int, backend: str) -> Tensor:
        return x.new_empty((x.shape[0],), dtype=wide(x.dtype))

The signature is the op's schema. The body is its fake: it returns empty tensors with the output's shapes and dtypes. A
call goes to the function of the same name in the backend's module, here sslkernels.ops.rows.<backend>.dot_forward, with
the same arguments except the backend's name. The caller chooses that name before it calls the op, so that a compiled
graph holds the same choice as the eager call. An argument may be a NamedTuple: torch sees its fields one after another.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sslkernels import backends, gpu, ops
from sslkernels.backends import CHECKED
from sslkernels.ops import check

_library = torch.library.Library("sslkernels", "DEF")
# Arguments of these types go straight to the backend. Subclasses of tensors, and SymInts, do not.
_TENSORS = frozenset((Tensor, torch.nn.Parameter))
_ORDINARY = _TENSORS | {torch.dtype, type(None), bool, int, float, str}
_FAMILIES: dict[str, Family] = {}


@dataclass(frozen=True)
class Op:
    """Describe one op of a family as its function declared it."""

    name: str
    scratch: tuple[str, ...]  # the arguments in which kernels may leave anything


@dataclass(frozen=True)
class Family:
    """Describe a folder of sslkernels/ops: the backends with kernels, fastest first, and the ops by function name."""

    name: str
    kernels: tuple[str, ...]
    ops: dict[str, Op] = field(default_factory=dict)
    _modules: dict[str, ModuleType] = field(default_factory=dict)

    @property
    def backends(self) -> tuple[str, ...]:
        """Name the backends that can run its ops, fastest first."""
        return *self.kernels, "reference"

    def choose(self, device: torch.device, dtype: torch.dtype, backend: str | None) -> str:
        """Choose the backend for tensors of ``dtype`` on ``device``; see `sslkernels.backends.choose`."""
        return backends.choose(device, dtype, backend, self.backends)

    def run(self, function: str, backend: str, *arguments: Any) -> Any:
        """Call the function of that name in the backend's module.

        Autocast is off, so that dtypes stay as they are, and the GPU of the first tensor is the current one, on which
        PyTorch and Triton launch kernels. The dispatcher sees to neither for functions in Python.
        """
        module = self._modules.get(backend)
        if module is None:
            module = self._modules[backend] = importlib.import_module(f"sslkernels.ops.{self.name}.{backend}")
        implementation = getattr(module, function)
        if CHECKED and backend != "reference":
            implementation = check.beside_reference(self, function, backend, implementation)
        x = arguments[0]
        while not isinstance(x, Tensor):  # the first field of a struct, or the first tensor of a list
            x = x[0]
        if torch._C._is_any_autocast_enabled():
            with torch.autocast(x.device.type, enabled=False), gpu.guard(x):
                return implementation(*arguments)
        if x.is_cuda:
            with gpu.guard(x):
                return implementation(*arguments)
        return implementation(*arguments)

    def op(
        self,
        declared: Callable[..., Any] | None = None,
        *,
        mutates: Iterable[str] = (),
        scratch: Iterable[str] = (),
        run: Callable[..., Any] | None = None,
    ) -> Any:
        """Register the op that a function declares, and return a function that calls it.

        The op writes to the arguments that ``mutates`` names. It also writes to those that ``scratch`` names, but
        nobody compares what it leaves there. ``run`` is called in place of the backend, with the function's arguments.
        """
        if declared is None:
            return lambda declared: self.op(declared, mutates=mutates, scratch=scratch, run=run)
        function = declared.__name__
        signature, structs = _flat(declared)
        name = f"{self.name}_{function}"
        schema = torch.library.infer_schema(_Prototype(signature), mutates_args=(*mutates, *scratch), op_name=name)
        self.ops[function] = Op(name, tuple(scratch))

        def through_backend(*arguments: Any) -> Any:
            return self.run(function, arguments[-1], *arguments[:-1])

        return _registered(name, schema, run or through_backend, declared, structs)


def family(name: str, kernels: tuple[str, ...]) -> Family:
    """Declare the family of the folder ``name``; every family runs on "reference" too."""
    _FAMILIES[name] = Family(name, kernels)
    return _FAMILIES[name]


def families() -> dict[str, Family]:
    """Import all families and return them by name."""
    for folder in pkgutil.iter_modules(ops.__path__):
        if folder.ispkg:
            importlib.import_module(f"sslkernels.ops.{folder.name}")
    return dict(_FAMILIES)


def is_plain() -> bool:
    """Say if a call reaches its tensors directly: without a compiler, a tracer, fake tensors or vmap in between."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def _are_here(given: Iterable[Any]) -> bool:
    """Say if all tensors lie on the host or all on one GPU, and their memory holds their numbers."""
    index = None
    for x in given:
        if type(x) not in _TENSORS:
            continue
        if index is None:
            index = -1 if x.is_cpu else x.get_device() if x.is_cuda else -2
            if index < 0 and not x.is_cpu:
                return False  # another device, or a tensor that only stands for one on a GPU
        elif index >= 0 and x.get_device() != index:
            return False
        if x.is_neg():
            return False  # its memory holds the negated numbers; the dispatcher makes a proper copy
    return True


class _Prototype:
    """Stand for a function that has nothing but a signature, which is all that infer_schema reads."""

    def __init__(self, signature: inspect.Signature) -> None:
        self.__signature__ = signature
        self.__globals__: dict[str, Any] = {}

    def __call__(self) -> None: ...


def _flat(declared: Callable[..., Any]) -> tuple[inspect.Signature, dict[int, Any]]:
    """Return the signature with NamedTuples replaced by their fields, and the NamedTuples by argument number."""
    hints = typing.get_type_hints(declared)
    parameters, structs = [], {}
    for place, name in enumerate(inspect.signature(declared).parameters):
        kind, names = hints[name], {name: hints[name]}
        if isinstance(kind, type) and issubclass(kind, tuple):
            structs[place], names = kind, typing.get_type_hints(kind)
        for each, annotation in names.items():
            parameters.append(inspect.Parameter(each, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation))
    returned = None if hints["return"] is type(None) else hints["return"]
    return inspect.Signature(parameters, return_annotation=returned), structs


def _registered(
    name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any], structs: dict[int, Any]
) -> Callable[..., Any]:
    """Register an op for every device that a backend may run on, and return a function that calls it.

    Plain tensors, all on the host or all on one GPU, skip the dispatcher: at small sizes its way to a Python function
    and back costs as much as the function itself.
    """

    count = len(inspect.signature(fake).parameters)
    # We write this function out for the op's own arguments, as NamedTuple does with its constructor: a loop would be
    # felt at small sizes.
    names = [f"_{place}" for place in range(count)]
    parts = (f"*{name}" if place in structs else name for place, name in enumerate(names))
    flat = eval(f"lambda {', '.join(names)}: ({', '.join(parts)},)")

    def gathered(function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function in a form that takes flat arguments."""
        if not structs:
            return function

        def call(*arguments: Any) -> Any:
            left, given = iter(arguments), []
            for place in range(count):
                struct = structs.get(place)
                given.append(next(left) if struct is None else struct._make(next(left) for _ in struct._fields))
            return function(*given)

        return call

    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA", "MPS", "XPU"):
        _library.impl(name, gathered(run), key)
    torch.library.register_fake(f"sslkernels::{name}", gathered(fake), lib=_library)
    registered = getattr(torch.ops.sslkernels, name).default

    def call(*arguments: Any) -> Any:
        given = flat(*arguments) if structs else arguments
        if is_plain() and _ORDINARY.issuperset(map(type, given)) and _are_here(given):
            return run(*arguments)
        return registered(*given)

    return call
