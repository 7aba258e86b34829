# SPDX-License-Identifier: Apache-2.0
"""Load the losses of other libraries that ours replace, where they are installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def open_clip_losses() -> ModuleType:
    """Load open_clip's file of losses alone; the package needs torchvision."""
    return _load("open_clip", "open_clip_torch", "loss.py")


def solo_learn_losses(name: str) -> ModuleType:
    """Load one of solo-learn's files of losses alone; the package needs much else."""
    return _load("solo", "solo-learn", f"losses/{name}.py")


def lightly_losses() -> Iterator[Callable[[str, str], Any]]:
    """Yield a function that imports a class of one of lightly's files of losses, for a fixture.

    Its packages import torchvision: empty ones stand in for them.
    """
    found = importlib.util.find_spec("lightly")
    if found is None or found.origin is None:
        pytest.skip("lightly is missing; pip install --no-deps lightly brings it")
    root, before = Path(found.origin).parent, set(sys.modules)
    kept = {name: sys.modules.pop(name) for name in before if name.split(".")[0] == "lightly"}
    for name in ("", ".loss", ".utils", ".models", ".models.modules"):
        package = types.ModuleType(f"lightly{name}")
        package.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules[package.__name__] = package
    # the memory bank imports all of these for one function, which runs on several ranks alone
    utils = sys.modules["lightly.models.utils"] = types.ModuleType("lightly.models.utils")
    sys.modules["lightly.models"].utils = utils  # type: ignore[attr-defined]
    yield lambda file, name: getattr(importlib.import_module(f"lightly.loss.{file}"), name)
    for name in [name for name in sys.modules if name.split(".")[0] == "lightly"]:
        del sys.modules[name]
    sys.modules.update(kept)


def _load(package: str, installed: str, file: str) -> ModuleType:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{installed} is not installed.")
    spec = importlib.util.spec_from_file_location(f"original_{Path(file).stem}", Path(found.origin).parent / file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
