# SPDX-License-Identifier: Apache-2.0
"""Builds every method at a small size, whatever its backbone and options."""

from __future__ import annotations

from typing import Any

import torch

from sslkernels.data import Dataset, Graphs
from sslkernels.methods import Method
from sslkernels.recipes import Recipe, find

SIZES = {
    "projection_dim": 4, "projector_dim": 4, "hidden_dim": 4, "queue_size": 8, "patch_size": 4, "prototypes": 4,
    "sensors": 3,
}  # fmt: skip
# Samples of each modality. Images have a side that Context and Jigsaw can cut.
SAMPLES = 16


def small_method(name: str, **arguments: Any) -> Method:
    """Build the method for images ``(N, 1, 8, 8)``, or for what its recipe takes.

    Options that `SIZES` does not name are small ones of its own."""
    recipe = find(name)
    numbers = {**recipe.numbers(paper=False), "patch_size": 4}
    options = {option: SIZES.get(option, numbers[option]) for option in recipe.settings if option in numbers}
    images, labels = torch.zeros(2, 1, 8, 8), torch.arange(2)
    forms = {
        "text": torch.ones(2, 4, dtype=torch.int64),
        "speech": torch.zeros(2, 1, 16, 24),
        "volume": torch.zeros(2, 1, 3, 8, 8),
    }
    data = Dataset("zeros", "images", images, labels, images, labels, ("a", "b"), extra=forms, test_extra=forms)
    if recipe.modality.name != "images":
        data = small_data(recipe.modality.name)
    return recipe.build(data, options, **arguments)


def small_numbers(recipe: Recipe) -> dict[str, Any]:
    """Settings of a recipe with which it is small, and learns a batch."""
    sizes = {"projection_dim": 16, "hidden_dim": 32, "projector_dim": 32, "queue_size": 32, "widths": (8, 16),
             "blocks": (1, 1), "cells": 4, "memory": 8, "width": 16, "depth": 1, "heads": 2, "decoder_width": 16,
             "predictor_width": 16, "sensors": 3}  # fmt: skip
    numbers = {**recipe.numbers(paper=False), **sizes, "permutations": 23, "grid": 2}
    return {name: numbers[name] for name in recipe.settings if name in numbers}


def small_data(modality: str, bare: bool = False) -> Dataset:
    """Make samples that nobody has seen, with all that a method may need of them, or ``bare`` of it."""
    generator = torch.Generator().manual_seed(7)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    inputs: Any = {
        # They grow brighter on the way down and to the right, and series rise, so that pretext tasks can be solved.
        "images": lambda: 0.3 * drawn(SAMPLES, 3, 16, 16) + 0.7 * _ramp(16) * drawn(SAMPLES, 3, 1, 1).sqrt(),
        "series": lambda: 0.5 * drawn(SAMPLES, 3, 24) + torch.linspace(-1, 1, 24),
        "audio": lambda: drawn(SAMPLES, 1, 16, 24),
        "tables": lambda: drawn(SAMPLES, 6) - 0.5,
        "text": lambda: 1 + (20 * drawn(SAMPLES, 8)).long(),
        "interactions": lambda: 1 + (20 * drawn(SAMPLES, 8)).long(),
        "graphs": lambda: rings(generator),
    }[modality]()
    if bare:
        return Dataset("noise", modality, inputs, None, inputs, None)
    labels = torch.arange(SAMPLES) % 3
    angle = 6 * drawn(SAMPLES)
    extra = {
        "action": torch.stack([angle.cos(), angle.sin()], 1), "place": drawn(SAMPLES, 2),
        "text": 1 + (20 * drawn(SAMPLES, 8)).long(), "speech": drawn(SAMPLES, 1, 16, 24),
        "volume": drawn(SAMPLES, 3, 4, 16, 16),
    }  # fmt: skip
    partners = torch.stack([(torch.arange(SAMPLES) + step) % SAMPLES for step in (1, 2)], 1)
    return Dataset(
        "noise", modality, inputs, labels, inputs, labels, ("a", "b", "c"), extra,
        partners=partners if modality == "images" else None, test_extra=extra,
    )  # fmt: skip


def _ramp(side: int) -> torch.Tensor:
    across = torch.linspace(0, 1, side)
    return (2 * across[:, None] + across) / 3


def rings(generator: torch.Generator) -> Graphs:
    """Graphs of four nodes in a ring."""
    first = torch.arange(4 * SAMPLES)
    after = first - first % 4 + (first + 1) % 4
    edges = torch.cat([torch.stack([first, after]), torch.stack([after, first])], 1)
    return Graphs(torch.rand(4 * SAMPLES, 3, generator=generator), edges, first // 4, SAMPLES)
