# SPDX-License-Identifier: Apache-2.0
"""A small model of sentence-transformers, and sentences of numbered words; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Dropout, Pooling, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from torch import Tensor


def model_of(words: list[str], dim: int = 8, dtype: torch.dtype = torch.float32, seed: int = 0) -> SentenceTransformer:
    """Embed words, average them and pass them through a linear layer, with dropout between."""
    torch.manual_seed(seed)
    tokenizer = WhitespaceTokenizer(words, stop_words=())
    words_in = WordEmbeddings(tokenizer, torch.randn(len(words), dim), update_embeddings=True)
    modules = [words_in, Pooling(dim), Dropout(0.1), Dense(dim, dim, activation_function=torch.nn.Identity())]
    return SentenceTransformer(modules=modules, device="cpu").to(dtype).train()


WORDS = [f"w{number}" for number in range(50)]


def sentences(columns: int, count: int, seed: int = 0) -> list[list[str]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        [
            " ".join(WORDS[int(word)] for word in torch.randint(50, (4 + i % 3,), generator=generator))
            for i in range(count)
        ]
        for _ in range(columns)
    ]


def features(model: SentenceTransformer, columns: list[list[str]]) -> list[dict[str, Any]]:
    return [model.preprocess(column) for column in columns]


def step(loss: Any, model: SentenceTransformer, columns: list[list[str]], seed: int = 1) -> list[Tensor]:
    """Return the value and the gradient of every parameter; equal seeds drop equal features."""
    torch.manual_seed(seed)
    model.zero_grad(set_to_none=True)
    value = loss(features(model, columns), None)
    value.backward()
    return [value.detach(), *(each.grad.clone() for each in model.parameters() if each.grad is not None)]
