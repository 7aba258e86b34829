# SPDX-License-Identifier: Apache-2.0
"""Takes the colour from parts of images, so that no task is solved by it."""

from __future__ import annotations

import torch
from torch import Tensor

# The weights of red, green and blue in grey (ITU-R BT.601).
GREY = (0.299, 0.587, 0.114)


def greyed(parts: Tensor, share: float) -> Tensor:
    """Turn a ``share`` of the parts ``(N, P, C, H, W)`` grey, by chance; parts of one channel stay as they are."""
    count, each, channels = parts.shape[:3]
    if channels != 3 or not share:
        return parts
    lost = torch.rand(count, each, 1, 1, 1, device=parts.device) < share
    light = (parts * parts.new_tensor(GREY).view(3, 1, 1)).sum(2, keepdim=True)
    return torch.where(lost, light, parts)
