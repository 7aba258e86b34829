# SPDX-License-Identifier: Apache-2.0
"""Test the op that gives a loss and its gradient: all terms at once, frozen views, tiny gradients, one dispatch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import sslkernels.functional as SF
from sslkernels.ops.correlation import Formula, Scaling, column_loss

pytestmark = pytest.mark.usefixtures("poisoned_outputs")

SIDES = ("samples", "features")
LOSSES: dict[str, Callable[..., Tensor]] = {
    "barlow_twins": SF.barlow_twins,
    "vicreg": SF.vicreg,
    "vibcreg": SF.vibcreg,
    "vcreg": lambda a, b, **o: SF.vcreg(a, **o) + SF.vcreg(b, **o),
    "covariance_penalty": lambda a, b, **o: SF.covariance_penalty(a, **o) + SF.covariance_penalty(b, **o),
}
STANDARDISED = {
    "inside": (Scaling(1e-2), lambda z: (z - z.mean(0)) / (z.var(0, correction=0) + 1e-2).sqrt()),
    "inside, unbiased": (Scaling(1e-2, unbiased=True), lambda z: (z - z.mean(0)) / (z.var(0) + 1e-2).sqrt()),
    "outside": (Scaling(1e-2, outside=True), lambda z: (z - z.mean(0)) / (z.var(0, correction=0).sqrt() + 1e-2)),
    "not": (Scaling(None), lambda z: z - z.mean(0)),
}
CROSSED = [("cross", name) for name in STANDARDISED if name != "not"]
EVERY_TERM = Formula(agreement=0.7, gap=3.0, off=0.9, power=1, hinge=2.0, hinge_eps=1e-3)


def every_term(z0: Tensor, z1: Tensor, kind: str, standardised: str) -> Tensor:
    """Write the formula out in float64; the names of its weights are those of `EVERY_TERM`."""
    (n, d), columns = z0.shape, STANDARDISED[standardised][1]
    a, b = columns(z0), columns(z1)
    value = 3.0 * (z0 - z1).square().mean()
    value = value + 2.0 * sum((1 - (z.var(0) + 1e-3).sqrt()).relu().mean() for z in (z0, z1))
    count = n - 1 if standardised == "not" else n
    for c in (a.T @ b,) if kind == "cross" else (a.T @ a, b.T @ b):
        value = value + 0.9 * (c - torch.diag(c.diagonal())).square().sum() / count**2 / d
        if kind == "cross":
            value = value + 0.7 * (1 - c.diagonal() / n).square().sum()
    return value


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("n, d", [(2, 3), (9, 20), (40, 7), (33, 70)])
@pytest.mark.parametrize("kind, standardised", [*(("each", name) for name in STANDARDISED), *CROSSED])
def test_every_term_at_once(backend: str, kind: str, standardised: str, n: int, d: int, side: str) -> None:
    z0 = (0.8 * torch.randn(n, d)).requires_grad_()
    z1 = (z0.detach() + 0.5 * torch.randn(n, d) + 1).requires_grad_()
    scaling = STANDARDISED[standardised][0]
    value = column_loss(z0, z1, kind, EVERY_TERM, scaling=scaling, side=side, backend=backend)
    leaves = [z.detach().double().requires_grad_() for z in (z0, z1)]
    exact = every_term(*leaves, kind, standardised)
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-5)
    slopes = torch.autograd.grad(exact, leaves)
    for gradient, slope in zip(torch.autograd.grad(value, (z0, z1)), slopes, strict=True):
        allowed = 1e-5 * (1 + float(slope.abs().max()))
        torch.testing.assert_close(gradient.double(), slope, rtol=0, atol=allowed)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_frozen_view_changes_nothing_for_the_other(backend: str, loss: str, side: str) -> None:
    z0, z1 = torch.randn(2, 12, 8).unbind()
    for dtype in (torch.float32, torch.bfloat16):
        both = [z.to(dtype).requires_grad_() for z in (z0, z1)]
        value = LOSSES[loss](*both, side=side, backend=backend)
        gradients = torch.autograd.grad(value, both)
        for free in (0, 1):
            views = [z.detach().requires_grad_(place == free) for place, z in enumerate(both)]
            alone = LOSSES[loss](*views, side=side, backend=backend)
            assert torch.equal(alone, value)
            assert torch.equal(torch.autograd.grad(alone, views[free])[0], gradients[free])
        with torch.no_grad():
            assert torch.equal(LOSSES[loss](*both, side=side, backend=backend), value)


@pytest.mark.parametrize("side", SIDES)
def test_gradients_too_small_for_float16_wait_for_the_scaler(backend: str, side: str) -> None:
    """A loss 2^-40 times as large, scaled up again, has the same gradient, although float16 ends at 2^-24."""
    found = []
    for power in (0, 40):
        torch.manual_seed(0)
        views = [z.half().requires_grad_() for z in torch.randn(2, 40, 16).unbind()]
        weights = {name: getattr(EVERY_TERM, name) * 2.0**-power for name in ("agreement", "gap", "off", "hinge")}
        value = column_loss(
            *views, "cross", EVERY_TERM._replace(**weights), scaling=Scaling(1e-2), side=side, backend=backend
        )
        found.append(torch.autograd.grad(value * 2.0**power, views))
    for small, gradient in zip(*found, strict=True):
        assert gradient.dtype == torch.float16 and gradient.any()
        assert torch.equal(small, gradient)


class OurOps(TorchDispatchMode):
    """Write down the ops of this package that pass the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # noqa: ANN001, ANN204
        if function.name().startswith("sslkernels::"):
            self.seen.append(function.name().removeprefix("sslkernels::"))
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("loss", ["barlow_twins", "vicreg", "vibcreg"])
def test_one_op_per_loss(loss: str) -> None:
    views = [z.requires_grad_() for z in torch.randn(2, 12, 8).unbind()]
    with OurOps() as ops:
        LOSSES[loss](*views, backend="cpu").backward()
    assert ops.seen == ["correlation_loss"]
