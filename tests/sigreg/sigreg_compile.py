# SPDX-License-Identifier: Apache-2.0
"""Compile the Triton kernels of the sigreg family for GPUs that are not there, and read what they use.

    python sigreg_compile.py [80 90 100]

It prints one line of JSON per kernel: registers per thread, bytes of stack (spills) and of shared memory.
Run it in a process of its own, without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sslkernels.ops.sigreg import triton as launcher
from sslkernels.ops.sigreg import triton_kernels as kernels

POINTERS, INTEGERS = {"p", "out", "grad", "dp"}, {"n", "slices", "knots", "parts"}


def compiled(kernel: Any, architecture: int, divisible: bool) -> dict[str, int]:
    """Compile one kernel; ``divisible`` says that slices are a multiple of 16, as pointers are, for specialisation."""
    tile = dict(launcher.TILE)
    options = {"num_warps": tile.pop("num_warps")}
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in tile:
            signature[name] = "constexpr"
            continue
        signature[name] = "*fp32" if name in POINTERS else "i32" if name in INTEGERS else "fp32"
        if name in POINTERS or (name == "slices" and divisible):
            attributes[(place,)] = [["tt.divisibility", 16]]
    places = {(kernel.arg_names.index(name),): value for name, value in tile.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=attributes)
    built = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    return {**usage(built.asm["cubin"]), "shared": built.metadata.shared}


def usage(cubin: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = {key: int(re.search(rf"{key}:(\d+)", report)[1]) for key in ("REG", "STACK", "LOCAL")}
    return {"registers": found["REG"], "stack": found["STACK"] + found["LOCAL"]}


if __name__ == "__main__":
    for architecture in [int(argument) for argument in sys.argv[1:]] or [80, 90, 100]:
        for name, kernel in (("sums", kernels.sums_kernel), ("adjoint", kernels.adjoint_kernel)):
            for divisible in (True, False):
                used = compiled(kernel, architecture, divisible)
                print(json.dumps({"kernel": name, "sm": architecture, "divisible": divisible, **used}), flush=True)
