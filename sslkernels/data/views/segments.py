# SPDX-License-Identifier: Apache-2.0
"""Draws long and short segments of every sound."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_module, check_number, check_size
from sslkernels.data.views.audio import FRAMES, check_sounds


class Segments(nn.Module):
    """Map log-mel spectrograms ``(N, 1, mels, frames)`` to ``long`` segments of their time, and ``short`` ones.

    A voice is the same in all parts of what it says, so that methods learn voices from segments of one utterance; long
    and short ones are those of DINO for speakers. A segment begins at a random frame of each sound, runs at its speed,
    and is then changed by ``transform``.

    Args:
        transform: maps a batch to a changed batch, as in `Views`.
        long, short: number of segments of each kind.
        long_share, short_share: the share of the frames that one has.

    ``forward(sounds)`` gives a tuple of all long views, then of all short ones.

    >>> import torch
    >>> from sslkernels.data import Segments
    >>> views = Segments(torch.nn.Identity(), long=2, short=1)(torch.randn(4, 1, 64, 100))
    >>> [tuple(view.shape) for view in views]
    [(4, 1, 64, 75), (4, 1, 64, 75), (4, 1, 64, 50)]
    """

    def __init__(
        self,
        transform: nn.Module,
        long: int = 2,
        short: int = 4,
        long_share: float = 0.75,
        short_share: float = 0.5,
    ) -> None:
        super().__init__()
        self.transform = check_module("Segments", "transform", transform)
        self.counts = check_size("Segments", "long", long), check_size("Segments", "short", short, least=0)
        shares = {"long_share": long_share, "short_share": short_share}
        self.shares = tuple(check_number("Segments", name, share, above=0, most=1) for name, share in shares.items())

    @torch.no_grad()
    def forward(self, sounds: Tensor) -> tuple[Tensor, ...]:
        check_sounds("Segments", sounds)
        views: tuple[Tensor, ...] = ()
        for count, share in zip(self.counts, self.shares, strict=True):
            if count:
                # Each sound of a batch has its own numbers, so all views of a length are drawn at once.
                views += self.transform(self._cut(torch.cat([sounds] * count), share)).chunk(count)
        return views

    def _cut(self, sounds: Tensor, share: float) -> Tensor:
        frames = sounds.shape[FRAMES]
        length = max(1, round(share * frames))
        begin = torch.randint(frames - length + 1, (len(sounds), 1, 1, 1), device=sounds.device)
        places = begin + torch.arange(length, device=sounds.device)
        return sounds.gather(FRAMES, places.expand(-1, *sounds.shape[1:FRAMES], -1))
