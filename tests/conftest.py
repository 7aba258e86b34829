# SPDX-License-Identifier: Apache-2.0
"""The tests run against the installed package, with the compiled backend present."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# No child process may import the repository's folder of the package's name: it has no compiled module.
os.environ["PYTHONSAFEPATH"] = "1"
# Parallel test processes take two threads each: more would wait for each other, and a single one would hide races.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "2")
# Threads wait without spinning. Otherwise a second busy process makes these small problems a hundred times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A process that a shell starts in the background ignores Ctrl-C, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

TESTS = Path(__file__).parent

hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    max_examples=100,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")


# A run takes a share of a long sweep, another one each day. Workers and child processes take that of the first one.
os.environ.setdefault("SSLK_SHARE", str(datetime.date.today().toordinal()))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one in so many cases of a function that is marked ``share(parts)``.

    SSLK_SHARE is a whole number that says which, or "all". The share is part of every failure's output.
    """
    chosen = os.environ["SSLK_SHARE"]
    if chosen == "all":
        return
    seen: Counter[str] = Counter()
    kept, left = [], []
    for item in items:
        marker = item.get_closest_marker("share")
        parts = marker.args[0] if marker else 1
        function = item.nodeid.partition("[")[0]
        case = zlib.crc32(function.encode()) + seen[function]  # functions of one case take turns
        seen[function] += 1
        (kept if (case + int(chosen)) % parts == 0 else left).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)


def pytest_configure() -> None:
    try:
        from sslkernels.ops.similarity import SIMILARITY
    except ImportError as error:
        raise pytest.UsageError(
            f"{error} The tests need the installed package: run `pip install '.[test]'`, then `pytest` "
            "(or PYTHONSAFEPATH=1 python -m pytest), so that the source folder does not shadow it."
        ) from error
    if SIMILARITY.choose(torch.device("cpu"), torch.float32, None) != "cpu" and "SSLKERNELS_BACKEND" not in os.environ:
        raise pytest.UsageError("The tests need the compiled cpu backend, and another one was chosen.")


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """Give each test a seed of its own, and print it when the test fails."""
    value = zlib.crc32(request.node.name.encode())
    print(f"seed {value}, SSLK_SHARE={os.environ['SSLK_SHARE']}")
    torch.manual_seed(value)
    return value


@pytest.fixture(params=("reference", "cpu"), scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class _PoisonedTorch(ModuleType):
    """Stand for torch, but fill the tensors that `empty` gives with NaN."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def empty(*arguments: Any, **options: Any) -> torch.Tensor:
        return torch.empty(*arguments, **options).fill_(torch.nan)


@pytest.fixture(scope="module")
def poisoned_outputs() -> Iterator[None]:
    """Make numbers come out as NaN if a C++ kernel does not write them, or reads them before it writes."""
    from sslkernels.ops.registry import families

    with pytest.MonkeyPatch.context() as patch:
        for name, family in families().items():
            if "cpu" in family.kernels:
                patch.setattr(f"sslkernels.ops.{name}.cpu.torch", _PoisonedTorch("torch"))
        yield


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a snippet in a fresh interpreter, away from the source folder; the oracle can be imported."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]

    def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run
