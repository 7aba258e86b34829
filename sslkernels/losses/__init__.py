# SPDX-License-Identifier: Apache-2.0
"""Losses as modules, with the names and arguments of the libraries that people come from."""

from sslkernels.losses.capi import CAPILoss
from sslkernels.losses.captions import CoCaLoss
from sslkernels.losses.consistency import CO2Regularizer
from sslkernels.losses.correlation import BarlowTwinsLoss, VICRegLoss
from sslkernels.losses.cosine import NegativeCosineSimilarity, SymNegCosineSimilarityLoss
from sslkernels.losses.covariance import FroSSLLoss, TiCoLoss, VCRegLoss, VIbCRegLoss
from sslkernels.losses.dino import DINOLoss, IBOTPatchLoss
from sslkernels.losses.distill import DistillClipLoss
from sslkernels.losses.koleo import KoLeoLoss
from sslkernels.losses.msn import MSNLoss, PMSNCustomLoss, PMSNLoss
from sslkernels.losses.sigmoid import SigLipLoss
from sslkernels.losses.sigreg import LeJEPALoss, SIGReg
from sslkernels.losses.similarity import ClipLoss, InfoNCELoss, NTXentLoss
from sslkernels.losses.swav import SwaVLoss
from sslkernels.losses.views import DCLLoss, DCLWLoss, DirectCLRLoss, HypersphereLoss, MACLLoss

__all__ = [
    "BarlowTwinsLoss",
    "CAPILoss",
    "ClipLoss",
    "CoCaLoss",
    "DINOLoss",
    "DistillClipLoss",
    "FroSSLLoss",
    "IBOTPatchLoss",
    "InfoNCELoss",
    "KoLeoLoss",
    "LeJEPALoss",
    "MSNLoss",
    "NTXentLoss",
    "NegativeCosineSimilarity",
    "PMSNCustomLoss",
    "PMSNLoss",
    "SIGReg",
    "SigLipLoss",
    "SwaVLoss",
    "TiCoLoss",
    "VCRegLoss",
    "VICRegLoss",
    "VIbCRegLoss",
    "CO2Regularizer",
    "DCLLoss",
    "DCLWLoss",
    "DirectCLRLoss",
    "HypersphereLoss",
    "MACLLoss",
    "SymNegCosineSimilarityLoss",
]
