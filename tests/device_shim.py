# SPDX-License-Identifier: Apache-2.0
"""Runs CUDA kernels on a processor: g++ and device_shim.h compile the shipped text, for tensors in host memory.

``SSLKERNELS_SANITIZE=1`` builds them with ASan and UBSan; ASan must then have been loaded before Python.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.resources
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from torch import Tensor

HEADER = Path(__file__).with_suffix(".h")


class Shim:
    """Stands in for `sslkernels.cuda.launch`, and remembers which kernels ran."""

    def __init__(self, family: str, folder: Path) -> None:
        if shutil.which("g++") is None:
            pytest.skip("There is no g++ to compile the CUDA kernels for this processor.")
        library = folder / f"{family}.so"
        options = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"] if sanitized() else []
        source = folder / f"{family}_and_sizes.cu"
        source.write_text(with_sizes(str(importlib.resources.files("sslkernels") / "kernels" / f"{family}.cu")))
        done = subprocess.run(
            ["g++", "-std=c++17", "-O1", "-g1", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing",
             "-Wall", "-Werror", "-Wno-unknown-pragmas", *options, "-include", str(HEADER), "-x", "c++", str(source),
             "-o", str(library)],
            capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[:4000]
        self._library = ctypes.CDLL(str(library))
        self._kernel = functools.cache(lambda name: ctypes.cast(getattr(self._library, name), ctypes.c_void_p))
        self.ran: list[str] = []

    def launch(
        self, family: str, kernel: str, x: Tensor, blocks: tuple[int, int], threads: tuple[int, int], *fields: float
    ) -> None:
        self.ran.append(kernel)
        size = ctypes.c_int.in_dll(self._library, f"size_of_{kernel}").value
        assert size == 8 * len(fields), f"{kernel} takes a struct of {size} bytes and gets {len(fields)} fields"
        words = [struct.unpack("q", struct.pack("d", f))[0] if isinstance(f, float) else int(f) for f in fields]
        self._library.run(
            self._kernel(kernel),
            (ctypes.c_uint * 2)(*blocks),
            (ctypes.c_uint * 2)(*threads),
            (ctypes.c_int64 * len(words))(*words),
            len(words),
        )


def with_sizes(text: str) -> str:
    """Include a text, and define how many bytes the struct of each of its kernels has."""
    done = subprocess.run(["g++", "-E", "-P", "-x", "c++", text], capture_output=True, text=True, check=True)
    kernels = re.findall(r"__global__\s+void\s+(\w+)\((.+?) a\)", done.stdout)
    sizes = (f'extern "C" __global__ const int size_of_{name} = sizeof({struct});\n' for name, struct in kernels)
    return f'#include "{text}"\n{"".join(sizes)}'


def sanitized() -> bool:
    return os.environ.get("SSLKERNELS_SANITIZE") == "1"
