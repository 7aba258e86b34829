# SPDX-License-Identifier: Apache-2.0
"""The files that come back, at most eight. Each is valid whenever the machine is taken away. Nothing needs torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

NAMES = (
    "env.json", "build.log", "smoke.jsonl", "bench.jsonl", "junit.xml", "pytest.log", "sanitizer.log", "ncu.csv",
)  # fmt: skip


def append(path: Path, text: str) -> None:
    """Add text in one write, so that several processes may do so, and come back when it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_json(path: Path, record: dict[str, Any]) -> None:
    append(path, json.dumps(record) + "\n")


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines. A line that a kill tore is none of them."""
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def update(path: Path, **fields: Any) -> dict[str, Any]:
    """Set fields of a JSON object. Whoever reads it sees the old one or the new one."""
    known = {**(json.loads(path.read_text()) if path.exists() else {}), **fields}
    replace(path, json.dumps(known, indent=1) + "\n")
    return known


def replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    os.replace(part, path)


def out() -> Path:
    """The folder of the results."""
    return Path(os.environ["SSLKERNELS_DEVICE_OUT"])


def work() -> Path:
    """The folder of what is built and cached."""
    return Path(os.environ["SSLKERNELS_DEVICE_WORK"])


def junit(tests: dict[str, dict[str, Any]]) -> str:
    """The XML of JUnit for what is known of each test. One that did not end counts as an error."""
    told = {"failed": "failure", "error": "error", "unfinished": "error", "skipped": "skipped"}
    outcomes = [test["outcome"] for test in tests.values()]
    counts = {f"{kind}s" if kind != "skipped" else kind: 0 for kind in ("failure", "error", "skipped")}
    for outcome in outcomes:
        kind = told.get(outcome)
        if kind:
            counts[f"{kind}s" if kind != "skipped" else kind] += 1
    suites = ElementTree.Element("testsuites")
    numbers = {name: str(count) for name, count in counts.items()}
    suite = ElementTree.SubElement(suites, "testsuite", name="gpu", tests=str(len(tests)), **numbers)
    for name, test in tests.items():
        file, _, rest = name.partition("::")
        case = ElementTree.SubElement(
            suite, "testcase", classname=file, name=printable(rest), time=f"{test.get('seconds', 0):.3f}"
        )
        if test["outcome"] in told:
            message = printable(test.get("why") or test["outcome"])
            ElementTree.SubElement(case, told[test["outcome"]], message=message[:500]).text = message
    return ElementTree.tostring(suites, encoding="unicode")


def printable(text: str) -> str:
    """XML has no place for most control characters."""
    return "".join(each if each.isprintable() or each == "\n" else " " for each in text)
