# SPDX-License-Identifier: Apache-2.0
"""Compile a recorded Triton launch for its target, and read what the kernel uses.

Triton brings ptxas, cuobjdump and nvdisasm, so no GPU and no CUDA toolkit is needed.
"""

from __future__ import annotations

import ast
import functools
import importlib.resources
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from sslkernels import _C
from sslkernels.device import sass
from sslkernels.device.targets import Target
from sslkernels.ops.work import counted_in

# Kinds of matrix instruction, the best first, as PTX spells them.
PRODUCTS = {"tcgen05": "tcgen05.mma", "wgmma": "wgmma.mma_async", "mma.sync": "mma.sync"}


class Build(NamedTuple):
    """All that the code of a kernel depends on. Two launches of equal builds run the same code."""

    kernel: Any
    architecture: int
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[tuple[int, ...], Any], ...]
    attributes: tuple[tuple[tuple[int, ...], str], ...]
    options: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Compiled:
    """Hold the resources that a kernel uses, and the instructions of its loops."""

    registers: int  # per thread
    spills: int  # bytes of stack per thread
    shared: int  # bytes per block
    warps: int  # per block
    product: str  # a key of `PRODUCTS`, or "none"
    copies_ahead: int  # cp.async instructions
    async_product: tuple[int, int]  # of sm_100: rows, and operations per instruction; (0, 0) elsewhere
    code: sass.Code


def specialised(kernel: Any, args: Any, kwargs: Mapping[str, Any], target: Target) -> Build:
    """Ask Triton how it would specialise a launch: by types, by divisibility by 16, and by arguments equal to 1."""
    backend, binder = _binder(kernel, target.architecture)
    with _quiet():
        bound, specialisation, options = binder(*args, debug=False, **kwargs)
        packed, signature, constants, attributes = kernel._pack_args(backend, options, bound, specialisation, options)
    return Build(
        kernel,
        target.architecture,
        tuple(signature.items()),
        tuple(constants.items()),
        tuple((place, str(value)) for place, value in attributes.items()),
        tuple(sorted((name, value) for name, value in options.items() if hasattr(packed, name))),
    )


@functools.cache
def _binder(kernel: Any, architecture: int) -> tuple[Any, Any]:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    backend = make_backend(GPUTarget("cuda", architecture, 32))
    return backend, create_function_from_signature(kernel.signature, kernel.params, backend)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out Triton's advice on a variable of the environment, which is for those who write kernels."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
        yield


@functools.cache
def compiled(build: Build) -> Compiled:
    """Compile it, or take it from Triton's cache on disk.

    The instructions are those of the form that most programs take, if the family says one: kernels have branches for
    what is rare, which would be counted as often as all else.
    """
    usual, used = _usual(build), _compiled(build)
    return used if usual is None else replace(used, code=_compiled(usual).code)


def _usual(build: Build) -> Build | None:
    """The build with the constants of USUAL in triton_work.py of the kernel's family; None if it names none."""
    work = counted_in(build.kernel.__module__.rpartition(".")[0], "triton")
    constants: Mapping[str, Any] | None = getattr(work, "USUAL", {}).get(build.kernel.__name__)
    if constants is None:
        return None
    names = build.kernel.arg_names
    kept = ((place, constants.get(names[place[0]], value)) for place, value in build.constants)
    return build._replace(constants=tuple(kept))


@functools.cache
def _compiled(build: Build) -> Compiled:
    attributes = {place: ast.literal_eval(value) for place, value in build.attributes}
    options, constants = dict(build.options), dict(build.constants)
    return compile_kernel(build.kernel, dict(build.signature), constants, attributes, options, build.architecture)


def compile_kernel(
    kernel: Any,
    signature: Mapping[str, str],
    constants: Mapping[tuple[int, ...], Any],
    attributes: Mapping[tuple[int, ...], Any],
    options: Mapping[str, Any],
    architecture: int,
) -> Compiled:
    """Compile a kernel of these types, constants by place, and attributes by place, for sm_``architecture``."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(fn=kernel, signature=dict(signature), constexprs=dict(constants), attrs=dict(attributes))
    with _quiet():
        built = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=dict(options))
    ptx = built.asm["ptx"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(built.asm["cubin"])
        cubin.flush()
        registers, spills, _ = _usage(_tool("-res-usage", cubin.name))
        code = sass.read(_tool("-sass", cubin.name))
    return Compiled(
        registers=registers,
        spills=spills,
        shared=built.metadata.shared,
        warps=built.metadata.num_warps,
        product=next((kind for kind, text in PRODUCTS.items() if text in ptx), "none"),
        copies_ahead=ptx.count("cp.async.cg"),
        async_product=_async_product(built.asm["ttgir"], ptx),
        code=code,
    )


def blocks_per_multiprocessor(used: Compiled, target: Target) -> int:
    """The blocks that run at once: registers, shared memory and warps each have room for some, and the least counts.

    A warp takes registers by 256, and a block 1 KiB of shared memory beside its own.
    """
    registers = 256 * -(-used.registers * 32 // 256) * used.warps
    rooms = (target.registers // registers, target.shared // (used.shared + 1024), target.warps // used.warps)
    return min(*rooms, target.blocks)


def _async_product(ttgir: str, ptx: str) -> tuple[int, int]:
    """The least rows of a tcgen05 product, and the mean operations of an instruction, which names no sizes itself."""
    sides = re.findall(r"tc_gen5_mma .*?: .*?<(\d+)x(\d+)x\w+.*?<\d+x(\d+)x\w+", ttgir)
    if not sides:
        return 0, 0
    sizes = [tuple(map(int, each)) for each in sides]
    instructions = ptx.count(PRODUCTS["tcgen05"])
    return min(m for m, _, _ in sizes), sum(2 * m * k * n for m, k, n in sizes) // instructions


@functools.cache
def shipped(family: str, name: str, threads: int, architecture: int) -> Compiled | None:
    """Read a kernel of csrc/cuda from the image that is shipped, or compile its text. None where there is no nvcc."""
    image = _image(family, architecture)
    if image is None:
        return None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(image)
        file.flush()
        options = ("-arch", f"sm_{architecture}", "-fun", name)
        registers, spills, shared = _usage(_tool("-res-usage", *options, file.name))
        code = sass.read(_tool("-sass", *options, file.name))
    return Compiled(registers, spills, shared, -(-threads // 32), "none", 0, (0, 0), code)


@functools.cache
def _image(family: str, architecture: int) -> bytes | None:
    folder = importlib.resources.files("sslkernels") / "kernels"
    if _C.CUDA_VERSION:
        return (folder / f"{family}.fatbin").read_bytes()
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    with importlib.resources.as_file(folder) as here, tempfile.TemporaryDirectory() as out:
        text, image = here / f"{family}.cu", Path(out) / "image"
        options = ("-std=c++17", "-cubin", f"-arch=sm_{architecture}", "-o", image)
        subprocess.run([nvcc, *options, text], capture_output=True, check=True)
        return image.read_bytes()


def _usage(report: str) -> tuple[int, int, int]:
    """Registers, bytes of stack, and bytes of shared memory that the code itself declares."""
    found = [re.search(rf"{key}:(\d+)", report) for key in ("REG", "STACK", "LOCAL", "SHARED")]
    registers, stack, local, shared = (0 if each is None else int(each[1]) for each in found)
    return registers, stack + local, shared


def _tool(*arguments: str) -> str:
    """Run the cuobjdump that Triton brings."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout
