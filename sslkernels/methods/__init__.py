# SPDX-License-Identifier: Apache-2.0
"""Reference methods: modules that read like their paper and know nothing of loops, devices or files."""

from __future__ import annotations

from collections.abc import Callable

from sslkernels.methods.barlow_twins import BarlowTwins
from sslkernels.methods.method import Method
from sslkernels.methods.simclr import SimCLR
from sslkernels.methods.vicreg import VICReg

METHODS: dict[str, Callable[..., Method]] = {"barlow_twins": BarlowTwins, "simclr": SimCLR, "vicreg": VICReg}


def available() -> list[str]:
    """Names of the methods, as ``sslkernels train`` takes them.

    >>> import sslkernels.methods
    >>> sslkernels.methods.available()
    ['barlow_twins', 'simclr', 'vicreg']
    """
    return sorted(METHODS)


__all__ = ["METHODS", "BarlowTwins", "Method", "SimCLR", "VICReg", "available"]
