# SPDX-License-Identifier: Apache-2.0
"""Installs the checkout, and the wheels beside this file, into a folder of their own. Nothing here needs torch.

A rehearsal takes the package that is installed. What was built is built again when a source has changed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WHEELS = HERE / "wheels"
# Libraries that CLIP is timed beside, by their name on PyPI and the module to import.
PEERS = {"memeff": "memeff", "siglip-kernel": "siglip_kernel"}


def main() -> int:
    site = Path(os.environ["SSLKERNELS_DEVICE_WORK"]) / "site"
    _wheels(site)
    installed = importlib.util.find_spec("sslkernels")
    if os.environ.get("SSLKERNELS_DEVICE_REHEARSAL") and installed and installed.origin:
        folder = Path(installed.origin).parent
        if not same_modules(folder):
            print(f"build: {folder} is not the package of this checkout; run `pip install {ROOT}`, or uninstall it.")
            return 1
        print("rehearsal: the installed package is taken as it is.")
        return 0
    stamp, sources = site / "sources", digest()
    if stamp.is_file() and stamp.read_text() == sources:
        print("nothing has changed since it was built.")
        return 0
    variants = "avx512" if "avx512bw" in _cpu() else "avx2" if "avx2" in _cpu() else "baseline"
    for options in ("", " -DSSLK_CUDA=OFF"):
        code = _pip(str(ROOT), site, CMAKE_ARGS=f"-DSSLK_VARIANTS={variants}{options}")
        if code == 0:
            stamp.write_text(sources)
            return 0
        print("the CUDA kernels could not be built; they are compiled where they run, which needs cupy and NVRTC.")
    return code


def same_modules(folder: Path) -> bool:
    """Say if an installed package has the Python modules of this checkout."""
    sources = ROOT / "sslkernels"
    paths = [path.relative_to(sources) for path in sources.rglob("*.py")]
    return all(
        (folder / path).is_file() and (folder / path).read_bytes() == (sources / path).read_bytes() for path in paths
    )


def digest() -> str:
    """The sha256 of everything that the package is built from."""
    found = hashlib.sha256()
    for folder in ("sslkernels", "csrc"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".pyi", ".h", ".cpp", ".cu", ".cuh") and "__pycache__" not in path.parts:
                found.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    for name in ("pyproject.toml", "CMakeLists.txt"):
        found.update((ROOT / name).read_bytes())
    return found.hexdigest()


def _wheels(site: Path) -> None:
    for wheel in sorted(WHEELS.glob("*.whl")):
        distribution = "-".join(wheel.name.split("-")[:2])
        if not (site / f"{distribution}.dist-info").exists() and _pip_install([str(wheel)], site):
            print(f"{wheel.name} could not be installed.")
    for package, module in PEERS.items():
        if not (site / module).exists() and importlib.util.find_spec(module) is None:
            print(f"{package} is absent: neither installed nor a wheel in {WHEELS.relative_to(ROOT)}; it is not timed.")


def _pip(what: str, site: Path, **environment: str) -> int:
    return _pip_install(["--no-build-isolation", what], site, **environment)


def _pip_install(arguments: list[str], site: Path, **environment: str) -> int:
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-cache-dir", "--no-compile"]
    jobs = str(os.cpu_count() or 1)
    shared = {"MAX_JOBS": jobs, "CMAKE_BUILD_PARALLEL_LEVEL": jobs}
    done = subprocess.run(
        [*command, "--upgrade", "--target", str(site), *arguments], env={**os.environ, **shared, **environment}
    )
    return done.returncode


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    if shutil.which("nvcc") is None:
        print("nvcc is absent.")
    try:
        print("pip", importlib.metadata.version("pip"))
    except importlib.metadata.PackageNotFoundError:
        print("pip is absent.")
    sys.exit(main())
