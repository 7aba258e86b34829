# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin that runs the K-th of N parts of the tests, and writes down each as it begins and ends.

It stands for pytest-xdist and pytest-timeout, which may not be there. A test that hangs ends its process, with the
stacks of all threads in the log; what its part still had to do counts as unfinished.
"""

from __future__ import annotations

import faulthandler
import os
from pathlib import Path

import pytest

from device import files

PART, PARTS = (int(os.environ[f"SSLKERNELS_DEVICE_{name}"]) for name in ("PART", "PARTS"))
RESULTS = Path(os.environ["SSLKERNELS_DEVICE_WORK"]) / "tests" / f"{PART}.jsonl"
SECONDS = 60


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mine = items[PART::PARTS]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(mine)])
    items[:] = mine
    for item in mine:
        files.append_json(RESULTS, {"test": item.nodeid, "outcome": "unfinished", "why": "it did not begin"})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> object:
    files.append_json(RESULTS, {"test": item.nodeid, "outcome": "unfinished", "why": "it began and did not end"})
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when != "call" and report.passed:
        return
    outcome = "error" if report.failed and report.when != "call" else report.outcome
    why = str(report.longrepr[2]) if report.skipped and isinstance(report.longrepr, tuple) else report.longreprtext
    found = {"test": report.nodeid, "outcome": outcome, "seconds": report.duration, "why": why[-3000:]}
    files.append_json(RESULTS, found)
