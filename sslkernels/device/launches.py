# SPDX-License-Identifier: Apache-2.0
"""Record the kernels that an op would launch on a GPU, without the GPU.

The op itself runs, on meta tensors that say they are on cuda:0, so its own code chooses paths, tiles and grids. Three
hooks catch what it would launch: Triton's ``JITFunction.run``, `sslkernels.cuda.launch`, and a TorchDispatchMode for
the kernels of PyTorch. No number is computed. An op that waited for one, as ``item`` does, would fail here.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from sslkernels import cuda
from sslkernels.device.targets import Target
from sslkernels.gpu import Gpu, every_gpu_is
from sslkernels.ops import registry
from sslkernels.ops.ema import pairs as ema_pairs
from sslkernels.ops.launch import CODES

HAS_TRITON = importlib.util.find_spec("triton") is not None
_CUDA = torch.device("cuda", 0)
_READ = {"device": _CUDA, "is_cuda": True, "is_meta": False}  # what a meta tensor says of itself
# Ops of PyTorch that launch nothing although they return a new tensor. A number that is assigned to a part of a tensor
# (scalar_tensor) stays on the host until the part is filled.
_SILENT = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "detach", "_unsafe_view", "alias"}
_SILENT |= {"scalar_tensor"}
_ALIGNED = 512  # bytes; PyTorch's allocator begins every tensor at a multiple of them


@dataclass(frozen=True)
class Launch:
    """A kernel that would run."""

    name: str
    kind: str
    """"triton", "cuda" (csrc/cuda), "aten" (a kernel of PyTorch or cuBLAS), or "copy" (from the host)."""
    phase: str
    """"forward" or "backward"."""
    arguments: Mapping[str, Any]
    """By name. Those of an aten op are named by its schema, with its results as ``out``. Tensors are stand-ins with
    shape, strides and dtype; they are the same object where they lie at the same address, and have as ``on_host`` the
    numbers that were copied from the host, if they were. A kernel of csrc/cuda has the name of its family and the
    fields of its struct, with tensors in place of addresses."""
    grid: tuple[int, ...] = ()
    """Blocks; empty where PyTorch chooses them."""
    threads: int = 0
    """Per block; 0 where the compiled kernel says it."""
    kernel: Any = None
    """Triton's function. Its family's WORK and the compiler ask for it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Triton's options of the launch, such as num_warps."""
    build: Any = None
    """The input of `sslkernels.device.compiled`."""

    @property
    def blocks(self) -> int:
        return math.prod(self.grid)


@dataclass
class Recording:
    """The launches in order, and the most bytes that the op had on the device at once beside its inputs."""

    launches: list[Launch] = field(default_factory=list)
    peak_bytes: int = 0


def record(inputs: Callable[[], Mapping[str, Any]], op: Callable[..., Any], target: Target) -> Recording:
    """Make the inputs, call ``op`` with them by name, differentiate what it returns, and say what would have run.

    It is the second of two such steps that is recorded, since the first also makes what is kept from step to step. The
    gradient of the result is given, as it is to a layer within a network: the one that ``backward()`` makes of a
    loss by itself is no launch of the op.
    """
    within = _Within()
    with on(target):
        with within, torch.device("meta"):
            given = inputs()
        for _ in range(2):
            found = Recording()
            _step(given, op, _Recorder(found, within, target, given))
            for x in tree_leaves(given):
                if isinstance(x, Tensor):
                    x.grad = None
    return found


def _step(given: Mapping[str, Any], op: Callable[..., Any], recorder: _Recorder) -> None:
    with _hooked(recorder), recorder.within:
        with recorder:
            result = op(**given)
        if isinstance(result, Tensor) and result.requires_grad:
            grad = torch.empty_like(result)
            recorder.phase = "backward"
            with recorder:
                torch.autograd.backward(result, grad)


class _Within(TorchFunctionMode):
    """Let meta tensors say that they are on the GPU, and send there what is made for it."""

    def __init__(self) -> None:
        super().__init__()
        self.pointed: dict[Any, weakref.ref[Tensor]] = {}  # whose address was asked for
        self.on_host: dict[int, Tensor] = {}  # the numbers of tensors that were copied from the host, by address

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, owner = getattr(func, "__name__", ""), getattr(func, "__self__", None)
        if name == "__get__" and args[0].is_meta:
            attribute = getattr(owner, "__name__", "")
            return _READ[attribute] if attribute in _READ else func(*args)
        if name == "data_ptr":
            self.pointed[address(args[0])] = weakref.ref(args[0])
            return address(args[0])
        if name == "pin_memory":
            return args[0]
        kwargs = {key: _meta(value) for key, value in (kwargs or {}).items() if key != "generator"}
        return func(*map(_meta, args), **kwargs)


def _meta(value: Any) -> Any:
    """The meta device where the GPU was asked for. Texts stay: "cuda" is a backend too."""
    return torch.device("meta") if isinstance(value, torch.device) and value.type == "cuda" else value


def address(x: Tensor) -> int:
    """An address that x could have: storages begin at multiples of 512 bytes, all apart, and never at 0."""
    return x.untyped_storage()._cdata * _ALIGNED % 2**62 + x.storage_offset() * x.element_size()


class _Recorder(TorchDispatchMode):
    """Record what is launched. Ops of this package run as on a GPU; those of PyTorch run on meta tensors."""

    def __init__(self, found: Recording, within: _Within, target: Target, given: Mapping[str, Any]) -> None:
        super().__init__()
        self.found, self.within, self.target, self.phase = found, within, target, "forward"
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._count_memory([x for x in tree_leaves(given) if isinstance(x, Tensor)], of_inputs=True)
        self._stand_ins: dict[Any, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "sslkernels":
            with self.within, self:
                return func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA), *args, **kwargs)
        result = func(*args, **kwargs)
        tensors = [result] if isinstance(result, Tensor) else result if isinstance(result, (tuple, list)) else []
        outputs = [each for each in tensors if isinstance(each, Tensor)]
        on_gpu = any(output.is_meta for output in outputs)
        if on_gpu:
            self._count_memory(outputs)
        if on_gpu and _launches(func, args, result):
            name = func._schema.name.removeprefix("aten::")
            names = (argument.name for argument in func._schema.arguments)
            given = {**dict(zip(names, args, strict=False)), **kwargs, "out": result}
            from_host = any(isinstance(each, Tensor) and not each.is_meta and each.dim() for each in args)
            if from_host and name == "_to_copy":
                self.within.on_host[address(result)] = args[0]
            self.add(name, "copy" if from_host else "aten", given)
        return result

    def add(self, name: str, kind: str, arguments: Mapping[str, Any], **others: Any) -> None:
        # Whoever kept the tensors themselves would keep their memory too, and autograd would copy what others hold.
        kept = tree_map_only(Tensor, self._stand_in, dict(arguments))
        self.found.launches.append(Launch(name, kind, self.phase, kept, **others))

    def _stand_in(self, x: Tensor) -> Tensor:
        key = (address(x), x.shape, x.stride(), x.dtype)
        if key not in self._stand_ins:
            with _disable_current_modes(), torch._C.DisableTorchFunction():
                stand_in = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
            stand_in.on_host = self.within.on_host.get(address(x))  # type: ignore[attr-defined]
            self._stand_ins[key] = stand_in
        return self._stand_ins[key]

    def triton(self, kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        """Stand in for ``JITFunction.run``."""
        from sslkernels.device.compiled import specialised

        options = {name: value for name, value in kwargs.items() if name not in kernel.arg_names}
        bound = kernel.signature.bind(*args, **{name: kwargs[name] for name in kwargs if name not in options})
        bound.apply_defaults()
        grid = grid(bound.arguments) if callable(grid) else grid
        build = specialised(kernel, args, kwargs, self.target)
        self.add(
            kernel.__name__, "triton", bound.arguments, grid=tuple(grid), kernel=kernel, options=options, build=build
        )

    def cuda(
        self, family: str, kernel: str, x: Tensor, blocks: tuple[int, int], threads: tuple[int, int], *fields: float
    ) -> None:
        """Stand in for `sslkernels.cuda.launch`."""
        pointed: dict[Any, Any] = {
            field: self.within.pointed[field]() for field in fields if field in self.within.pointed
        }
        arguments = {"family": family, "fields": tuple(pointed.get(field, field) for field in fields)}
        self.add(kernel, "cuda", arguments, grid=tuple(blocks), threads=threads[0] * threads[1])

    def _count_memory(self, outputs: list[Tensor], of_inputs: bool = False) -> None:
        self._alive = {key: kept for key, kept in self._alive.items() if not kept[0].expired()}
        for output in outputs:
            storage = output.untyped_storage()
            self._alive.setdefault(storage._cdata, (StorageWeakRef(storage), 0 if of_inputs else storage.nbytes()))
        now = sum(size for _, size in self._alive.values())
        self.found.peak_bytes = max(self.found.peak_bytes, now)


def _launches(func: Any, args: Any, result: Any) -> bool:
    """True unless the op only looks at its arguments, makes room, or has nothing to write."""
    name = func._schema.name.removeprefix("aten::")
    views = any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns)
    if views or name in _SILENT:
        return False
    written = [result] if isinstance(result, Tensor) else [each for each in result if isinstance(each, Tensor)]
    return any(each.numel() for each in written)


def _table_of(targets: Any, sources: Any, masters: Any) -> ema_pairs.Pairs:
    """Stand in for ``pairs_of``, whose compiled reader takes no meta tensor. A pair listed twice counts twice."""
    rows = []
    for place, (target, source) in enumerate(zip(targets, sources, strict=True)):
        master = masters[place] if masters else None
        dtypes = CODES[target.dtype] + 256 * CODES[source.dtype]
        at = 0 if master is None or not master.numel() else address(master)
        rows.append((address(target), address(source), at, target.numel(), dtypes))
    return ema_pairs.Pairs(targets, sources, masters, np.array(rows, np.int64).tobytes())


@contextmanager
def on(target: Target) -> Iterator[None]:
    """Let the package see one GPU like ``target``, on which all backends can run."""
    for family in registry.families().values():  # what is imported meanwhile would keep a stand-in for good
        for backend in family.kernels:
            if backend != "triton" or HAS_TRITON:
                importlib.import_module(f"sslkernels.ops.{family.name}.{backend}")
    with ExitStack() as stack:
        stack.enter_context(every_gpu_is(Gpu(target.multiprocessors, (target.major, target.minor))))
        for place, name, by in (
            (torch.cuda, "device_count", lambda: 1),
            (torch.cuda, "get_device_capability", lambda device=None: (target.major, target.minor)),
            (torch.cuda, "is_current_stream_capturing", lambda: False),
            (torch.cuda, "current_stream", lambda device=None: SimpleNamespace(cuda_stream=0)),
            (Tensor, "record_stream", lambda x, stream: None),
            (cuda, "why_not", lambda device: None),
        ):
            stack.enter_context(mock.patch.object(place, name, by))
        yield


@contextmanager
def _hooked(recorder: _Recorder) -> Iterator[None]:
    """Give the recorder what would be launched. Calls are as plain as they would be on the GPU."""
    with ExitStack() as stack:
        for function, by in (
            (cuda.launch, recorder.cuda),
            (registry.is_plain, lambda: True),
            (ema_pairs.pairs_of, _table_of),
        ):
            for name, module in list(sys.modules.items()):
                if name.startswith("sslkernels"):
                    for attribute, value in list(vars(module).items()):
                        if value is function:
                            stack.enter_context(mock.patch.object(module, attribute, by))
        if HAS_TRITON:
            from triton.runtime.jit import JITFunction

            def run(kernel: Any, *args: Any, **kwargs: Any) -> None:
                recorder.triton(kernel, *args, **kwargs)

            stack.enter_context(mock.patch.object(JITFunction, "run", run))
        yield
