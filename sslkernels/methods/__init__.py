# SPDX-License-Identifier: Apache-2.0
"""Reference methods: each reads like its paper and knows nothing of loops, devices or files."""

from __future__ import annotations

import importlib
import pkgutil
from collections import defaultdict
from dataclasses import replace

from sslkernels.methods.barlow_twins import BarlowTwins
from sslkernels.methods.byol import BYOL
from sslkernels.methods.i_jepa import IJEPA
from sslkernels.methods.mae import MAE
from sslkernels.methods.method import Method
from sslkernels.methods.moby import MoBY
from sslkernels.methods.moco_v2 import MoCoV2
from sslkernels.methods.moco_v3 import MoCoV3
from sslkernels.methods.options import SHARED, Option
from sslkernels.methods.simclr import SimCLR
from sslkernels.methods.simsiam import SimSiam
from sslkernels.methods.vicreg import VICReg


def _found() -> dict[str, type[Method]]:
    """Find the class with a preset in each file beside this one, and name it after the file."""
    found = {}
    for _, name, _ in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{name}")
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__ == module.__name__ and "preset" in vars(value):
                found[name] = value
    return found


METHODS = _found()


def available() -> list[str]:
    """Names of the methods, as ``sslkernels train`` takes them.

    >>> import sslkernels.methods
    >>> [name for name in sslkernels.methods.available() if name.startswith("moco")]
    ['moco_v2', 'moco_v3']
    """
    return sorted(METHODS)


def all_options() -> dict[str, Option]:
    """Every option that a method has, the shared ones first, with the methods' names in its words."""
    own: dict[str, Option] = {}
    having: dict[str, list[str]] = defaultdict(list)
    for method in sorted(METHODS, key=lambda name: METHODS[name].arxiv):
        for name, option in METHODS[method].own_options().items():
            own[name] = option
            having[name].append(method)
    ordered = [name for name in SHARED if name in own] + [name for name in own if name not in SHARED]
    return {name: replace(own[name], words=own[name].words.format(methods=_listed(having[name]))) for name in ordered}


def _listed(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


__all__ = [
    "BYOL",
    "IJEPA",
    "MAE",
    "METHODS",
    "BarlowTwins",
    "Method",
    "MoBY",
    "MoCoV2",
    "MoCoV3",
    "SimCLR",
    "SimSiam",
    "VICReg",
    "available",
]
