# SPDX-License-Identifier: Apache-2.0
"""Reference methods: modules that read like their paper and know nothing of loops, devices or files."""

from __future__ import annotations

from sslkernels.methods.barlow_twins import BarlowTwins
from sslkernels.methods.i_jepa import IJEPA
from sslkernels.methods.mae import MAE
from sslkernels.methods.method import Method
from sslkernels.methods.simclr import SimCLR
from sslkernels.methods.vicreg import VICReg

METHODS: dict[str, type[Method]] = {
    "barlow_twins": BarlowTwins,
    "i_jepa": IJEPA,
    "mae": MAE,
    "simclr": SimCLR,
    "vicreg": VICReg,
}


def available() -> list[str]:
    """Names of the methods, as ``sslkernels train`` takes them.

    >>> import sslkernels.methods
    >>> sslkernels.methods.available()
    ['barlow_twins', 'i_jepa', 'mae', 'simclr', 'vicreg']
    """
    return sorted(METHODS)


__all__ = ["IJEPA", "MAE", "METHODS", "BarlowTwins", "Method", "SimCLR", "VICReg", "available"]
