# SPDX-License-Identifier: Apache-2.0
"""Odd one out: which of several clips of a series has its pieces in a wrong order?"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import check_count, check_number, check_rows, check_size
from sslkernels.data import Permuted
from sslkernels.terms.task import Task


class OddOneOut(Task):
    """Tell which of ``clips + 1`` clips is shuffled (O3N, Fernando et al. 2017, arXiv 1611.06646).

    All are cut by chance out of one series ``(N, C, T)``, and one of them is cut into pieces that change their places.
    The paper has clips of frames; one network sees each, and the head their features side by side.

    Args:
        feature_dim: features of the backbone.
        clips: number of clips in the right order; the paper has 5.
        share: length of a clip, as a share of the series'.
        pieces: pieces of the shuffled clip.

    >>> import torch
    >>> from sslkernels.terms import OddOneOut
    >>> clips, answers = OddOneOut(feature_dim=16).draw(torch.randn(4, 6, 100))
    >>> clips.shape, answers.shape
    (torch.Size([24, 6, 50]), torch.Size([4]))
    """

    def __init__(self, feature_dim: int, *, clips: int = 5, share: float = 0.5, pieces: int = 4) -> None:
        clips = check_count("OddOneOut", "clips", clips, 1)
        super().__init__(feature_dim, classes=clips + 1, parts=clips + 1)
        self.share = check_number("OddOneOut", "share", share, above=0, most=1)
        self.shuffle = Permuted(check_size("OddOneOut", "pieces", pieces, least=2))

    def draw(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        check_rows("OddOneOut", "inputs", inputs, "series (N, C, T)", dims=3)
        count, channels, length = inputs.shape
        kept, device = max(1, round(self.share * length)), inputs.device
        starts = torch.randint(length - kept + 1, (count * self.parts, 1), device=device)
        places = (starts + torch.arange(kept, device=device))[:, None].expand(-1, channels, -1)
        clips = inputs.repeat_interleave(self.parts, 0).gather(2, places)
        answers = torch.randint(self.parts, (count,), device=device)
        odd = (torch.arange(self.parts, device=device) == answers[:, None]).flatten()
        return self.shuffle.applied(clips, odd), answers
