# SPDX-License-Identifier: Apache-2.0
"""CoCaLoss on two and three gloo processes that hold unlike numbers of pairs, of tokens and of columns.

The mean of losses and of parameter gradients over ranks is that of one process with all captions.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from worlds import WorldsOf, caught

from sslkernels.losses import CoCaLoss

D, V, PAD = 4, 9, 0
# For each rank, the number of words in the caption of each pair. A rank may have no word at all, or no pair.
WORDS = {2: (((3, 1), (4, 2)), ((5, 4, 1), (0,)), ((2, 3), ())), 3: (((1, 2), (3, 3), (5, 0)), ((4,), (), (1, 0, 2)))}


def padded(lengths: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw captions of so many words, padded to the longest."""
    labels = torch.full((len(lengths), max((1, *lengths))), PAD)
    for row, length in zip(labels, lengths, strict=True):
        row[:length] = torch.randint(1, V, (length,), generator=generator)
    return labels


def run(words: tuple[tuple[int, ...], ...], weights: tuple[float, float], rank: int | None) -> dict[str, Tensor]:
    """Compute value and gradients for one rank's pairs, or for all (None)."""
    generator = torch.Generator().manual_seed(7)
    parameters = [torch.randn(D, width, dtype=torch.float64, generator=generator) for width in (D, D, V)]
    parameters = [each.requires_grad_() for each in parameters]
    whole = padded(sum(words, ()), generator)
    rows = torch.randn(*whole.shape, D, dtype=torch.float64, generator=generator)
    if rank is not None:
        start = sum(map(len, words[:rank]))
        longest = max((1, *words[rank]))  # each rank pads to its own
        whole = whole[start : start + len(words[rank]), :longest]
        rows = rows[start : start + len(words[rank]), :longest]
    options = {} if rank is None else {"rank": rank, "world_size": len(words)}
    image, text, logits = rows[:, 0] @ parameters[0], rows[:, 0] @ parameters[1], rows @ parameters[2]
    values = CoCaLoss(*weights, **options)(image, text, logits, whole, 3.0)
    slopes = torch.autograd.grad(sum(values), parameters, allow_unused=True, materialize_grads=True)
    return {"values": torch.stack([x.detach().double() for x in values]), **dict(zip("itc", slopes, strict=True))}


WEIGHTS = (2.0, 1.0), (1.0, 0.0)
CASES = [(world, place, weights) for world in WORDS for place in range(len(WORDS[world])) for weights in WEIGHTS]


def job(rank: int, world: int) -> dict[str, dict[str, Tensor]]:
    return {str(case): caught(run, WORDS[world][case[1]], case[2], rank) for case in CASES if case[0] == world}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> WorldsOf:
    return WorldsOf(job, tmp_path_factory)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ranks_together_equal_one_process(worlds: WorldsOf, case: tuple[int, int, tuple[float, float]]) -> None:
    world, place, weights = case
    ranks = [results[str(case)] for results in worlds(world)]
    assert all(isinstance(found, dict) for found in ranks), ranks
    for key, exact in run(WORDS[world][place], weights, None).items():
        together = torch.stack([found[key] for found in ranks]).mean(0)
        torch.testing.assert_close(together, exact, rtol=1e-9, atol=1e-11, msg=lambda m: f"{key}: {m}")  # noqa: B023
