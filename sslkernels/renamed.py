# SPDX-License-Identifier: Apache-2.0
"""Old names of public things keep working for a while, and say what they are called now."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any


def renamed(module: str, /, *, removal: str, **names: str) -> Callable[[str], Any]:
    """Let ``module`` answer to old names of what is in it: assign the result to its ``__getattr__``.

    Each old name warns once, with the new name and the version that takes the old one away. It works for whatever a
    module holds (functions, classes, constants), in ``module.old`` and in ``from module import old``.

    Args:
        module: the module's ``__name__``.
        removal: the version in which the old names are gone.
        names: the new name for each old one, ``old="new"``.

    Example, in the module that once had ``pair_loss`` and has ``nt_xent`` now:

    >>> import types, warnings
    >>> losses = types.ModuleType("losses")
    >>> losses.nt_xent = lambda z0, z1: "the loss"
    >>> sys.modules["losses"] = losses
    >>> losses.__getattr__ = renamed("losses", removal="0.3", pair_loss="nt_xent")
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     losses.pair_loss(0, 1)
    'the loss'
    >>> print(caught[0].message)
    losses.pair_loss is now called losses.nt_xent; the old name is gone in version 0.3.
    """
    warned: set[str] = set()

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        if name not in warned:
            warned.add(name)
            warnings.warn(
                f"{module}.{name} is now called {module}.{names[name]}; the old name is gone in version {removal}.",
                DeprecationWarning,
                stacklevel=2,
            )
        return getattr(sys.modules[module], names[name])

    return __getattr__
