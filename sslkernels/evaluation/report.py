# SPDX-License-Identifier: Apache-2.0
"""Takes every measure that applies to an encoder, and says of each other one why it does not."""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sslkernels.arguments import came, check_list
from sslkernels.data import Dataset
from sslkernels.evaluation.given import Given, Unfit, drawing_anew
from sslkernels.evaluation.measures import MEASURES, Measure
from sslkernels.files import cause_of

MEASURED, LEFT_OUT, FAILED = "measures", "left_out", "failed"


@dataclass(frozen=True)
class Outcome:
    """Say what became of a measure: ``kind`` is "measures", "left_out" or "failed", ``content`` what the report says.

    The content is a dictionary of a measure that was taken, and a sentence of any other.
    """

    measure: Measure
    kind: str
    content: Any


def report(
    encoder: nn.Module | None,
    dataset: Dataset,
    views: Callable[[Any], Sequence[Any]] | None = None,
    only: Iterable[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Take the measures of an encoder that apply to it and to the data.

    BatchNorm works with the statistics that it has; `sslkernels.evaluation.calibrate_batchnorm` sets them. What is
    drawn comes from a random state of its own, so that all encoders meet the same draws.

    Args:
        encoder: maps samples to features ``(N, D)``, and is not changed; None if ``dataset`` holds features ``(N, D)``.
        dataset: samples, as `sslkernels.data.load` gives them. Labels may be missing.
        views: maps a batch to several views of it, as `sslkernels.data.ImageViews` does. Without it, measures of views
            are left out.
        only: names of the measures to take; None takes all but those that train networks.

    Returns:
        ``{"measures": {...}, "left_out": {...}, "failed": {...}}``, by name. What was measured has its ``value``,
        ``more`` that was found beside it, which way is ``better``, its ``meaning`` and ``seconds``; all others have
        one sentence. A measure that fails leaves the others alone.

    Raises:
        ValueError: ``only`` has an unknown name, or the encoder gives no finite rows.

    >>> import torch
    >>> from sslkernels.data import load
    >>> from sslkernels.evaluation import report
    >>> found = report(torch.nn.Flatten(), load("digits"), only=["knn", "rank_me"])
    >>> sorted(found["measures"]), round(found["measures"]["knn"]["value"], 2)
    (['knn', 'rank_me'], 0.96)
    """
    found: dict[str, dict[str, Any]] = {MEASURED: {}, LEFT_OUT: {}, FAILED: {}}
    for outcome in outcomes(Given(encoder, dataset, views), chosen("report", only)):
        found[outcome.kind][outcome.measure.name] = outcome.content
    return found


def chosen(function: str, only: Iterable[str] | None) -> list[str] | None:
    """Check names of measures, each of which is taken once."""
    if only is None:
        return None
    names = check_list(function, "only", only, "a list of names of measures, such as ['rank_me', 'knn']")
    for name in names:
        if name not in MEASURES:
            near = difflib.get_close_matches(name, MEASURES, 1) if isinstance(name, str) else []
            advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(MEASURES)}."
            raise ValueError(f"{function}: no measure is named {came(name)}; {advice}")
    if not names:
        raise ValueError(f"{function}: only is empty; pass at least one of {', '.join(MEASURES)}.")
    return list(dict.fromkeys(names))


def outcomes(given: Given, only: Sequence[str] | None = None) -> Iterator[Outcome]:
    """Take one measure after the other, in the order of the table; `report` collects what comes."""
    given.features, given.test_features  # noqa: B018 - an encoder that fails here fails every measure
    for measure in MEASURES.values():
        if only is None or measure.name in only:
            yield _outcome(measure, given, named=only is not None)


def _outcome(measure: Measure, given: Given, named: bool) -> Outcome:
    lacking = [need for need in measure.needs if need in given.missing]
    if lacking:
        return Outcome(measure, LEFT_OUT, f"{given.missing[lacking[0]]}.")
    if measure.slow and not named:
        return Outcome(measure, LEFT_OUT, "it trains networks, and runs only where it is named.")
    begun = time.perf_counter()
    try:
        with drawing_anew():
            found = measure.of(given)
            value, more = _plain(found)
    except Unfit as error:
        return Outcome(measure, LEFT_OUT, f"{error}.")
    except Exception as error:  # other measures do not depend on this one
        return Outcome(measure, FAILED, f"{cause_of(error)}.")
    if found is None:
        return Outcome(measure, LEFT_OUT, "it needs more samples of each class.")
    if value is None:
        return Outcome(measure, FAILED, "it found no finite number; are there few features, or samples that are alike?")
    content = {
        "value": value,
        "more": more,
        "better": measure.better,
        "meaning": measure.meaning,
        "seconds": round(time.perf_counter() - begun, 3),
    }
    return Outcome(measure, MEASURED, content)


def _plain(found: Any) -> tuple[float | None, dict[str, Any]]:
    """The number to compare, None if there is none, and what was found besides, in types that JSON holds."""
    if not isinstance(found, Mapping):
        value, more = found, {}
    else:
        (_, value), *others = found.items()
        more = {name: _jsonable(each) for name, each in others}
    number = _jsonable(value)
    return (float(number) if isinstance(number, (int, float)) else None), more


def _jsonable(value: Any) -> Any:
    """Turn tensors into lists and numbers; a number that is not finite becomes None, for JSON has none such."""
    if isinstance(value, Tensor):
        return _jsonable(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): _jsonable(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(each) for each in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    number = float(value) + 0.0  # there is no -0
    return (int(value) if isinstance(value, int) else number) if math.isfinite(number) else None
