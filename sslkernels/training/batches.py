# SPDX-License-Identifier: Apache-2.0
"""Takes images or views out of a loader's batch, and leaves labels and all else."""

from __future__ import annotations

from itertools import takewhile

from torch import Tensor

from sslkernels.arguments import came, shape_of

ACCEPTED = "images, (images, labels), (view, view) or ((view, view), labels)"


def images_of(batch: object) -> Tensor:
    """Take the images out of ``images`` or ``(images, labels, ...)``, so that views can be made of them."""
    parts = [batch] if isinstance(batch, Tensor) else batch
    if isinstance(parts, (tuple, list)) and parts:
        images, *others = parts
        views = isinstance(images, (tuple, list)) or any(_is_alike(other, images) for other in others)
        if views and isinstance(_first(images), Tensor):
            raise ValueError(
                "LitMethod: the batch has several views and views= makes them of one; "
                "leave views= out, or pass a loader that yields images."
            )
        if isinstance(images, Tensor) and images.dim() > 1:
            return images
    raise _refused(batch)


def views_of(batch: object) -> list[Tensor]:
    """Take the views out of ``(view, view, ...)`` or ``((view, view), ...)``; ``view`` and ``(view, labels)`` hold one.

    Views have the same number of dimensions; labels have fewer.
    """
    parts = [batch] if isinstance(batch, Tensor) else batch
    if isinstance(parts, (tuple, list)) and parts and isinstance(parts[0], (tuple, list)):
        parts = parts[0]
    if isinstance(parts, (tuple, list)) and parts and isinstance(parts[0], Tensor) and parts[0].dim() > 1:
        dims = parts[0].dim()
        return list(takewhile(lambda part: isinstance(part, Tensor) and part.dim() == dims, parts))
    raise _refused(batch)


def _first(value: object) -> object:
    return _first(value[0]) if isinstance(value, (tuple, list)) and value else value


def _is_alike(other: object, images: object) -> bool:
    return (
        isinstance(other, Tensor)
        and isinstance(images, Tensor)
        and other.is_floating_point()
        and other.shape == images.shape
    )


def _refused(batch: object) -> Exception:
    if isinstance(batch, Tensor):
        return ValueError(
            f"LitMethod: the batch is a tensor of shape {shape_of(batch)}; pass a loader that yields {ACCEPTED}."
        )
    keys = f" with {', '.join(map(repr, list(batch)[:8]))}" if isinstance(batch, dict) else ""
    holding = f" that begins with {came(batch[0])}" if isinstance(batch, (tuple, list)) and batch else ""
    return TypeError(
        f"LitMethod: the batch is a {type(batch).__name__}{keys}{holding}; pass a loader that yields {ACCEPTED}."
    )
