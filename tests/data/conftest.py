# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for packages that carry data."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def package(tmp_path, monkeypatch) -> Callable[[str], Path]:
    """Make a package that must not be imported, before any that is installed; its folder."""

    def make(name: str) -> Path:
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text("raise AssertionError('a data package was imported')\n")
        monkeypatch.syspath_prepend(tmp_path / "packages")
        importlib.invalidate_caches()
        return folder

    return make
