# SPDX-License-Identifier: Apache-2.0
"""Takes images or views out of a loader's batch, and leaves labels and all else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from torch import Tensor

from sslkernels.arguments import came, shape_of
from sslkernels.data import Graphs

ACCEPTED = "images, (images, labels), (view, view) or ((view, view), labels)"


def images_of(batch: object) -> Any:
    """Take the images out of ``images`` or ``(images, labels, ...)``, so that views can be made of them."""
    parts = [batch] if isinstance(batch, (Tensor, Graphs)) else batch
    if isinstance(parts, (tuple, list)) and parts:
        images, *others = parts
        views = isinstance(images, (tuple, list)) or any(_is_alike(other, images) for other in others)
        if views and isinstance(_first(images), Tensor):
            raise ValueError(
                "LitMethod: the batch has several views and views= makes them of one; "
                "leave views= out, or pass a loader that yields images."
            )
        if (isinstance(images, Tensor) and images.dim() > 1) or isinstance(images, Graphs):
            return images
    raise _refused(batch)


def views_of(batch: object) -> list[Any]:
    """Take the views out of ``(view, view, ...)`` or ``((view, view), ...)``; ``view`` and ``(view, labels)`` hold one.

    Views have the same number of dimensions; labels have fewer.
    """
    parts = [batch] if isinstance(batch, (Tensor, Graphs)) else batch
    if isinstance(parts, (tuple, list)) and parts and isinstance(parts[0], (tuple, list)):
        parts = parts[0]
    if isinstance(parts, (tuple, list)) and parts and isinstance(parts[0], Graphs):
        return list(takewhile(lambda part: isinstance(part, Graphs), parts))
    if isinstance(parts, (tuple, list)) and parts and isinstance(parts[0], Tensor) and parts[0].dim() > 1:
        dims = parts[0].dim()
        return list(takewhile(lambda part: isinstance(part, Tensor) and part.dim() == dims, parts))
    raise _refused(batch)


def given_of(batch: object, needs: Sequence[str]) -> dict[str, Tensor]:
    """Take what a method ``needs`` out of the dictionary that ends a batch: ``(images, {"index": ...})``."""
    if not needs:
        return {}
    last = batch[-1] if isinstance(batch, (tuple, list)) and batch else None
    if not isinstance(last, Mapping) or not set(needs) <= set(last):
        raise ValueError(
            f"LitMethod: the method needs {', '.join(needs)} of each sample and the batch ends in {came(last)}; pass a "
            f"loader that yields (images, {{{', '.join(f'{name!r}: ...' for name in needs)}}})."
        )
    return {name: last[name] for name in needs}


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
