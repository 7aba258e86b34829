# SPDX-License-Identifier: Apache-2.0
"""Takes the colour from images, so that no task is solved by it, and says which one it was."""

from __future__ import annotations

import torch
from torch import Tensor

# The weights of red, green and blue in grey (ITU-R BT.601).
GREY = (0.299, 0.587, 0.114)
# Linear red, green and blue to X, Y and Z over those of white (IEC 61966-2-1).
TO_XYZ = (
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)


def greyed(parts: Tensor, share: float) -> Tensor:
    """Turn a ``share`` of the parts ``(N, P, C, H, W)`` grey, by chance; parts of one channel stay as they are."""
    count, each, channels = parts.shape[:3]
    if channels != 3 or not share:
        return parts
    lost = torch.rand(count, each, 1, 1, 1, device=parts.device) < share
    return torch.where(lost, grey(parts), parts)


def grey(images: Tensor) -> Tensor:
    """Turn images ``(..., 3, H, W)`` grey; they keep three channels, all alike."""
    light = (images * images.new_tensor(GREY).view(3, 1, 1)).sum(-3, keepdim=True)
    return light.expand_as(images)


def lab(images: Tensor) -> Tensor:
    """Convert images ``(..., 3, H, W)`` from sRGB in [0, 1] to CIELAB of daylight (D65), over 100."""
    linear = torch.where(images > 0.04045, ((images + 0.055) / 1.055).clamp_min(0) ** 2.4, images / 12.92)
    x, y, z = (torch.einsum("ij,...jhw->...ihw", images.new_tensor(TO_XYZ), linear)).unbind(-3)
    x, y, z = (
        torch.where(t > (6 / 29) ** 3, t.clamp_min(1e-6) ** (1 / 3), t / (3 * (6 / 29) ** 2) + 4 / 29)
        for t in (x, y, z)
    )
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -3) / 100
