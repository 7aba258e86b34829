# SPDX-License-Identifier: Apache-2.0
"""A transformer over sequences of numbered words or items."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_transformer


class TokenTransformer(nn.Module):
    """Map sequences ``(N, L)`` of numbers to features ``(N, width)``, the mean over the tokens that are no padding.

    Padding is 0 and plays no part. Sequences may be of any length up to ``length``.

    Args:
        vocabulary: the numbers go from 0 to one less.
        length: the most tokens of a sequence.
        width, depth, heads: sizes of the transformer; the heads divide the width, which is a multiple of 4.

    >>> import torch
    >>> from sslkernels.models import TokenTransformer
    >>> TokenTransformer(100, 16)(torch.randint(100, (4, 16))).shape
    torch.Size([4, 64])
    """

    def __init__(self, vocabulary: int, length: int, *, width: int = 64, depth: int = 1, heads: int = 4) -> None:
        super().__init__()
        width, depth = check_transformer("TokenTransformer", heads, width=width, depth=depth)
        vocabulary = check_count("TokenTransformer", "vocabulary", vocabulary, width)
        length = check_count("TokenTransformer", "length", length, width)
        self.feature_dim = width
        self.embed = nn.Embedding(vocabulary, width, padding_idx=0)
        self.pos = nn.Parameter(torch.randn(length, width) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation=F.gelu, batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        held = tokens != 0
        mask = ~held & held.any(1, keepdim=True)  # attention needs a token, even where all of a sequence is padding
        x = self.embed(tokens) + self.pos[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=mask)
        weights = held[..., None].to(x.dtype)
        return (x * weights).sum(1) / weights.sum(1).clamp(min=1)
