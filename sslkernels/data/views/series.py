# SPDX-License-Identifier: Apache-2.0
"""Random views of time series, and the changes that they are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import came, check_number, check_rows, check_size, check_tensor, shape_of
from sslkernels.data.views.drawn import Drawn, interpolated, resampled, uniform

SERIES = "(N, C, T)"


class SeriesViews(Drawn):
    """Map standardised series ``(N, C, T)`` to ``count`` views of the same shape.

    A part of half to all of a series is stretched to its length, each channel is scaled by 0.7 to 1.3 and shifted by up
    to 0.3, noise of deviation 0.1 is added, and in a fifth of the series one channel falls silent (after Um et al.
    2017).

    >>> import torch
    >>> from sslkernels.data import SeriesViews
    >>> first, second = SeriesViews()(torch.randn(4, 6, 100))
    >>> first.shape
    torch.Size([4, 6, 100])
    """

    def draw(self, batch: Tensor) -> Tensor:
        check_rows("SeriesViews", "batch", batch, "(N, C, T), standardised", dims=3)
        count, channels, _ = batch.shape
        view = resampled(batch, uniform(0.5, 1, count, like=batch), uniform(0, 1, count, like=batch))
        view = view * uniform(0.7, 1.3, count, channels, 1, like=batch) + uniform(
            -0.3, 0.3, count, channels, 1, like=batch
        )
        view = view + 0.1 * torch.randn_like(view)
        if channels > 1:
            silent = torch.rand(count, device=batch.device) < 0.2
            which = torch.randint(channels, (count,), device=batch.device)
            rows = torch.arange(count, device=batch.device)
            view[rows[silent], which[silent]] = 0
        return view


class Jitter(nn.Module):
    """Add noise to series ``(N, C, T)``: ``x + deviation n``, n standard normal (Um et al. 2017, arXiv 1706.00527).

    >>> import torch
    >>> from sslkernels.data import Jitter
    >>> Jitter()(torch.randn(4, 6, 100)).shape
    torch.Size([4, 6, 100])
    """

    def __init__(self, deviation: float = 0.05) -> None:
        super().__init__()
        self.deviation = check_number("Jitter", "deviation", deviation, least=0)

    @torch.no_grad()
    def forward(self, batch: Tensor) -> Tensor:
        check_rows("Jitter", "batch", batch, SERIES, dims=3)
        return batch + self.deviation * torch.randn_like(batch)


class Scaled(nn.Module):
    """Scale each channel of series ``(N, C, T)`` by a factor of its own: ``s_c x_c`` with ``s_c = 1 + deviation n_c``,
    n standard normal (Um et al. 2017, arXiv 1706.00527).

    >>> import torch
    >>> from sslkernels.data import Scaled
    >>> Scaled()(torch.randn(4, 6, 100)).shape
    torch.Size([4, 6, 100])
    """

    def __init__(self, deviation: float = 0.1) -> None:
        super().__init__()
        self.deviation = check_number("Scaled", "deviation", deviation, least=0)

    @torch.no_grad()
    def forward(self, batch: Tensor) -> Tensor:
        check_rows("Scaled", "batch", batch, SERIES, dims=3)
        return batch * (1 + self.deviation * torch.randn_like(batch[..., :1]))


class ByChance(nn.Module):
    """Changes each series ``(N, C, T)`` of a batch with probability ``p``; a subclass changes all of them.

    A task that asks whether a series was changed draws the rows itself, and calls `applied`.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = check_number(type(self).__name__, "p", p, least=0, most=1)

    @torch.no_grad()
    def forward(self, batch: Tensor) -> Tensor:
        check_rows(type(self).__name__, "batch", batch, SERIES, dims=3)
        return self.applied(batch, torch.rand(len(batch), device=batch.device) < self.p)

    @torch.no_grad()
    def applied(self, x: Tensor, where: Tensor) -> Tensor:
        """Change the rows of ``x (N, C, T)`` that ``where (N,)``, bool, marks, and no others."""
        name = type(self).__name__
        check_rows(name, "x", x, SERIES, dims=3)
        check_tensor(name, "where", where, "(N,), bool")
        if where.dtype != torch.bool or where.shape != x.shape[:1]:
            raise ValueError(f"{name}: where is {came(where)}; pass bool of shape ({len(x)},), an answer for each row.")
        return torch.where(where[:, None, None], self.changed(x), x)

    def changed(self, x: Tensor) -> Tensor:
        """Change every row. Rows that stay draw their numbers too, so that no row's depend on another's fate."""
        raise NotImplementedError


class Reversed(ByChance):
    """Let a series ``(N, C, T)`` run backwards with probability ``p``: ``x_(T-1-t)``.

    One of the tasks on wearable sensors of Saeed et al. 2019 (arXiv 1907.11879). ``applied(x, where)`` turns the rows
    that ``where (N,)``, bool, marks.

    >>> import torch
    >>> from sslkernels.data import Reversed
    >>> Reversed().applied(torch.arange(6.0).view(2, 1, 3), torch.tensor([True, False]))
    tensor([[[2., 1., 0.]],
    <BLANKLINE>
            [[3., 4., 5.]]])
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def changed(self, x: Tensor) -> Tensor:
        return x.flip(2)


class Permuted(ByChance):
    """Cut a series ``(N, C, T)`` into equal segments, and put them in another order, with probability ``p``.

    Segment ``k`` holds the times with ``floor(t segments / T) = k`` (Um et al. 2017, arXiv 1706.00527). The order is
    random and never the old one; where that is drawn, the first segment goes to the end.

    Args:
        segments: number of segments, which a series must have frames for.
        p: probability of each series to be changed.

    ``applied(x, where)`` changes the rows that ``where (N,)``, bool, marks.

    >>> import torch
    >>> from sslkernels.data import Permuted
    >>> Permuted(segments=2)(torch.arange(6.0).view(1, 1, 6))
    tensor([[[3., 4., 5., 0., 1., 2.]]])
    """

    def __init__(self, segments: int = 4, p: float = 1.0) -> None:
        super().__init__(p)
        self.segments = check_size("Permuted", "segments", segments, least=2)

    def changed(self, x: Tensor) -> Tensor:
        count, channels, length = x.shape
        if length < self.segments:
            raise ValueError(
                f"Permuted: batch has shape {shape_of(x)} and there are {self.segments} segments; "
                f"pass series of at least as many frames, or fewer segments."
            )
        places = torch.rand(count, self.segments, device=x.device).argsort(1)  # where each segment goes
        old = torch.arange(self.segments, device=x.device)
        places = torch.where((places == old).all(1, keepdim=True), old.roll(1), places)
        times = torch.arange(length, device=x.device)
        order = (places[:, times * self.segments // length] * length + times).argsort(1)
        return x.gather(2, order[:, None].expand(-1, channels, -1))


class Warped(ByChance):
    """Let a series ``(N, C, T)`` run faster here and slower there, with probability ``p``.

    ``x(w(t))`` by linear interpolation, where w rises from 0 to T-1 at a speed that is exp(deviation n) at ``knots``
    evenly spaced times, n standard normal, and changes evenly from one to the next. So w is smooth and monotone, and
    both ends stay in place. After time warping in Um et al. 2017 (arXiv 1706.00527), where the speed is a cubic spline
    through 1 + deviation n, which may turn negative.

    Args:
        deviation: how far speeds are apart, on the scale of their logarithm.
        knots: number of times that have a speed of their own.
        p: probability of each series to be changed.

    ``applied(x, where)`` changes the rows that ``where (N,)``, bool, marks.

    >>> import torch
    >>> from sslkernels.data import Warped
    >>> Warped()(torch.randn(4, 6, 100)).shape
    torch.Size([4, 6, 100])
    """

    def __init__(self, deviation: float = 0.5, knots: int = 4, p: float = 1.0) -> None:
        super().__init__(p)
        self.deviation = check_number("Warped", "deviation", deviation, least=0)
        self.knots = check_size("Warped", "knots", knots, least=2)

    def changed(self, x: Tensor) -> Tensor:
        count, _, length = x.shape
        speeds = (self.deviation * torch.randn(count, 1, self.knots, device=x.device, dtype=x.dtype)).exp()
        if length == 1:
            return x
        steps = F.interpolate(speeds, length - 1, mode="linear", align_corners=True)[:, 0].cumsum(1)
        times = F.pad(steps / steps[:, -1:] * (length - 1), (1, 0))
        return interpolated(x, times)
