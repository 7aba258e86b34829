# SPDX-License-Identifier: Apache-2.0
"""A transformer over the columns of a table."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_transformer
from sslkernels.models.vit import Transformer


class ColumnTransformer(nn.Module):
    """Map rows of numbers ``(N, D)`` to features ``(N, width)``, the mean of a token for each column.

    A column's token is its number times a learned direction, plus a learned one, as in FT-Transformer (Gorishniy et al.
    2021).

    Args:
        columns: numbers in a row, D.
        width, depth, heads: sizes of the transformer; the heads divide the width, which is a multiple of 4.

    >>> import torch
    >>> from sslkernels.models import ColumnTransformer
    >>> ColumnTransformer(18)(torch.randn(4, 18)).shape
    torch.Size([4, 64])
    """

    def __init__(self, columns: int, *, width: int = 64, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        width, depth = check_transformer("ColumnTransformer", heads, width=width, depth=depth)
        columns = check_count("ColumnTransformer", "columns", columns, width)
        self.feature_dim = width
        self.scale = nn.Parameter(torch.randn(columns, width) * 0.5)
        self.shift = nn.Parameter(torch.randn(columns, width) * 0.5)
        self.encode = Transformer(width, depth=depth, heads=heads)

    def forward(self, rows: Tensor) -> Tensor:
        return self.encode(rows[..., None] * self.scale + self.shift).mean(1)
