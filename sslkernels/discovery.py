# SPDX-License-Identifier: Apache-2.0
"""Finds what the files of a package define, so that a new file is all that a new method, recipe or reader takes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType


def modules_of(package: str, path: Iterable[str]) -> tuple[dict[str, ModuleType], dict[str, str]]:
    """Import each module of ``package``, whose ``__path__`` is ``path``.

    A file that cannot be imported takes nothing but itself away: the second result has the cause of each failure.
    """
    found, broken = {}, {}
    for _, name, _ in pkgutil.iter_modules(path):
        try:
            found[name] = importlib.import_module(f"{package}.{name}")
        except Exception as error:
            broken[name] = f"{type(error).__name__}: {error}"
    return found, broken
