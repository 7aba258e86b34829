# SPDX-License-Identifier: Apache-2.0
"""Rotation: by how many quarters has an image been turned?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.arguments import check_rows, check_tensor, shape_of
from sslkernels.terms.task import Task
from sslkernels.terms.term import Features


def quarter_turns(images: Tensor, quarters: Tensor) -> Tensor:
    """Turn each square image ``(N, C, H, H)`` counter-clockwise by ``quarters (N,)`` of a full turn.

    >>> import torch
    >>> from sslkernels.terms.rotation import quarter_turns
    >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> quarter_turns(image, torch.tensor([1]))
    tensor([[[[2., 4.],
              [1., 3.]]]])
    """
    check_rows("quarter_turns", "images", images, "(N, C, H, H)", dims=4)
    check_tensor("quarter_turns", "quarters", quarters, "(N,), whole numbers")
    if images.shape[2] != images.shape[3]:
        raise ValueError(f"quarter_turns: images has shape {shape_of(images)}; pass squares (N, C, H, H).")
    turned = images
    for count in (1, 2, 3):
        chosen = (quarters % 4 == count).view(-1, 1, 1, 1)
        turned = torch.where(chosen, torch.rot90(images, count, (2, 3)), turned)
    return turned


class Rotation(Task):
    """Tell by how many quarters a square image was turned (RotNet, Gidaris et al. 2018, arXiv 1803.07728).

    RotNet trains on all four turns of each image; here each image of a batch is turned once, by chance.

    >>> import torch
    >>> from sslkernels.terms import Rotation
    >>> changed, answers = Rotation(feature_dim=16).draw(torch.rand(4, 1, 8, 8))
    >>> changed.shape, answers.shape
    (torch.Size([4, 1, 8, 8]), torch.Size([4]))
    """

    chains = True

    def __init__(self, feature_dim: int) -> None:
        super().__init__(feature_dim, classes=4)

    def draw(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        check_rows("Rotation", "inputs", inputs, "images (N, C, H, H)", dims=4)
        if inputs.shape[2] != inputs.shape[3]:
            raise ValueError(f"Rotation: inputs has shape {shape_of(inputs)}; pass squares, or take another task.")
        answers = torch.randint(4, (len(inputs),), device=inputs.device)
        return quarter_turns(inputs, answers), answers

    @torch.no_grad()
    def surprise(self, features: Features, images: Tensor) -> Tensor:
        """Compute the cross-entropy ``(N,)`` of each image, the mean over its four turns.

        It is large for images unlike those of the training, and so tells these apart (Hendrycks et al. 2019, arXiv
        1906.12340).
        """
        check_rows("Rotation", "images", images, "(N, C, H, H)", dims=4)
        turns = [torch.full((len(images),), quarters, device=images.device) for quarters in range(4)]
        found = [
            F.cross_entropy(self.logits(features(quarter_turns(images, quarters))), quarters, reduction="none")
            for quarters in turns
        ]
        return torch.stack(found).mean(0)
