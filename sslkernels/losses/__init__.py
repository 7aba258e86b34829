# SPDX-License-Identifier: Apache-2.0
"""Losses as modules, with the names and arguments of the libraries that people come from."""

from sslkernels.losses.correlation import BarlowTwinsLoss, VICRegLoss
from sslkernels.losses.cosine import NegativeCosineSimilarity
from sslkernels.losses.covariance import FroSSLLoss, TiCoLoss, VCRegLoss, VIbCRegLoss
from sslkernels.losses.sigreg import LeJEPALoss, SIGReg
from sslkernels.losses.similarity import ClipLoss, InfoNCELoss, NTXentLoss

__all__ = [
    "BarlowTwinsLoss",
    "ClipLoss",
    "FroSSLLoss",
    "InfoNCELoss",
    "LeJEPALoss",
    "NTXentLoss",
    "NegativeCosineSimilarity",
    "SIGReg",
    "TiCoLoss",
    "VCRegLoss",
    "VICRegLoss",
    "VIbCRegLoss",
]
