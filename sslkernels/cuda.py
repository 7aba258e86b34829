# SPDX-License-Identifier: Apache-2.0
"""Compiled CUDA kernels: finding their image, loading it, launching."""

from __future__ import annotations

import torch


def why_not(device: torch.device) -> str | None:
    """One sentence that says why CUDA kernels cannot run on ``device``, or None where they can."""
    return "this build has none."
