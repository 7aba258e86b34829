# SPDX-License-Identifier: Apache-2.0
"""Jigsaw: in which of some known orders do the tiles of an image lie?"""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations as all_orders
from math import factorial

import numpy as np
import torch
from torch import Tensor

from sslkernels.arguments import came, check_number, check_rows, check_size
from sslkernels.functional import gather_tokens
from sslkernels.terms.colour import greyed
from sslkernels.terms.task import Task


@lru_cache(maxsize=8)
def far_orders(tiles: int, count: int) -> Tensor:
    """Choose ``count`` orders of ``tiles`` places that differ in many places; the first is the order as it is.

    Each next one differs most, by the number of places, from the one that it differs least from; of several it is the
    first in the order of a dictionary. int64 ``(count, tiles)``.

    >>> from sslkernels.terms.jigsaw import far_orders
    >>> far_orders(4, 3)
    tensor([[0, 1, 2, 3],
            [1, 0, 3, 2],
            [2, 3, 0, 1]])
    """
    orders = np.array(list(all_orders(range(tiles))), np.int8)
    nearest = np.full(len(orders), tiles + 1)
    chosen = [0]
    while len(chosen) < count:
        np.minimum(nearest, (orders != orders[chosen[-1]]).sum(1), out=nearest)
        chosen.append(int(nearest.argmax()))
    return torch.from_numpy(orders[chosen].astype(np.int64))


def tiles_of(function: str, images: Tensor, grid: int) -> Tensor:
    """Cut ``(N, C, H, W)`` into ``(N, grid * grid, C, H // grid, W // grid)``, row by row of tiles.

    What is left over at the right and lower edge is dropped. ``function`` is named by the error if nothing is left.

    >>> import torch
    >>> from sslkernels.terms.jigsaw import tiles_of
    >>> tiles_of("example", torch.arange(16.0).view(1, 1, 4, 4), 2)[0, 1]
    tensor([[[2., 3.],
             [6., 7.]]])
    """
    check_rows(function, "images", images, "images (N, C, H, W)", dims=4)
    count, channels, *size = images.shape
    height, width = (side // grid for side in size)
    if not height or not width:
        raise ValueError(f"{function}: images have {size[0]} x {size[1]} pixels; pass at least {grid} a side.")
    cut = images[:, :, : height * grid, : width * grid]
    tiles = cut.reshape(count, channels, grid, height, grid, width).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(count, grid**2, channels, height, width)


class Jigsaw(Task):
    """Tell in which order the tiles of an image were laid (Noroozi and Favaro 2016; as in JiGen, Carlucci et al. 2019,
    arXiv 1903.06864).

    An image is cut into ``grid`` x ``grid`` tiles, less what is left over at its right and lower edge, and laid anew in
    one of ``permutations`` orders, or left as it is. Orders are chosen to differ in many places.

    Args:
        feature_dim: features of the backbone.
        grid: tiles a side; up to 3, since all orders of 9 tiles are looked at.
        permutations: number of orders besides the right one.
        whole: share of the images that stay as they are, as an answer of its own. JiGen has 0.6 to 0.9.
        grey: share of the tiles of colour images that lose their colour, so that no edge is matched by it.

    >>> import torch
    >>> from sslkernels.terms import Jigsaw
    >>> changed, answers = Jigsaw(feature_dim=16, grid=2, permutations=10).draw(torch.rand(4, 1, 8, 8))
    >>> changed.shape, answers.shape
    (torch.Size([4, 1, 8, 8]), torch.Size([4]))
    """

    chains = True
    orders: Tensor

    def __init__(
        self, feature_dim: int, *, grid: int = 3, permutations: int = 30, whole: float = 0.1, grey: float = 0.1
    ) -> None:
        grid = check_size("Jigsaw", "grid", grid, least=2, most=3)
        permutations = check_size("Jigsaw", "permutations", permutations)
        if permutations >= factorial(grid**2):
            raise ValueError(
                f"Jigsaw: permutations is {came(permutations)} and {grid**2} tiles have "
                f"{factorial(grid**2) - 1} others; pass at most that, or a larger grid."
            )
        super().__init__(feature_dim, classes=permutations + 1)
        self.grid = grid
        self.whole = check_number("Jigsaw", "whole", whole, least=0, most=1)
        self.grey = check_number("Jigsaw", "grey", grey, least=0, most=1)
        self.register_buffer("orders", far_orders(self.grid**2, self.classes).clone(), persistent=False)

    def draw(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        check_rows("Jigsaw", "inputs", inputs, "images (N, C, H, W)", dims=4)
        count, device = len(inputs), inputs.device
        answers = torch.randint(1, self.classes, (count,), device=device)
        answers = answers * (torch.rand(count, device=device) >= self.whole)
        return self.laid(inputs, answers), answers

    def laid(self, images: Tensor, answers: Tensor) -> Tensor:
        """Lay the tiles of ``(N, C, H, W)`` in the orders numbered ``answers (N,)``."""
        tiles = tiles_of("Jigsaw", images, self.grid)
        count, _, channels, height, width = tiles.shape
        laid = gather_tokens(tiles.flatten(2), self.orders[answers], backend=self.backend)
        tiles = greyed(laid.view(tiles.shape), self.grey)
        rows = tiles.view(count, self.grid, self.grid, channels, height, width).permute(0, 3, 1, 4, 2, 5)
        return rows.reshape(count, channels, self.grid * height, self.grid * width)
