# SPDX-License-Identifier: Apache-2.0
"""The tokens family in loops over float64 numbers, as the papers' definitions read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def gather(x: Array, index: Array, pos: Array | None = None) -> Array:
    out = np.empty((*index.shape, x.shape[2]))
    for b in range(index.shape[0]):
        for k in range(index.shape[1]):
            out[b, k] = x[b, index[b, k]] + (0 if pos is None else pos[index[b, k]])
    return out


def scatter(x: Array, index: Array, length: int, fill: Array) -> Array:
    out = np.empty((x.shape[0], length, x.shape[2]))
    for b in range(x.shape[0]):
        for s in range(length):
            arriving = [x[b, k] for k in range(index.shape[1]) if index[b, k] == s]
            out[b, s] = np.sum(arriving, 0) if arriving else fill
    return out


def restore(visible: Array, ids_restore: Array, token: Array, pos: Array | None = None, prefix: int = 0) -> Array:
    kept = visible.shape[1] - prefix
    out = np.empty((visible.shape[0], prefix + ids_restore.shape[1], visible.shape[2]))
    for b in range(visible.shape[0]):
        out[b, :prefix] = visible[b, :prefix]
        for place, rank in enumerate(ids_restore[b]):
            out[b, prefix + place] = visible[b, prefix + rank] if rank < kept else token
    return out if pos is None else out + pos


def patches(images: Array, index: Array, patch: int) -> Array:
    across = images.shape[3] // patch
    out = np.empty((*index.shape, images.shape[1] * patch * patch))
    for b in range(index.shape[0]):
        for k in range(index.shape[1]):
            top, left = index[b, k] // across * patch, index[b, k] % across * patch
            out[b, k] = images[b, :, top : top + patch, left : left + patch].reshape(-1)
    return out


def masked_mse(pred: Array, target: Array, mask: Array, normalize: bool) -> float:
    total = 0.0
    for b in range(pred.shape[0]):
        for place in range(pred.shape[1]):
            goal = target[b, place]
            if normalize:
                goal = (goal - goal.mean()) / np.sqrt(goal.var(ddof=1) + 1e-6)
            if mask[b, place]:
                total += mask[b, place] * np.mean((pred[b, place] - goal) ** 2)
    return total / max(mask.sum(), 1)


def masked_smooth_l1(pred: Array, target: Array, mask: Array, beta: float, normalize: bool) -> float:
    total = 0.0
    for b in range(pred.shape[0]):
        for place in range(pred.shape[1]):
            goal = target[b, place]
            if normalize:
                goal = (goal - goal.mean()) / np.sqrt(goal.var() + 1e-5)
            if mask[b, place]:
                gaps = np.abs(pred[b, place] - goal)
                total += mask[b, place] * np.mean([g * g / (2 * beta) if g < beta else g - beta / 2 for g in gaps])
    return total / max(mask.sum(), 1)
