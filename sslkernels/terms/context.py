# SPDX-License-Identifier: Apache-2.0
"""Context: on which of eight sides of a patch did another one lie?"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_number, check_rows
from sslkernels.terms.colour import greyed
from sslkernels.terms.task import Task

# The eight neighbours of a patch: steps down and to the right.
SIDES = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


class Context(Task):
    """Tell on which of eight sides of an image's middle patch a second patch lay (Doersch et al. 2015, arXiv
    1505.05192; Mundhenk et al. 2018, arXiv 1711.06379).

    A patch has about a quarter of the image's side. Between patches there is a gap, and each is moved by chance, so
    that lines which run on from one to the other do not tell. Patches of colour images lose their colour by chance:
    lenses shift colours towards the edge, and networks learn to read the place from that. The 2018 paper blurs the
    colour instead and has more such remedies; the numbers and this choice are ours.

    Args:
        feature_dim: features of the backbone.
        gap: space between patches, as a share of a patch's side, in whole pixels.
        jitter: largest move of a patch in each direction, as a share of its side, in whole pixels.
        grey: share of the patches that lose their colour.

    >>> import torch
    >>> from sslkernels.terms import Context
    >>> patches, answers = Context(feature_dim=16).draw(torch.rand(4, 3, 32, 32))
    >>> patches.shape, answers.shape
    (torch.Size([8, 3, 7, 7]), torch.Size([4]))
    """

    def __init__(self, feature_dim: int, *, gap: float = 0.5, jitter: float = 0.15, grey: float = 0.5) -> None:
        super().__init__(feature_dim, classes=len(SIDES), parts=2)
        self.gap = check_number("Context", "gap", gap, least=0, most=1)
        self.jitter = check_number("Context", "jitter", jitter, least=0, most=1)
        self.grey = check_number("Context", "grey", grey, least=0, most=1)
        # Which side it is does not follow from a sum of what the patches are, so the head has a hidden layer.
        self.head = nn.Sequential(nn.Linear(2 * feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, 8))

    def draw(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        check_rows("Context", "inputs", inputs, "images (N, C, H, W)", dims=4)
        count, _, height, width = inputs.shape
        sides = 3 + 2 * self.gap + 2 * self.jitter  # that must fit into an image
        side = int(min(height, width) / sides)
        if side < 2:
            raise ValueError(
                f"Context: images have {height} x {width} pixels; pass at least {math.ceil(2 * sides)} a side."
            )
        # Rounded up, gap and moves could lead out of the image, and Python's indices go on at its other end.
        step, device = side + int(self.gap * side), inputs.device
        moves = int(self.jitter * side)
        answers = torch.randint(len(SIDES), (count,), device=device)
        middle = torch.tensor([(height - side) // 2, (width - side) // 2], device=device)
        begins = torch.stack([middle.expand(count, 2), middle + step * torch.tensor(SIDES, device=device)[answers]], 1)
        begins = begins + torch.randint(-moves, moves + 1, begins.shape, device=device)
        across = torch.arange(side, device=device)
        rows, columns = (begins[..., axis, None] + across for axis in (0, 1))  # (N, 2, side)
        number = torch.arange(count, device=device).view(-1, 1, 1, 1)
        # Indexing puts the channels last.
        patches = inputs.permute(0, 2, 3, 1)[number, rows[..., :, None], columns[..., None, :]].movedim(4, 2)
        return greyed(patches, self.grey).flatten(0, 1).contiguous(), answers
