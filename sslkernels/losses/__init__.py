# SPDX-License-Identifier: Apache-2.0
"""Losses as modules, under the names and arguments of the libraries people come from."""

from sslkernels.losses.similarity import ClipLoss, InfoNCELoss, NTXentLoss

__all__ = ["ClipLoss", "InfoNCELoss", "NTXentLoss"]
