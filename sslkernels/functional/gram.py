# SPDX-License-Identifier: Apache-2.0
"""Keep the similarities of an image's patches as a teacher has them: the loss between two Gram matrices (DINOv3).

With the rows X of the student, Y of the teacher, E = X - Y and S = X + Y,

    X X^T - Y Y^T = (S E^T + E S^T) / 2      dX = 4 / (B P^2) * (X X^T - Y Y^T) X

The right side is a sum of small products where student and teacher agree, and the left one the difference of large
ones, whose rounding would be larger than it. Its second product is the transpose of the first: of whole images one is
multiplied. Tiles of the (P, P) matrices live inside the call alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.arguments import check_choice, check_device, check_flag, check_rows, shape_of
from sslkernels.ops.dtypes import wide
from sslkernels.ops.one_call import in_one_call
from sslkernels.ops.rows.schema import ROWS, unit_backward, unit_forward

CLIPS = ("none", "both", "teacher")
TILE = 1 << 23  # pairs at a time: 32 MiB of float32. An image of 2304 patches, DINOv3's, is whole


def gram_loss(
    x: Tensor, target: Tensor, *, normalize: bool = True, clip: str = "none", backend: str | None = None
) -> Tensor:
    """Let the patches of each image be as similar to each other as the teacher's are (Gram anchoring of DINOv3, 2025).

    The mean over images and pairs of patches of ``(<x_i, x_j> - <y_i, y_j>)^2``.

    Args:
        x: the student's patches ``(B, P, D)``, ``B, P >= 1``. All dtypes are computed in float32, float64 in itself.
        target: the teacher's, y, ``(B, P, E)``, in any dtype; they get no gradient. E need not be D.
        normalize: divide rows by ``max(norm, 1e-12)``.
        clip: ``"both"`` takes similarities below zero for zero. ``"teacher"`` does so where the teacher's is below
            zero, and leaves a student's that is below zero beside one that is not.
        backend: of the norms; products of rows are PyTorch's.

    Returns:
        0-dim float32 (float64 for float64 patches).

    Raises:
        ValueError, TypeError: shapes or dtypes that do not fit, no patches.

    Where E is D a small loss keeps its digits, since only small numbers are summed; where it is not, both similarities
    are computed and subtracted.

    Cost: ``2*B*P^2*D`` operations for the value and 4 with the gradient, 2 more with ``clip`` or an E that is not D, or
    beyond 2896 patches. ``O(B*P*D)`` memory and tiles of 2^23 pairs, never all pairs of all images. To compare all
    images' patches with each other, pass ``x.flatten(0, 1)[None]``. Ranks have nothing to exchange.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.gram_loss(torch.eye(2)[None], torch.ones(1, 2, 2))
    tensor(0.5000)
    """
    check_rows("gram_loss", "x", x, "(B, P, D)", dims=3)
    check_rows("gram_loss", "target", target, "(B, P, E)", dims=3)
    if x.shape[:2] != target.shape[:2] or 0 in x.shape[:2]:
        raise ValueError(
            f"gram_loss: x has shape {shape_of(x)} and target {shape_of(target)}; "
            "pass the same patches of the same images, at least one."
        )
    check_device("gram_loss", "target", target, "x", x)
    normalize = check_flag("gram_loss", "normalize", normalize)
    clip = check_choice("gram_loss", "clip", clip, CLIPS)
    asked = _Gram(normalize, clip, ROWS.choose(x.device, wide(x.dtype), backend))
    return in_one_call(_gram, asked, x, target.detach())


class _Gram(NamedTuple):
    normalize: bool
    clip: str
    backend: str


def _gram(asked: _Gram, needs: tuple[bool, ...], x: Tensor, target: Tensor) -> tuple[Any, ...]:
    dtype = wide(x.dtype)
    rows, norms = _unit(asked, x, dtype)
    others, _ = _unit(asked, target, dtype)
    images, patches, _ = x.shape
    share = 1 / (images * patches**2)
    value = rows.new_zeros(())
    grad = torch.empty_like(rows) if needs[0] else None
    with torch.autocast(x.device.type, enabled=False):
        for some, part in _tiles(images, patches):
            difference, slope = _compared(asked.clip, rows[some], others[some], part)
            value = value + difference.square().sum()
            if grad is not None:
                torch.bmm(slope * (4 * share), rows[some], out=grad[some, part])
    if grad is not None and asked.normalize:
        flat = grad.flatten(0, 1)
        grad = unit_backward(rows.flatten(0, 1), norms, flat, len(flat), dtype, asked.backend)[0].view(x.shape)
    return share * value, grad, None


def _unit(asked: _Gram, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if not asked.normalize:
        return x.to(dtype), x
    unit, norms = unit_forward(x.flatten(0, 1), None, dtype, asked.backend)
    return unit.view(x.shape), norms


def _tiles(images: int, patches: int) -> Iterator[tuple[slice, slice]]:
    """Cut the pairs into tiles: several whole images, or some rows of one."""
    together = max(1, TILE // patches**2)
    height = patches if together > 1 else max(1, min(patches, TILE // patches))
    for image in range(0, images, together):
        for row in range(0, patches, height):
            yield slice(image, image + together), slice(row, min(row + height, patches))


def _compared(clip: str, x: Tensor, y: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """Subtract the teacher's similarities of rows ``part`` from the student's; return that, and half its slopes."""
    if x.shape[2] == y.shape[2]:
        apart, both = x - y, x + y
        difference = torch.bmm(both[:, part], apart.transpose(1, 2))
        if difference.shape[1] == difference.shape[2]:
            difference = (difference + difference.transpose(1, 2)).div_(2)
        else:
            difference = torch.baddbmm(difference, apart[:, part], both.transpose(1, 2), beta=0.5, alpha=0.5)
    else:
        difference = torch.bmm(x[:, part], x.transpose(1, 2)) - torch.bmm(y[:, part], y.transpose(1, 2))
    if clip == "none":
        return difference, difference
    teacher = torch.bmm(y[:, part], y.transpose(1, 2))
    clipped = torch.where(teacher < 0, (teacher + difference).relu(), difference)
    if clip == "teacher":
        return clipped, clipped
    below = difference < -teacher  # the student's are below zero
    return torch.maximum(clipped, -teacher.clamp_min(0)), clipped.masked_fill(below, 0)
