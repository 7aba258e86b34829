# SPDX-License-Identifier: Apache-2.0
"""Load the losses of other libraries that ours replace, where they are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def open_clip_losses() -> ModuleType:
    """Load open_clip's file of losses alone; the package needs torchvision."""
    return _load("open_clip", "open_clip_torch", "loss.py")


def solo_learn_losses(name: str) -> ModuleType:
    """Load one of solo-learn's files of losses alone; the package needs much else."""
    return _load("solo", "solo-learn", f"losses/{name}.py")


def _load(package: str, installed: str, file: str) -> ModuleType:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{installed} is not installed.")
    spec = importlib.util.spec_from_file_location(f"original_{Path(file).stem}", Path(found.origin).parent / file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
