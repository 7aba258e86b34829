# SPDX-License-Identifier: Apache-2.0
"""The pages people copy from run as they stand, and the reference names everything public with its real arguments."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import sslkernels.functional
import sslkernels.losses
import sslkernels.methods

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/training.md", "docs/functions.md")
REFERENCE = ROOT / "docs" / "api"
# Modules whose names the reference lists; what `sslkernels` itself has stands under `state` and `backends`.
MODULES = [
    f"sslkernels.{name}" for name in ("functional", "losses", "state", "methods", "models", "evaluation", "training")
]


@pytest.mark.parametrize("page", PAGES)
def test_snippets_run(page, run_python):
    snippets = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    assert snippets
    done = run_python("\n".join(snippets))
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_readme_names_everything_there_is() -> None:
    named = set(re.findall(r"`(\w+)`", (ROOT / "README.md").read_text()))
    assert {*sslkernels.functional.__all__, *sslkernels.losses.__all__, *sslkernels.methods.available()} <= named


def test_the_reference_lists_every_public_name() -> None:
    entries = {entry for page in REFERENCE.glob("*.md") for entry in re.findall(r"^::: (\S+)", page.read_text(), re.M)}
    assert set(MODULES) <= entries
    for module in map(importlib.import_module, MODULES):
        # A function that is named as its module is missing in the list of the package, and has an entry of its own.
        files = {found.name for found in pkgutil.iter_modules(getattr(module, "__path__", ()))}
        for name in files.intersection(module.__all__):
            assert f"{module.__name__}.{name}.{name}" in entries


@pytest.mark.parametrize("module", MODULES)
def test_documented_arguments_exist(module: str) -> None:
    holder = importlib.import_module(module)
    for name in holder.__all__:
        thing = getattr(holder, name)
        (section,) = re.findall(r"^Args:\n((?:(?: .*)?\n?)*)", inspect.getdoc(thing) or "", re.MULTILINE) or [""]
        documented = re.findall(r"^    (\w+(?:, \w+)*):", section, re.MULTILINE)
        taken = inspect.signature(thing).parameters if callable(thing) else {}
        for argument in ", ".join(documented).split(", ") if documented else ():
            assert argument in taken, f"{name} has no argument {argument}"
