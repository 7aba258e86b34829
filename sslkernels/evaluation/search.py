# SPDX-License-Identifier: Apache-2.0
"""Searches augmentations by a score that needs no label."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from sslkernels.arguments import as_number, came, check_callable, check_kind, check_list, check_size


class Search(NamedTuple):
    """The result of `search_augmentations`: the best settings, their score, and all that were tried, in order."""

    best: dict[str, Any]
    score: float
    tried: list[tuple[dict[str, Any], float]]


def search_augmentations(
    evaluate: Callable[..., float], settings: Mapping[str, Sequence[Any]], trials: int = 16, *, seed: int = 0
) -> Search:
    """Try settings of augmentations at random, and keep those of the best score (SelfAugment: Reed et al. 2021).

    Strength and count of transforms are all that need be searched (RandAugment: Cubuk et al. 2020). With
    `rotation_probe` of an encoder that is trained with them as score, no label is read.

    Args:
        evaluate: trains with ``evaluate(**settings)`` and gives a score, the larger the better; NaN is the worst.
        settings: the values to choose from, by the names that ``evaluate`` takes.
        trials: settings to try, each once; all of them if there are no more.
        seed: of the choice.

    Raises:
        ValueError, TypeError: no settings, a score that is no number.

    Cost: ``trials`` calls of ``evaluate``.

    >>> from sslkernels.evaluation import search_augmentations
    >>> found = search_augmentations(lambda strength, count: strength - abs(count - 2), {"strength": (0.2, 0.5, 1.0),
    ...     "count": (1, 2, 3)})
    >>> found.best, found.score, len(found.tried)
    ({'strength': 1.0, 'count': 2}, 1.0, 9)
    """
    function = "search_augmentations"
    check_callable(function, "evaluate", evaluate)
    check_kind(function, "settings", settings, Mapping, "a dict of values by name")  # type: ignore[type-abstract]
    values = {name: check_list(function, f"settings[{name!r}]", each, "a list") for name, each in settings.items()}
    if not values or not all(values.values()):
        raise ValueError(f"{function}: settings has nothing to choose from; pass a list of values for each name.")
    trials, seed = check_size(function, "trials", trials), check_size(function, "seed", seed, least=0)
    total = math.prod(map(len, values.values()))
    generator = torch.Generator().manual_seed(seed)
    numbers: dict[int, None] = {}
    if total <= trials:
        numbers = dict.fromkeys(torch.randperm(total, generator=generator).tolist())
    while len(numbers) < min(trials, total):
        numbers[int(torch.randint(total, (), generator=generator))] = None
    tried = []
    for number in numbers:
        chosen = {}
        for name, each in values.items():
            number, place = divmod(number, len(each))
            chosen[name] = each[place]
        given = evaluate(**chosen)
        score = as_number(given)
        if score is None:
            raise TypeError(f"{function}: evaluate gave {came(given)}; let it give a number.")
        tried.append((chosen, score))
    best, score = max(tried, key=lambda trial: -math.inf if math.isnan(trial[1]) else trial[1])
    return Search(best, score, tried)
