# SPDX-License-Identifier: Apache-2.0
"""Draws several random views of a batch, from torch's random state so that a resumed run repeats them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_kind, check_module, check_size, check_tensor, shape_of


class Drawn(nn.Module):
    """Map a batch to a tuple of ``count`` views of it; a subclass draws one.

    Where there is a single view, hiding a part varies the sample enough, and it stays as it is.
    """

    def __init__(self, count: int = 2) -> None:
        super().__init__()
        self.count = check_size(type(self).__name__, "count", count)

    @torch.no_grad()
    def forward(self, batch: Any) -> tuple[Any, ...]:
        return (batch,) if self.count == 1 else tuple(self.draw(batch) for _ in range(self.count))

    def draw(self, batch: Any) -> Any:
        """Draw one view of every sample."""
        raise NotImplementedError


class Views(Drawn):
    """Map a batch to ``count`` views, each drawn by ``transform``, or by several one after the other.

    Args:
        transform: maps a batch to a changed batch, each sample by numbers of its own; all that it draws comes from
            torch's random state. What it remembers of other batches is saved as buffers are.
        count: number of views.

    >>> import torch
    >>> from sslkernels.data import Views
    >>> first, second = Views(torch.nn.Dropout(0.2))(torch.ones(4, 9))
    >>> first.shape
    torch.Size([4, 9])
    """

    def __init__(self, transform: nn.Module, count: int = 2) -> None:
        super().__init__(count)
        self.transform = check_module("Views", "transform", transform)

    def draw(self, batch: Any) -> Any:
        return self.transform(batch)


class Shots(nn.Module):
    """Map samples of several shots ``(N, S, ...)`` to ``count`` views: the first is drawn of each sample's first shot,
    the second of its second, and so on, beginning again after the last.

    Args:
        views: draws a view of a shot.
        count: number of views.

    >>> import torch
    >>> from sslkernels.data import SeriesViews, Shots
    >>> first, second = Shots(SeriesViews(), 2)(torch.randn(4, 3, 6, 100))
    >>> first.shape
    torch.Size([4, 6, 100])
    """

    def __init__(self, views: Drawn, count: int) -> None:
        super().__init__()
        self.views = check_kind("Shots", "views", views, Drawn, "views of samples such as SeriesViews()")
        self.count = check_size("Shots", "count", count)

    @torch.no_grad()
    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        check_tensor("Shots", "batch", batch, "(N, S, ...)")
        if batch.dim() < 3:
            raise ValueError(f"Shots: batch has shape {shape_of(batch)}; pass (N, S, ...), all shots of each sample.")
        shots = torch.cat([batch[:, view % batch.shape[1]] for view in range(self.count)])
        return self.views.draw(shots).chunk(self.count)


def uniform(low: float, high: float, *shape: int, like: Tensor) -> Tensor:
    """Draw evenly from ``low`` to ``high``, on the device and in the dtype of ``like``."""
    return torch.rand(*shape, device=like.device, dtype=like.dtype) * (high - low) + low


def resampled(rows: Tensor, shares: Tensor, starts: Tensor) -> Tensor:
    """Stretch a part of each row ``(N, C, T)`` to the whole of it, by linear interpolation.

    ``shares (N,)`` of the length are kept, beginning at ``starts (N,)`` of what is left over.
    """
    length = rows.shape[2]
    span = shares * (length - 1)
    return interpolated(rows, (length - 1 - span)[:, None] * starts[:, None] + span[:, None] * ramp(rows))


def ramp(rows: Tensor) -> Tensor:
    """Rise evenly from 0 to 1 over the last axis of ``rows``."""
    return torch.linspace(0, 1, rows.shape[-1], device=rows.device, dtype=rows.dtype)


def interpolated(rows: Tensor, places: Tensor) -> Tensor:
    """Read each row ``(N, C, T)`` at its ``places (N, L)``, from 0 to ``T - 1``, by linear interpolation."""
    last = rows.shape[2] - 1
    low = places.floor().clamp(max=last)
    index = low.long()[:, None].expand(-1, rows.shape[1], -1)
    first, second = rows.gather(2, index), rows.gather(2, (index + 1).clamp(max=last))
    return first + (second - first) * (places - low)[:, None]
