# SPDX-License-Identifier: Apache-2.0
"""Runs compiled CUDA kernels: finds an image that a device can run, loads it, and launches.

If nvcc was there at the build, the package holds an image of each csrc/cuda/*.cu for compute capabilities from 8.0 on.
It always holds the texts, with the header that all include. Where no image fits, CuPy's NVRTC compiles the text for the
device, once per process.
"""

from __future__ import annotations

import functools
import importlib.resources
import importlib.util

import torch
from torch import Tensor

from sslkernels import _C
from sslkernels.capture import launching
from sslkernels.gpu import OLDEST, asked_once, with_index

# All texts include this header.
SHARED = "numbers.cuh"


def why_not(device: torch.device) -> str | None:
    """Say in one sentence why CUDA kernels cannot run on ``device``; None if they can."""
    return _why_not(with_index(device).index)


@asked_once
def _why_not(index: int | None) -> str | None:
    if not torch.cuda.is_available():
        return "this PyTorch sees no CUDA device."
    if index is not None and index >= torch.cuda.device_count():
        return f"PyTorch sees {torch.cuda.device_count()} CUDA devices and the tensors are on number {index}."
    driver = _C.cuda_driver_version()
    if driver == 0:
        return "the CUDA driver, libcuda.so.1 of CUDA 12 or later, was not found; install NVIDIA's."
    missing = _no_image(torch.cuda.get_device_capability(index), driver)
    if missing is None or importlib.util.find_spec("cupy") is not None:
        return None
    return f"{missing} and CuPy is not installed; `pip install sslkernels[cupy]` compiles them at first use."


def launch(
    family: str, kernel: str, x: Tensor, blocks: tuple[int, int], threads: tuple[int, int], *fields: int | float
) -> None:
    """Run ``kernel`` of csrc/cuda/<family>.cu on the device and the current stream of ``x``.

    ``fields`` are the fields of its struct in order: addresses, whole numbers, and floats for its doubles.
    """
    with launching(family, x):
        index = x.get_device()
        stream = torch.cuda.current_stream(index).cuda_stream
        _C.cuda_launch(_kernel(family, kernel, index), index, stream, blocks, threads, fields)


@functools.cache
def _kernel(family: str, name: str, index: int) -> int:
    capability = torch.cuda.get_device_capability(index)
    fits = _no_image(capability, _C.cuda_driver_version()) is None
    return _C.cuda_kernel(_library(family, None if fits else capability), name)


@functools.cache
def _library(family: str, capability: tuple[int, int] | None) -> int:
    """Load the shipped image, or for a ``capability`` the image that NVRTC compiles from the text."""
    if capability is None:
        return _C.cuda_load(_shipped(f"{family}.fatbin"))
    return _C.cuda_load(compile_text(family, capability))


def compile_text(family: str, capability: tuple[int, int]) -> bytes:
    """Compile csrc/cuda/<family>.cu for a compute capability with CuPy's NVRTC; no device is needed."""
    from cupy_backends.cuda.libs import nvrtc

    major, minor = capability
    program, log = None, ""
    # nvcc compiles a lambda in a device function for the device; NVRTC does so only with the last option
    options = (f"--gpu-architecture=sm_{major}{minor}", "--std=c++17", "--device-as-default-execution-space")
    try:
        text = _shipped(f"{family}.cu").decode()
        program = nvrtc.createProgram(text, f"{family}.cu", (_shipped(SHARED),), (SHARED.encode(),))
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError:
            log = nvrtc.getProgramLog(program)
            raise
        return nvrtc.getCUBIN(program)
    except RuntimeError as error:  # NVRTCError is one; CuPy raises another if libnvrtc is missing
        raise RuntimeError(
            f"CuPy's NVRTC could not compile the {family} kernels for compute capability {major}.{minor}: "
            f"{error} {log}".rstrip()
        ) from error
    finally:
        if program is not None:
            nvrtc.destroyProgram(program)


def _no_image(capability: tuple[int, int], driver: int) -> str | None:
    """Begin a sentence on why the shipped images do not run under ``driver`` (12080 is CUDA 12.8); None if they do."""
    if _C.CUDA_VERSION == 0:
        return "this build has no CUDA image"
    if capability < OLDEST:  # its PTX serves devices that have no image of their own
        return f"this build has no CUDA image for compute capability {capability[0]}.{capability[1]}"
    if driver // 1000 < _C.CUDA_VERSION // 1000:
        here = f"{driver // 1000}.{driver % 1000 // 10}"
        return f"this build's CUDA images need a driver of CUDA {_C.CUDA_VERSION // 1000}, here is one of {here},"
    return None


def _shipped(name: str) -> bytes:
    return (importlib.resources.files("sslkernels") / "kernels" / name).read_bytes()
