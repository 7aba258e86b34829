# SPDX-License-Identifier: Apache-2.0
"""Readers of data sets: each function ``load_NAME`` in a file beside this one reads what ``--data NAME`` names.

A reader of files takes their ``path`` first. Its keyword-only arguments are the settings of the spec
``NAME:PATH?setting=value``. The first line of its docstring says what the data is, and ``MODALITY`` in its file which
form its samples have.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from sslkernels.data.dataset import Dataset
from sslkernels.discovery import modules_of

PREFIX = "load_"
_MODULES, BROKEN = modules_of(__name__, __path__)


def _defined(module: ModuleType) -> dict[str, Callable[..., Dataset]]:
    return {
        name.removeprefix(PREFIX): value
        for name, value in vars(module).items()
        if name.startswith(PREFIX) and callable(value) and value.__module__ == module.__name__
    }


READERS = dict(sorted((name, reader) for module in _MODULES.values() for name, reader in _defined(module).items()))
# The modality of each reader's samples, by its name.
MODALITY_OF = {name: module.MODALITY for module in _MODULES.values() for name in _defined(module)}
