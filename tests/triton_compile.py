# SPDX-License-Identifier: Apache-2.0
"""Compile the Triton kernels of a family for GPUs that are not here, and read the resources that they use.

    python triton_compile.py [--all] [--only PREFIX] FAMILY [80 90 100]

One line of JSON per kernel: what was compiled, registers per thread, bytes of stack (spills) and of shared memory, how
many instructions copy ahead of the loop, and the best kind of matrix instruction: tcgen05, wgmma, mma.sync or none.
FAMILY/triton_variants.py says which kernels there are, and in which variants. This runs in a process of its own,
without TRITON_INTERPRET.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from sslkernels.device.compiled import compile_kernel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family")
    parser.add_argument("architectures", nargs="*", type=int, default=[80, 90, 100])
    parser.add_argument("--all", action="store_true", help="every dtype, width and variant of the table")
    parser.add_argument("--only", default="", metavar="PREFIX", help="kernels whose line begins so")
    arguments = parser.parse_args()
    family = variants_of(arguments.family)
    for architecture in arguments.architectures:
        for name, kernel, types, constants, options in family.variants(architecture, arguments.all):
            if name.startswith(arguments.only):
                used = compiled(family, kernel, types, constants, options, architecture)
                print(json.dumps({"kernel": name, "sm": architecture, **used}), flush=True)


def variants_of(family: str) -> ModuleType:
    """The module that lists a family's kernels.

    Its ``variants(architecture, everything)`` gives name, kernel, pointer types, compile-time constants and launch
    options. INTEGERS, FLOATS and POINTERS give the types of arguments by name, in every kernel. INDIVISIBLE names
    integers that are rarely multiples of 16.
    """
    file = Path(__file__).parent / family / "triton_variants.py"
    spec = importlib.util.spec_from_file_location("triton_variants", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compiled(
    family: ModuleType,
    kernel: Any,
    types: dict[str, str],
    constants: dict[str, Any],
    options: dict[str, int],
    architecture: int,
) -> dict[str, int | str]:
    """Say what one kernel uses; pointers of no given type are float32.

    As in a usual call, pointers and the sizes that a launch specialises on are multiples of 16.
    """
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        if name in family.INTEGERS:
            signature[name] = "i32"
        elif name in family.FLOATS:
            signature[name] = "fp32"
        else:
            signature[name] = "*" + {**family.POINTERS, **types}.get(name, "fp32")
        if not kernel.params[place].do_not_specialize and name not in family.INDIVISIBLE:
            attributes[(place,)] = [["tt.divisibility", 16]]
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    used = compile_kernel(kernel, signature, places, attributes, options, architecture)
    return {
        "registers": used.registers,
        "stack": used.spills,
        "shared": used.shared,
        "copies_ahead": used.copies_ahead,
        "product": used.product,
    }


if __name__ == "__main__":
    main()
