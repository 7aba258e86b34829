# SPDX-License-Identifier: Apache-2.0
"""Run every loss that takes a group on three gloo ranks with unlike numbers of rows, beside one process.

What the gradient needs of other ranks' rows is exchanged in the forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from every_loss import EVERY_LOSS, Inputs, Loss, gradients
from worlds import WorldsOf, caught

SIZES = (5, 2, 4)
WORLD = len(SIZES)
GROUPED = {name: loss for name, loss in EVERY_LOSS.items() if loss.takes("group")}
CASES = [(name, reduction) for name, loss in GROUPED.items() for reduction in loss.reductions()]
COLLECTIVES = (
    "all_gather_into_tensor", "all_gather_single", "reduce_scatter_tensor", "reduce_scatter_single", "all_reduce",
    "broadcast", "all_gather", "all_to_all", "all_to_all_single", "all_gather_object", "broadcast_object_list",
)  # fmt: skip
# One process standardises with the statistics of all rows, and so must three for the same value.
SHARED = {"barlow_twins": {"statistics": "global"}}
# These are made of several nodes, which hand gradients to the ranks that own the rows.
STEPS = ("clip_distillation", "frossl", "mean_entropy")
# The same on every rank: parameters, and what a rank has received from the first one.
WHOLE = (
    "temperature", "logit_scale", "logit_bias", "teacher_logit_scale", "negatives", "covariance", "slices", "weight",
    "prior",
)  # fmt: skip
# Losses that are the same number on every rank.
ONE_VALUE = (
    "barlow_twins",
    "vicreg",
    "vcreg",
    "vibcreg",
    "variance_hinge",
    "covariance_penalty",
    "sigreg",
    "uniformity",
)


def options_of(loss: Loss, reduction: str) -> dict[str, Any]:
    options = {"reduction": reduction} if loss.takes("reduction") else {}
    return {**options, **SHARED.get(loss.function.__name__, {})}


def problem(name: str) -> Inputs:
    torch.manual_seed(len(name))
    return EVERY_LOSS[name].inputs(torch.float64, sum(SIZES))


def part(inputs: Inputs, rank: int) -> Inputs:
    """Take this rank's rows; they are the last dimension but one."""
    return {
        name: (x if name in WHOLE else x.split(SIZES, 0 if x.dim() == 1 else -2)[rank])
        .detach()
        .clone()
        .requires_grad_(x.requires_grad)
        for name, x in inputs.items()
    }


@contextmanager
def counted() -> Iterator[list[str]]:
    """List the names of collectives as they start."""
    seen: list[str] = []
    before = {name: getattr(dist, name) for name in COLLECTIVES if hasattr(dist, name)}

    def listed(name: str, collective: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            return collective(*arguments, **options)

        return call

    for name, collective in before.items():
        setattr(dist, name, listed(name, collective))
    try:
        yield seen
    finally:
        for name, collective in before.items():
            setattr(dist, name, collective)


def run_case(name: str, reduction: str, rank: int) -> dict[str, Any]:
    loss = GROUPED[name]
    inputs, options = part(problem(name), rank), options_of(loss, reduction)
    with counted() as forward:
        value = loss(inputs, group="world", **options)
    with counted() as backward:
        found = gradients(value, inputs, retain_graph=True)
    again = gradients(value, inputs)
    with counted() as alone, torch.no_grad():
        without = loss(inputs, group="world", **options)
    return {
        "value": value.detach(),
        "gradients": found,
        "same bits": all(torch.equal(found[each], again[each]) for each in found),
        "value without gradients": without,
        "forward": forward,
        "backward": backward,
        "without gradients": alone,
    }


def differs(name: str, rank: int) -> str:
    """Freeze the inputs of the last rank alone, and return what it is told."""
    inputs = part(problem(name), rank)
    if rank == WORLD - 1:
        inputs = {each: x.detach() for each, x in inputs.items()}
    try:
        GROUPED[name](inputs, group="world", **options_of(GROUPED[name], "mean"))
    except ValueError as error:
        return str(error)
    return "nothing was raised"


def job(rank: int, world: int) -> dict[str, Any]:
    results: dict[str, Any] = {
        f"{name}-{reduction}": caught(run_case, name, reduction, rank) for name, reduction in CASES
    }
    results["differs"] = {name: caught(differs, name, rank) for name in GROUPED}
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return WorldsOf(job, tmp_path_factory)(WORLD)


@pytest.mark.parametrize("name, reduction", CASES)
def test_ranks_together_give_value_and_gradient_of_one_process(ranks: Any, name: str, reduction: str) -> None:
    results = [result[f"{name}-{reduction}"] for result in ranks]
    assert all(isinstance(result, dict) for result in results), results
    options = {} if reduction == "mean" else {"reduction": reduction}
    value, slopes = GROUPED[name].exact(problem(name), **options)
    torch.testing.assert_close(sum(result["value"] for result in results) / WORLD, value, rtol=1e-9, atol=1e-9)
    for each, slope in slopes.items():
        if each in WHOLE:
            together = sum(result["gradients"][each] for result in results) / WORLD
        else:
            together = torch.cat([result["gradients"][each] for result in results], -2) / WORLD
        torch.testing.assert_close(together, slope, rtol=1e-9, atol=1e-9)
    for result in results:
        assert result["same bits"]
        torch.testing.assert_close(result["value without gradients"], result["value"], rtol=1e-13, atol=0)


@pytest.mark.parametrize("name, reduction", CASES)
def test_every_rank_makes_the_same_collectives(ranks: Any, name: str, reduction: str) -> None:
    for way in ("forward", "backward", "without gradients"):
        first, *others = (result[f"{name}-{reduction}"][way] for result in ranks)
        assert all(other == first for other in others)
        if way != "backward":
            assert first


@pytest.mark.parametrize("name, reduction", CASES)
def test_the_backward_exchanges_a_number_at_most(ranks: Any, name: str, reduction: str) -> None:
    """Losses whose value is the same on every rank sum what ranks send back to it; STEPS still have several."""
    function = GROUPED[name].function.__name__
    for result in ranks:
        exchanged = result[f"{name}-{reduction}"]["backward"]
        assert function in STEPS or exchanged == (["all_reduce"] if function in ONE_VALUE else [])


@pytest.mark.parametrize("name", GROUPED)
def test_a_rank_with_frozen_inputs_is_refused(ranks: Any, name: str) -> None:
    for result in ranks:
        assert result["differs"][name].startswith("group: ranks disagree on which inputs need a gradient")
