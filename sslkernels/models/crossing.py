# SPDX-License-Identifier: Apache-2.0
"""A transformer whose tokens read others, and never each other."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_transformer
from sslkernels.models.vit import init_linear


class CrossAttention(nn.Module):
    """Attention of ``heads`` heads of tokens ``(B, P, width)`` to others ``(B, V, width)``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.pair = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, others: Tensor) -> Tensor:
        query = self.query(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key, value = self.pair(others).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class CrossBlock(nn.Module):
    """Cross-attention and a perceptron of four times the width, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm0 = nn.LayerNorm(width, eps=1e-6)
        self.attention = CrossAttention(width, heads)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, others: Tensor) -> Tensor:
        x = x + self.attention(self.norm0(x), others)
        return x + self.mlp(self.norm1(x))


class CrossTransformer(nn.Module):
    """``depth`` blocks and a last LayerNorm over tokens ``(B, P, width)``, each of which reads ``others (B, V, width)``
    alone: what is asked of one token is answered alike beside any number of others.

    >>> import torch
    >>> from sslkernels.models.crossing import CrossTransformer
    >>> CrossTransformer(32, depth=2, heads=2)(torch.randn(4, 5, 32), torch.randn(4, 9, 32)).shape
    torch.Size([4, 5, 32])
    """

    def __init__(self, width: int, *, depth: int, heads: int) -> None:
        super().__init__()
        width, depth = check_transformer("CrossTransformer", heads, width=width, depth=depth)
        self.blocks = nn.ModuleList(CrossBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.apply(init_linear)

    def forward(self, x: Tensor, others: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, others)
        return self.norm(x)
