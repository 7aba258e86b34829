# SPDX-License-Identifier: Apache-2.0
"""The table of measures: what each needs, what it gives, which way is good, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sslkernels.evaluation.collapse import feature_spread
from sslkernels.evaluation.given import FEATURES, LABELS, Given
from sslkernels.evaluation.probes import few_shot, knn, linear_probe

# The questions that measures answer, in the order of the page.
DIRECTIONS = "How many directions do the features fill?"
AGREEMENT = "Do views of a sample stay together, and samples apart?"
PROBES = "What can labels be read off with?"
GAPS = "Where does a probe's error come from?"
INSIDE = "What is inside the encoder?"
QUESTIONS = (DIRECTIONS, AGREEMENT, PROBES, GAPS, INSIDE)
HIGHER, LOWER, NEITHER = "higher", "lower", "neither"


@dataclass(frozen=True)
class Measure:
    """A measure of an encoder.

    Args:
        name: its name on the command line and in evaluation.json.
        of: takes it of what is `Given`: a number, or named values of which the first is the number to compare.
        needs: what it cannot do without: "features", "labels", "views", "encoder", "images".
        better: "higher", "lower", or "neither" where both ends are bad.
        meaning: one sentence for people.
        question: which of `QUESTIONS` it helps to answer.
        slow: whether it trains networks, and so runs only where it is named.
    """

    name: str
    of: Callable[[Given], float | Mapping[str, Any] | None]
    needs: tuple[str, ...]
    better: str
    meaning: str
    question: str
    slow: bool = False


def _spread(given: Given) -> dict[str, Any]:
    spread = feature_spread(given.features)
    return {"effective_rank": spread.effective_rank, "feature_std": spread.feature_std}


MEASURES: dict[str, Measure] = {
    each.name: each
    for each in (
        Measure(
            "effective_rank", _spread, (FEATURES,), HIGHER,
            "The exponential of the entropy of the singular values: how many directions are in use.", DIRECTIONS,
        ),
        Measure(
            "few_shot", lambda given: few_shot(*given.labelled), (FEATURES, LABELS), HIGHER,
            "Accuracy of the nearest of five labelled samples of each class.", PROBES,
        ),
        Measure(
            "linear_10", lambda given: linear_probe(*given.labelled), (FEATURES, LABELS), HIGHER,
            "Accuracy of a linear probe on ten labelled samples of each class.", PROBES,
        ),
        Measure(
            "knn", lambda given: knn(*given.labelled), (FEATURES, LABELS), HIGHER,
            "Accuracy of a vote of the 20 nearest training samples.", PROBES,
        ),
    )
}  # fmt: skip
