# SPDX-License-Identifier: Apache-2.0
"""Load the losses of other libraries that ours replace, where they are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def open_clip_losses() -> ModuleType:
    """Load open_clip's file of losses alone; the package needs torchvision."""
    found = importlib.util.find_spec("open_clip")
    if found is None or found.origin is None:
        pytest.skip("open_clip_torch is not installed.")
    spec = importlib.util.spec_from_file_location("open_clip_loss", Path(found.origin).with_name("loss.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
