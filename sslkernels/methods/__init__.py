# SPDX-License-Identifier: Apache-2.0
"""Reference methods: modules that read like their paper and know nothing of loops, devices or files."""

from __future__ import annotations

from sslkernels.methods.barlow_twins import BarlowTwins
from sslkernels.methods.byol import BYOL
from sslkernels.methods.i_jepa import IJEPA
from sslkernels.methods.mae import MAE
from sslkernels.methods.method import Method
from sslkernels.methods.moby import MoBY
from sslkernels.methods.moco_v2 import MoCoV2
from sslkernels.methods.moco_v3 import MoCoV3
from sslkernels.methods.simclr import SimCLR
from sslkernels.methods.simsiam import SimSiam
from sslkernels.methods.vicreg import VICReg

METHODS: dict[str, type[Method]] = {
    "barlow_twins": BarlowTwins,
    "byol": BYOL,
    "i_jepa": IJEPA,
    "mae": MAE,
    "moby": MoBY,
    "moco_v2": MoCoV2,
    "moco_v3": MoCoV3,
    "simclr": SimCLR,
    "simsiam": SimSiam,
    "vicreg": VICReg,
}


def available() -> list[str]:
    """Names of the methods, as ``sslkernels train`` takes them.

    >>> import sslkernels.methods
    >>> sslkernels.methods.available()[:6]
    ['barlow_twins', 'byol', 'i_jepa', 'mae', 'moby', 'moco_v2']
    """
    return sorted(METHODS)


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
