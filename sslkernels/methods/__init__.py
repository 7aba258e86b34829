# SPDX-License-Identifier: Apache-2.0
"""Reference methods: each reads like its paper and knows nothing of loops, devices or files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sslkernels.discovery import modules_of
from sslkernels.methods.auxiliary import Auxiliary
from sslkernels.methods.method import Method

if TYPE_CHECKING:
    from sslkernels.methods.barlow_twins import BarlowTwins as BarlowTwins
    from sslkernels.methods.byol import BYOL as BYOL
    from sslkernels.methods.ca_dino import CADINO as CADINO
    from sslkernels.methods.capi import CAPI as CAPI
    from sslkernels.methods.clip import CLIP as CLIP
    from sslkernels.methods.collossl import ColloSSL as ColloSSL
    from sslkernels.methods.cribo import CrIBo as CrIBo
    from sslkernels.methods.dcl import DCL as DCL
    from sslkernels.methods.deep_cluster_v2 import DeepClusterV2 as DeepClusterV2
    from sslkernels.methods.dense_cl import DenseCL as DenseCL
    from sslkernels.methods.diet import DIET as DIET
    from sslkernels.methods.dino import DINO as DINO
    from sslkernels.methods.dinov2 import DINOv2 as DINOv2
    from sslkernels.methods.dlg_lc import DLGLC as DLGLC
    from sslkernels.methods.fassl import FASSL as FASSL
    from sslkernels.methods.featex import FeatEx as FeatEx
    from sslkernels.methods.genview import GenView as GenView
    from sslkernels.methods.groco import GroCo as GroCo
    from sslkernels.methods.halp import HaLP as HaLP
    from sslkernels.methods.i_jepa import IJEPA as IJEPA
    from sslkernels.methods.ibot import IBOT as IBOT
    from sslkernels.methods.mae import MAE as MAE
    from sslkernels.methods.margin_classifier import MarginClassifier as MarginClassifier
    from sslkernels.methods.mls import MLS as MLS
    from sslkernels.methods.moby import MoBY as MoBY
    from sslkernels.methods.moco_v2 import MoCoV2 as MoCoV2
    from sslkernels.methods.moco_v3 import MoCoV3 as MoCoV3
    from sslkernels.methods.mokd import MOKD as MOKD
    from sslkernels.methods.msn import MSN as MSN
    from sslkernels.methods.mugs import Mugs as Mugs
    from sslkernels.methods.nnclr import NNCLR as NNCLR
    from sslkernels.methods.pal import PAL as PAL
    from sslkernels.methods.pirl import PIRL as PIRL
    from sslkernels.methods.pmsn import PMSN as PMSN
    from sslkernels.methods.pretext import Pretext as Pretext
    from sslkernels.methods.proto_clr import ProtoCLR as ProtoCLR
    from sslkernels.methods.relational_reasoning import RelationalReasoning as RelationalReasoning
    from sslkernels.methods.ressl import ReSSL as ReSSL
    from sslkernels.methods.sce import SCE as SCE
    from sslkernels.methods.scfs import SCFS as SCFS
    from sslkernels.methods.sie import SIE as SIE
    from sslkernels.methods.simclr import SimCLR as SimCLR
    from sslkernels.methods.simsiam import SimSiam as SimSiam
    from sslkernels.methods.slice_cluster import SliceCluster as SliceCluster
    from sslkernels.methods.ss_terrain import SSTerrain as SSTerrain
    from sslkernels.methods.sup_con import SupCon as SupCon
    from sslkernels.methods.swav import SwAV as SwAV
    from sslkernels.methods.transitive import Transitive as Transitive
    from sslkernels.methods.tri_byol import TriBYOL as TriBYOL
    from sslkernels.methods.uvc import UVC as UVC
    from sslkernels.methods.vi_simsiam import VISimSiam as VISimSiam
    from sslkernels.methods.vicreg import VICReg as VICReg

_MODULES, BROKEN = modules_of(__name__, __path__)


def _found() -> dict[str, type[Method]]:
    """Find the class with numbers of its own in each file beside this one, and name it after the file."""
    found = {}
    for name, module in _MODULES.items():
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__ == module.__name__ and "small" in vars(value):
                found[name] = value
    return found


METHODS = _found()
globals().update({method.__name__: method for method in METHODS.values()})
__all__ = ["METHODS", "Auxiliary", "Method", "available", *sorted(method.__name__ for method in METHODS.values())]


def available() -> list[str]:
    """Names of the methods, as ``sslkernels train`` takes them.

    >>> import sslkernels.methods
    >>> [name for name in sslkernels.methods.available() if name.startswith("moco")]
    ['moco_v2', 'moco_v3']
    """
    return sorted(METHODS)
