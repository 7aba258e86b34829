# SPDX-License-Identifier: Apache-2.0
"""The functions of solo-learn give what plain formulas give in float64, and what its own give where it is installed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from originals import solo_learn_losses
from torch import Tensor

from sslkernels.losses import solo_learn

N, D, K = 6, 5, 9


def rows(n: int = N, unit: bool = False) -> Tensor:
    x = torch.randn(n, D, dtype=torch.float64)
    return (F.normalize(x, dim=1) if unit else x).requires_grad_()


def simclr(z: Tensor, indexes: Tensor, temperature: float = 0.1) -> Tensor:
    z = z / z.norm(dim=1, keepdim=True)
    weights = (z @ z.T / temperature).exp() * (1 - torch.eye(len(z)))
    same = (indexes[:, None] == indexes).double()
    return -((weights * same).sum(1) / weights.sum(1)).log().mean()


def nnclr(nn: Tensor, p: Tensor, temperature: float = 0.1) -> Tensor:
    nn, p = nn / nn.norm(dim=1, keepdim=True), p / p.norm(dim=1, keepdim=True)
    return -(nn @ p.T / temperature).log_softmax(1).diagonal().mean()


def moco(query: Tensor, key: Tensor, queue: Tensor, temperature: float = 0.1) -> Tensor:
    positive = (query * key).sum(1, keepdim=True)
    return -(torch.cat([positive, query @ queue], 1) / temperature).log_softmax(1)[:, 0].mean()


def ressl(q: Tensor, k: Tensor, queue: Tensor, temperature_q: float = 0.1, temperature_k: float = 0.04) -> Tensor:
    wanted = (k @ queue.T / temperature_k).softmax(1).detach()
    return -(wanted * (q @ queue.T / temperature_q).log_softmax(1)).sum(1).mean()


def cosine(p: Tensor, z: Tensor) -> Tensor:
    return ((p * z.detach()).sum(1) / p.norm(dim=1) / z.detach().norm(dim=1)).mean()


def barlow(z1: Tensor, z2: Tensor, lamb: float = 5e-3, scale_loss: float = 0.025) -> Tensor:
    z1, z2 = ((z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() for z in (z1, z2))
    squares = (z1.T @ z2 / len(z1) - torch.eye(D)).square()
    return scale_loss * (lamb * squares.sum() + (1 - lamb) * squares.trace())


def hinges(z1: Tensor, z2: Tensor) -> Tensor:
    return sum((1 - (z.var(0) + 1e-4).sqrt()).clamp_min(0).mean() for z in (z1, z2))


def off_diagonal(x: Tensor) -> Tensor:
    return x.square().sum() - x.diagonal().square().sum()


def vicreg(z1: Tensor, z2: Tensor, sim: float = 25.0, var: float = 25.0, cov: float = 1.0) -> Tensor:
    covariance = sum(off_diagonal(z.T.cov()) / D for z in (z1, z2))
    return sim * (z1 - z2).square().mean() + var * hinges(z1, z2) + cov * covariance


def vibcreg(z1: Tensor, z2: Tensor, sim: float = 25.0, var: float = 25.0, cov: float = 200.0) -> Tensor:
    correlation = sum(off_diagonal(z.T.corrcoef()) / D**2 for z in (z1, z2))
    return sim * (z1 - z2).square().mean() + var * hinges(z1, z2) + cov * correlation


def queued() -> list[Tensor]:
    return [rows(unit=True), rows(unit=True), rows(K, unit=True).detach().T.requires_grad_()]


def views() -> list[Tensor]:
    return [rows(3 * N), torch.arange(N).repeat(3)]


def classes() -> list[Tensor]:
    return [rows(8), torch.tensor([4, 4, -1, -1, 4, -1, 9, 9])]


def pair() -> list[Tensor]:
    return [rows(), rows()]


def scored() -> list[Tensor]:
    return [rows(unit=True), rows(unit=True), rows(K, unit=True)]


# Each function: a draw of its tensors, options, and the plain formula.
CASES: dict[str, tuple[Callable[[], list[Tensor]], dict[str, Any], Callable[..., Tensor]]] = {
    "simclr": (views, {}, simclr),
    "simclr classes": (classes, {"temperature": 0.5}, simclr),
    "nnclr": (pair, {}, nnclr),
    "nnclr warm": (pair, {"temperature": 0.7}, nnclr),
    "moco": (queued, {}, moco),
    "mocov2plus": (queued, {"temperature": 0.3}, moco),
    "mocov3": (pair, {}, lambda q, k, temperature=0.2: 2 * temperature * nnclr(q, k, temperature)),
    "ressl": (scored, {}, ressl),
    "ressl warm": (scored, {"temperature_q": 0.3, "temperature_k": 0.2}, ressl),
    "byol": (pair, {}, lambda p, z: 2 - 2 * cosine(p, z)),
    "byol plain": (pair, {"simplified": False}, lambda p, z, simplified: 2 - 2 * cosine(p, z)),
    "simsiam": (pair, {}, lambda p, z: -cosine(p, z)),
    "simsiam plain": (pair, {"simplified": False}, lambda p, z, simplified: -cosine(p, z)),
    "barlow": (pair, {}, barlow),
    "barlow whole": (pair, {"lamb": 0.1, "scale_loss": 1.0}, barlow),
    "vicreg": (pair, {}, vicreg),
    "vibcreg": (pair, {}, vibcreg),
}


def compare(found: Tensor, expected: Tensor, given: list[Tensor]) -> None:
    leaves = [x for x in given if x.requires_grad]
    value, slope = (1e-10, 1e-8) if found.dtype == torch.float64 else (1e-5, 1e-4)
    torch.testing.assert_close(found, expected, rtol=value, atol=value / 10)
    slopes = [
        torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True) for loss in (found, expected)
    ]
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=slope, atol=slope / 1000)


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_formula(case: str) -> None:
    draw, options, formula = CASES[case]
    given = draw()
    compare(getattr(solo_learn, f"{case.split()[0]}_loss_func")(*given, **options), formula(*given, **options), given)


@pytest.mark.parametrize("case", ["vicreg", "vibcreg"])
def test_weights_are_of_their_terms(case: str) -> None:
    given = pair()
    found = getattr(solo_learn, f"{case}_loss_func")(*given, 1.5, 2.5, 3.5)
    compare(found, CASES[case][2](*given, 1.5, 2.5, 3.5), given)


def test_each_function_is_tried() -> None:
    assert {f"{case.split()[0]}_loss_func" for case in CASES} == set(solo_learn.__all__)


@pytest.mark.parametrize("name", ["moco", "nnclr", "ressl", "byol", "simsiam", "barlow", "vicreg"])
def test_beside_solo_learn(name: str) -> None:
    """simclr_loss_func took two views before 1.0.3, and the files of later functions need the whole package."""
    original = getattr(solo_learn_losses(name), f"{name}_loss_func")
    ours = getattr(solo_learn, f"{name}_loss_func")
    assert [(p.name, p.default) for p in inspect.signature(ours).parameters.values()] == [
        (p.name, p.default) for p in inspect.signature(original).parameters.values()
    ]
    given = CASES[name][0]()
    if name == "barlow":  # its batch norm computes in float32 alone
        given = [x.detach().float().requires_grad_() for x in given]
    compare(ours(*given), original(*given), given)
    if name in ("byol", "simsiam"):
        compare(ours(*given, simplified=False), original(*given, simplified=False), given)


def test_a_row_alone_makes_the_loss_infinite_as_there() -> None:
    z = rows(4)
    indexes = torch.tensor([0, 0, 1, 2])
    assert simclr(z, indexes) == solo_learn.simclr_loss_func(z, indexes) == torch.inf


@pytest.mark.parametrize(
    ("says", "call"),
    [
        ("simclr_loss_func: indexes has dtype torch.float32", lambda x: solo_learn.simclr_loss_func(x, x)),
        ("mocov2plus_loss_func: queue has shape .* pass a column of 3", lambda x: solo_learn.moco_loss_func(x, x, x)),
        ("ressl_loss_func: temperature_k is 0", lambda x: solo_learn.ressl_loss_func(x, x, x, temperature_k=0)),
        ("byol_loss_func: simplified is 1", lambda x: solo_learn.byol_loss_func(x, x, 1)),
        ("barlow_loss_func: scale_loss is a str", lambda x: solo_learn.barlow_loss_func(x, x, scale_loss="x")),
    ],
    ids=["indexes", "queue", "temperature", "simplified", "scale"],
)
def test_wrong_values_are_named(says: str, call: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        call(torch.ones(4, 3))
