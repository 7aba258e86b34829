# SPDX-License-Identifier: Apache-2.0
"""The commands of `pytest -m gpu` in parts beside each other, and junit.xml from what they wrote down."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from device import files

ROOT = Path(__file__).resolve().parents[2]


def commands(parts: int) -> list[list[str]]:
    """A command for each part. Only files that have such a test are collected."""
    folder = files.work() / "tests"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = sorted(str(path) for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text())
    # The project's own options ask for pytest-xdist.
    options = ["-q", "-o", "addopts=", "--strict-markers", "-m", "gpu", "-p", "no:cacheprovider", "-p", "device.shard"]
    return [
        ["env", f"SSLKERNELS_DEVICE_PART={part}", f"SSLKERNELS_DEVICE_PARTS={parts}",
         sys.executable, "-m", "pytest", f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml"), *options, *found]
        for part in range(parts)
    ]  # fmt: skip


def results() -> dict[str, dict[str, object]]:
    """The last word on each test. A failed teardown does not hide behind a passed call, nor a failure behind that."""
    found: dict[str, dict[str, object]] = {}
    for path in sorted((files.work() / "tests").glob("*.jsonl")):
        for line in files.lines(path):
            known = found.get(line["test"], {})
            if known.get("outcome") not in ("failed", "error"):
                found[line["test"]] = line
    return found


def write() -> None:
    """Write junit.xml."""
    files.replace(files.out() / "junit.xml", files.junit(results()))


def parts() -> int:
    """As many parts as there are processors for, while each brings torch and a context of the device."""
    return max(1, min(12, (os.cpu_count() or 1) - 4))
