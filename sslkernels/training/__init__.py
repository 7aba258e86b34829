# SPDX-License-Identifier: Apache-2.0
"""The loop around a method, its checkpoints and its report. Needs the extra ``sslkernels[train]``."""

from __future__ import annotations

from sslkernels.training.config import TrainConfig
from sslkernels.training.module import LitMethod
from sslkernels.training.run import train

__all__ = ["LitMethod", "TrainConfig", "train"]
