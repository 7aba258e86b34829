# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels compile for every architecture, by nvcc and by NVRTC, and spill nothing; a launch hands the driver
its own arguments. No GPU is needed.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sslkernels import _C, cuda

FAMILIES = ("tokens", "ema")
ARCHITECTURES = (80, 86, 89, 90, 100, 120)
KERNELS = importlib.resources.files("sslkernels") / "kernels"
NVCC = shutil.which("nvcc")
needs_nvcc = pytest.mark.skipif(
    NVCC is None, reason="There is no nvcc here; the text is compiled by NVRTC at run time."
)


def names(family: str) -> set[str]:
    """Find the kernels of a text in the preprocessor's output."""
    text = str(KERNELS / f"{family}.cu")
    done = subprocess.run(["g++", "-E", "-P", "-x", "c++", text], capture_output=True, text=True, check=True)
    return set(re.findall(r"__global__\s+void\s+(\w+)\(", done.stdout))


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("family", FAMILIES)
def test_nvcc_spills_nothing(family: str, architecture: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [NVCC, "-std=c++17", "-cubin", f"-arch=sm_{architecture}", "-Xptxas", "-v", "-allow-unsupported-compiler",
         str(KERNELS / f"{family}.cu"), "-o", str(tmp_path / "cubin")],
        capture_output=True,
        text=True,
    )  # fmt: skip
    report = done.stdout + done.stderr
    assert done.returncode == 0, report
    assert "warning" not in report
    assert set(re.findall(r"Compiling entry function '(\w+)'", report)) == names(family)
    assert set(re.findall(r"(\d+) bytes (?:stack frame|spill)", report)) == {"0"}
    registers = [int(number) for number in re.findall(r"Used (\d+) registers", report)]
    assert len(registers) == len(names(family)) and max(registers) <= 128


def kernels_in_ptx(family: str, folder: Path) -> dict[str, str]:
    ptx, source = folder / "ptx", str(KERNELS / f"{family}.cu")
    subprocess.run([NVCC, "-std=c++17", "-ptx", "-arch=sm_80", source, "-o", str(ptx)], check=True)
    kernels = re.split(r"\.visible \.entry (\w+)\(", ptx.read_text())
    return dict(zip(kernels[1::2], kernels[2::2], strict=True))


@needs_nvcc
@pytest.mark.slow
def test_vector_kernels_move_16_bytes_at_a_time(tmp_path: Path) -> None:
    """No number is moved by itself: of these kernels only errors reads single ones, and only indices are integers."""
    for name, text in kernels_in_ptx("tokens", tmp_path).items():
        if name.endswith("_vector"):
            assert re.search(r"ld\.global\.v(4\.[ufb]32|2\.[ufb]64)", text), name
            if not name.startswith("errors"):
                assert set(re.findall(r"st\.global\.([\w.]+)", text)) == {"v4.u32"}, name
                assert not re.search(r"ld\.global\.(v2\.f32|[fb]32|[fb]64|[ub]16)\b", text), name
        elif name.endswith("_scalar"):
            assert not re.search(r"(ld|st)\.global\.v", text), name


@needs_nvcc
@pytest.mark.slow
def test_rows_have_their_loads_in_flight_together(tmp_path: Path) -> None:
    """Four 16-byte vectors are loaded before the first is stored, or added to others."""
    kernels = kernels_in_ptx("tokens", tmp_path)
    names = [name for name in kernels if re.match(r"(gather|collect|sums|total)_\w+_vector", name)]
    assert len(names) == 2 * 8 + 2 * 4
    for name in names:
        parts = re.split(r"st\.global|add(?:\.\w+)?\.f(?:32|64)", kernels[name])
        assert max(len(re.findall(r"ld\.global\.v[24]", part)) for part in parts) >= 4, name


@needs_nvcc
@pytest.mark.slow
def test_the_update_of_a_teacher_has_its_loads_in_flight_together(tmp_path: Path) -> None:
    """Four 16-byte vectors of each tensor are loaded from global memory before the first is used, in each dtype."""
    text = kernels_in_ptx("ema", tmp_path)["update"]
    for kind in ("f32", "f64", "u32"):  # u32 stands for eight 16-bit numbers
        assert len(re.findall(rf"ld\.global\.v[24]\.{kind}", text)) >= 8, kind
        assert len(re.findall(rf"st\.global\.v[24]\.{kind}", text)) >= 4, kind
    assert not re.search(r"\b(ld|st)\.(v[24]\.)?[ufb]\d", text)


@pytest.mark.skipif(_C.CUDA_VERSION == 0, reason="This build found no nvcc, and has no image.")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_image_is_shipped_beside_its_text(family: str) -> None:
    image = (KERNELS / f"{family}.fatbin").read_bytes()
    assert image[:4] == b"\x50\xed\x55\xba"  # the magic number in fatbinary.h
    assert len(image) < 2 << 20  # or wheels become large


@pytest.mark.slow
@pytest.mark.parametrize("architecture", (80, 90, 100))
@pytest.mark.parametrize("family", FAMILIES)
def test_nvrtc_compiles_the_same_text(family: str, architecture: int) -> None:
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy, which brings NVRTC, is not installed.")
    try:
        image = cuda.compile_text(family, divmod(architecture, 10))
    except RuntimeError as error:
        if "libnvrtc" not in str(error):
            raise
        pytest.skip("CuPy is installed, but libnvrtc is not.")
    assert image[:4] == b"\x7fELF"
    assert all(name.encode() in image for name in names(family))


def test_why_not_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(capability: tuple[int, int], driver: int, built: int, devices: int = 1) -> str | None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
        monkeypatch.setattr(_C, "cuda_driver_version", lambda: driver)
        monkeypatch.setattr(_C, "CUDA_VERSION", built)
        cuda._why_not.cache_clear()
        return cuda.why_not(torch.device("cuda", 0))

    try:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        advice = "and CuPy is not installed; `pip install sslkernels[cupy]` compiles them at first use."
        assert reason((9, 0), 13000, 13000) is None
        assert reason((12, 1), 13020, 13000) is None
        assert reason((7, 5), 13000, 13000) == f"this build has no CUDA image for compute capability 7.5 {advice}"
        assert reason((9, 0), 13000, 0) == f"this build has no CUDA image {advice}"
        needs = "this build's CUDA images need a driver of CUDA 13, here is one of 12.8,"
        assert reason((9, 0), 12080, 13000) == f"{needs} {advice}"
        assert "libcuda.so.1" in (reason((9, 0), 0, 13000) or "")
        assert reason((9, 0), 13000, 13000, devices=0) == "this PyTorch sees no CUDA device."
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
        assert reason((7, 5), 13000, 13000) is None
        assert reason((9, 0), 12080, 0) is None
    finally:
        cuda._why_not.cache_clear()


# A driver that prints what it is asked for. The test passes the fields of the kernel's struct.
DRIVER = r"""
#include <stdio.h>
#include <string.h>
static void *current = 0;
int cuDriverGetVersion(int *version) { *version = 13010; return 0; }
int cuInit(unsigned flags) { return 0; }
int cuGetErrorName(int result, const char **name) { *name = "CUDA_ERROR_NOT_FOUND"; return 0; }
int cuGetErrorString(int result, const char **text) { *text = "named symbol not found"; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal + 100; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)(long)(device + 1000); return 0; }
int cuCtxGetCurrent(void **context) { *context = current; return 0; }
int cuCtxPushCurrent_v2(void *context) { current = context; return 0; }
int cuCtxPopCurrent_v2(void **context) { *context = current; current = 0; return 0; }
int cuLibraryLoadData(void **library, const char *image, void *a, void *b, unsigned c, void *d, void *e, unsigned f) {
    *library = (void *)(long)strlen(image);
    return 0;
}
int cuLibraryGetKernel(void **kernel, void *library, const char *name) {
    if (!strcmp(name, "absent")) return 500;
    *kernel = (void *)((long)library * 10);
    return 0;
}
int cuKernelGetParamInfo(void *kernel, size_t place, size_t *offset, size_t *size) {
    if (UNKNOWN) return 1;
    *offset = 0;
    *size = 32;
    return 0;
}
int cuLaunchKernel(void *kernel, unsigned bx, unsigned by, unsigned bz, unsigned tx, unsigned ty, unsigned tz,
                   unsigned shared, void *stream, void **arguments, void **extra) {
    const long long *field = arguments[0];
    double number;
    memcpy(&number, field + 2, sizeof number);
    printf("[%ld, %u, %u, %u, %u, %u, %u, %u, %ld, %lld, %lld, %g, %lld, %ld]\n", (long)kernel, bx, by, bz, tx, ty, tz,
           shared, (long)stream, field[0], field[1], number, field[3], (long)current);
    fflush(stdout);
    return bx == 0 ? 500 : 0;
}
"""


def driver(folder: Path, *options: str) -> dict[str, str]:
    """Compile `DRIVER` and return the environment in which it is found."""
    if shutil.which("gcc") is None:
        pytest.skip("There is no gcc to compile a driver that only tells what it was asked.")
    (folder / "driver.c").write_text(DRIVER)
    library = folder / "libcuda.so.1"
    subprocess.run(["gcc", "-w", "-shared", "-fPIC", *options, folder / "driver.c", "-o", library], check=True)
    return {"LD_LIBRARY_PATH": str(folder)}


def test_the_driver_gets_what_a_launch_was_given(run_python: Callable, tmp_path: Path) -> None:
    done = run_python(
        "import torch\n"
        "from sslkernels import _C\n"
        "assert _C.cuda_driver_version() == 13010\n"
        "kernel = _C.cuda_kernel(_C.cuda_load(b'image'), 'gather')\n"
        "_C.cuda_launch(kernel, 3, 77, (5, 2), (32, 8), (2**47 + 1, -1, 0.5, True))\n"
        "find = lambda: _C.cuda_kernel(5, 'absent')\n"
        "launch = lambda: _C.cuda_launch(kernel, 3, 0, (0, 1), (1, 1), (1, 2, 3, 4))\n"
        "for call in (find, launch):\n"
        "    try:\n"
        "        call()\n"
        "    except RuntimeError as error:\n"
        "        print(error, flush=True)\n",
        **driver(tmp_path, "-DUNKNOWN=0"),
    )
    assert done.returncode == 0, done.stderr
    launched, absent, _, refused = done.stdout.splitlines()
    assert json.loads(launched) == [50, 5, 2, 1, 32, 8, 1, 0, 77, 2**47 + 1, -1, 0.5, 1, 1103]
    assert absent == "the CUDA driver could not find kernel absent: named symbol not found (CUDA_ERROR_NOT_FOUND)."
    assert "could not launch a kernel of 0 x 1 blocks" in refused


@pytest.mark.parametrize(
    ("unknown", "counts", "refused"), ((0, (5, 3, 4), (5, 3)), (1, (5, 4), ())), ids=("told", "untold")
)
def test_a_launch_has_as_many_fields_as_the_struct(
    unknown: int, counts: tuple[int, ...], refused: tuple[int, ...], run_python: Callable, tmp_path: Path
) -> None:
    """The struct has 32 bytes, and the driver would read past fewer. One before CUDA 12.4 does not tell."""
    done = run_python(
        "import torch\n"
        "from sslkernels import _C\n"
        "kernel = _C.cuda_kernel(_C.cuda_load(b'image'), 'gather')\n"
        f"for count in {counts}:\n"
        "    try:\n"
        "        _C.cuda_launch(kernel, 3, 77, (5, 2), (32, 8), tuple(range(count)))\n"
        "    except RuntimeError as error:\n"
        "        print(error, flush=True)\n",
        **driver(tmp_path, f"-DUNKNOWN={unknown}"),
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    words = "a kernel's struct has 4 fields and the launch has {}; the compiled kernels are of another version than "
    words += "sslkernels, so install it anew."
    assert lines[: len(refused)] == [words.format(count) for count in refused]
    assert len(lines) == len(counts)  # the other launches came to the driver
