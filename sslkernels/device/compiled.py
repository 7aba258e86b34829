# SPDX-License-Identifier: Apache-2.0
"""Compile a recorded Triton launch for its target, and read what the kernel uses.

Triton brings ptxas, cuobjdump and nvdisasm, so no GPU and no CUDA toolkit is needed.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sslkernels.device import sass
from sslkernels.device.targets import Target

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
    """What a kernel uses, and the instructions of its loops."""

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


@functools.cache
def compiled(build: Build) -> Compiled:
    """Compile it, or take it from Triton's cache on disk."""
    attributes = {place: _parsed(value) for place, value in build.attributes}
    return compile_kernel(
        build.kernel,
        dict(build.signature),
        dict(build.constants),
        attributes,
        dict(build.options),
        build.architecture,
    )


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
    built = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=dict(options))
    ptx, usage = built.asm["ptx"], _tool("cuobjdump", "-res-usage", built.asm["cubin"])
    used = {key: int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL")}  # type: ignore[index]
    return Compiled(
        registers=used["REG"],
        spills=used["STACK"] + used["LOCAL"],
        shared=built.metadata.shared,
        warps=built.metadata.num_warps,
        product=next((kind for kind, text in PRODUCTS.items() if text in ptx), "none"),
        copies_ahead=ptx.count("cp.async.cg"),
        async_product=_async_product(built.asm["ttgir"], ptx),
        code=sass.read(_tool("cuobjdump", "-sass", built.asm["cubin"])),
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


def _parsed(value: str) -> Any:
    import ast

    return ast.literal_eval(value)


def _tool(name: str, option: str, cubin: bytes) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout
