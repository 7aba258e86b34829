# SPDX-License-Identifier: Apache-2.0
"""The Makefile, the hooks, the workflows and pyproject.toml say the same about each tool."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOOKS, MAKEFILE = ROOT / ".pre-commit-config.yaml", ROOT / "Makefile"
# Files that name targets of the Makefile.
CALLERS = (".ci/run", "CONTRIBUTING.md", "RELEASING.md", "README.md", ".github/pull_request_template.md")

pytestmark = pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="a source distribution leaves the tooling out")


def extra(name: str) -> set[str]:
    """Read the requirements of an optional dependency from pyproject.toml."""
    (line,) = re.findall(rf"^{name} = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    return set(re.findall(r'"([^"]+)"', line))


def test_hooks_run_the_versions_of_the_lint_extra() -> None:
    pinned = re.findall(r'additional_dependencies: \["([^"]+)"\]', HOOKS.read_text())
    assert set(pinned) == extra("lint")


def test_hooks_run_what_make_check_runs() -> None:
    (recipe,) = re.findall(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE.read_text(), re.MULTILINE)
    commands = {
        " ".join(line.split()[:2]) if line.startswith("\truff") else line.split()[0] for line in recipe.splitlines()
    }
    hooks = re.findall(r"entry: (ruff \w+|[\w-]+)", HOOKS.read_text())
    assert set(hooks) == commands


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE.read_text(), re.MULTILINE))


def test_every_named_target_exists() -> None:
    workflows = [path.relative_to(ROOT).as_posix() for path in (ROOT / ".github" / "workflows").glob("*.yml")]
    for caller in (*CALLERS, *workflows):
        text = (ROOT / caller).read_text()
        named = set(re.findall(r"(?:`|^|\brun: |&& )make ([a-z-]+)", text, re.MULTILINE))
        for loop in re.findall(r"for target in ([a-z -]+);", text):
            named.update(loop.split())
        assert named <= targets(), caller


def test_issue_forms_and_workflows_are_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    files = [*(ROOT / ".github").rglob("*.yml"), HOOKS]
    assert len(files) > 5
    for path in files:
        read = yaml.safe_load(path.read_text())
        for part in read.get("body", ()):
            assert {"type", "attributes"} <= set(part), path.name
