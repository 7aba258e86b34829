# SPDX-License-Identifier: Apache-2.0
"""Compare every loss of the family, on both sides, with the float64 formulas: values, gradients, finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import correlation_oracle
import pytest
import rows_oracle
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.gradcheck import gradcheck

import sslkernels.functional as SF

pytestmark = pytest.mark.usefixtures("poisoned_outputs")

SIDES = ("samples", "features")
# There is one row more or less than features, or one row or feature more than a vector, a panel or a block of rows has.
SHAPES = [(2, 1), (2, 5), (3, 2), (7, 6), (7, 7), (7, 8), (33, 70), (100, 13), (49, 49), (194, 50), (50, 194)]


def weighted(pair: tuple[Tensor, Tensor]) -> Tensor:
    """Make one number of a diagonal and a total."""
    diagonal, total = pair
    return (diagonal * torch.linspace(1, 2, len(diagonal), dtype=diagonal.dtype)).sum() + total


Loss = Callable[..., Tensor]
LOSSES: dict[str, tuple[Loss, Loss]] = {
    "barlow_twins": (
        lambda a, b, **o: SF.barlow_twins(a, b, lambd=0.2, **o),
        lambda a, b: correlation_oracle.barlow_twins(a, b, 0.2),
    ),
    "barlow_twins-outside": (
        lambda a, b, **o: SF.barlow_twins(a, b, eps=0.1, convention="stable-pretraining", **o),
        lambda a, b: correlation_oracle.barlow_twins(a, b, eps=0.1, convention="stable-pretraining"),
    ),
    "vicreg": (SF.vicreg, correlation_oracle.vicreg),
    "vicreg-weights": (
        lambda a, b, **o: SF.vicreg(a, b, sim=0.0, var=3.0, cov=7.0, eps=0.1, **o),
        lambda a, b: correlation_oracle.vicreg(a, b, 0.0, 3.0, 7.0, 0.1),
    ),
    "covariance_penalty": (
        lambda a, b, **o: SF.covariance_penalty(a, **o) + 0 * b.sum(),
        lambda a, b: correlation_oracle.covariance_penalty(a) + 0 * b.sum(),
    ),
    "variance_hinge": (
        lambda a, b, side, **o: SF.variance_hinge(0.5 * a, **o) + 0 * b.sum(),
        lambda a, b: correlation_oracle.variance_hinge(0.5 * a) + 0 * b.sum(),
    ),
    "cross_correlation_sq": (
        lambda a, b, **o: weighted(SF.cross_correlation_sq(a, b, **o)),
        lambda a, b: weighted(correlation_oracle.cross_correlation_sq(a, b)),
    ),
}


def views(n: int, d: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Make two similar but unequal views of n rows, off centre, with columns of unlike spread."""
    z0 = torch.randn(n, d, dtype=torch.float64)
    z1 = z0 + 0.5 * torch.randn(n, d, dtype=torch.float64)
    spread = torch.linspace(0.5, 1.5, d, dtype=torch.float64)
    return (spread * z0 + 0.3).to(dtype).requires_grad_(), (spread * z1 - 0.2).to(dtype).requires_grad_()


def found(loss: Loss, z0: Tensor, z1: Tensor, **options: Any) -> list[Tensor]:
    value = loss(z0, z1, **options)
    return [value.detach(), *torch.autograd.grad(value, (z0, z1))]


def exact(loss: Loss, z0: Tensor, z1: Tensor) -> list[Tensor]:
    leaves = [z.detach().double().requires_grad_() for z in (z0, z1)]
    return found(loss, *leaves)


def assert_near(actual: list[Tensor], expected: list[Tensor], tolerance: float, scale: float = 1.0) -> None:
    value, *gradients = actual
    wanted, *slopes = expected
    torch.testing.assert_close(value.double(), wanted, rtol=tolerance, atol=tolerance)
    size = max(float(slope.abs().max()) for slope in slopes)
    for gradient, slope in zip(gradients, slopes, strict=True):
        torch.testing.assert_close(gradient.double(), slope, rtol=0, atol=tolerance * (size + scale))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("n, d", SHAPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_double_precision(backend: str, loss: str, n: int, d: int, side: str) -> None:
    ours, formula = LOSSES[loss]
    z0, z1 = views(n, d)
    assert_near(found(ours, z0, z1, side=side, backend=backend), exact(formula, z0, z1), 1e-11)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("n, d", [(7, 8), (33, 70), (100, 13), (194, 50), (50, 194)])
@pytest.mark.parametrize("loss", LOSSES)
def test_single_precision(backend: str, loss: str, n: int, d: int, side: str) -> None:
    ours, formula = LOSSES[loss]
    z0, z1 = views(n, d, torch.float32)
    actual = found(ours, z0, z1, side=side, backend=backend)
    assert actual[0].dtype == actual[1].dtype == torch.float32
    assert_near(actual, exact(formula, z0, z1), 1e-5, scale=0)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("n, d", [(33, 70), (100, 13), (194, 50)])
@pytest.mark.parametrize("loss", LOSSES)
def test_low_precision_is_no_worse_than_its_operands(
    backend: str, loss: str, n: int, d: int, dtype: torch.dtype, side: str
) -> None:
    """The error against float64 is one rounding of a product's operands, and none of its sums."""
    ours, formula = LOSSES[loss]
    z0, z1 = views(n, d, dtype)
    value, *gradients = found(ours, z0, z1, side=side, backend=backend)
    assert value.dtype == torch.float32 and gradients[0].dtype == dtype
    wanted, *slopes = exact(formula, z0, z1)
    # The columns a are rounded. On the side of samples all of C feels that, and some N / (N + D) of it is the diagonal.
    epsilon = torch.finfo(dtype).eps * (1 + n / d if side == "samples" else 1)
    torch.testing.assert_close(value.double(), wanted, rtol=epsilon, atol=epsilon)
    for gradient, slope in zip(gradients, slopes, strict=True):
        if not slope.any():
            assert not gradient.any()
            continue
        difference = gradient.double() - slope
        assert difference.norm() < epsilon * slope.norm()
        # Rounding must not push one way: there is no bias along the gradient.
        assert abs(float((difference * slope).sum() / slope.square().sum())) < epsilon / 4


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradcheck(backend: str, loss: str, side: str) -> None:
    ours, _ = LOSSES[loss]
    z0, z1 = views(5, 4)
    assert gradcheck(lambda a, b: ours(a, b, side=side, backend=backend), (z0, z1))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("n, d", [(16, 16), (16, 17), (16, 15), (130, 129), (129, 130)])
def test_both_sides_agree_to_rounding(backend: str, loss: str, n: int, d: int) -> None:
    ours, _ = LOSSES[loss]
    for dtype, close in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        z0, z1 = views(n, d, dtype)
        one, other = (found(ours, z0, z1, side=side, backend=backend) for side in SIDES)
        assert_near(one, [x.double() for x in other], close)


@pytest.mark.parametrize("n, d", [(16, 16), (16, 17), (16, 15)])
def test_the_side_with_fewer_is_taken(n: int, d: int) -> None:
    z0, z1 = views(n, d, torch.float32)
    taken = "samples" if n < d else "features"
    for loss in ("barlow_twins", "vicreg"):
        ours, _ = LOSSES[loss]
        for one, other in zip(found(ours, z0, z1), found(ours, z0, z1, side=taken), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_view_with_itself(backend: str, loss: str, side: str) -> None:
    ours, formula = LOSSES[loss]
    z, _ = views(12, 9)
    value = ours(z, z, side=side, backend=backend)
    (gradient,) = torch.autograd.grad(value, z)
    (slope,) = rows_oracle.gradients(lambda z: formula(z, z), [z])
    assert slope is not None
    assert_near([value.detach(), gradient], [formula(z.detach(), z.detach()), slope], 1e-11)


@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("loss", ["barlow_twins", "vicreg", "cross_correlation_sq"])
def test_a_frozen_view_gets_no_gradient(backend: str, loss: str, side: str, frozen: int) -> None:
    ours, formula = LOSSES[loss]
    both = list(views(12, 9))
    wanted = exact(formula, *both)[1:]
    both[frozen] = both[frozen].detach()
    ours(*both, side=side, backend=backend).backward()
    assert both[frozen].grad is None
    torch.testing.assert_close(both[1 - frozen].grad, wanted[1 - frozen], rtol=1e-10, atol=1e-12)


@st.composite
def strided(draw: st.DrawFn, n: int, d: int, generator: torch.Generator) -> Tensor:
    """Draw n rows at any offset and stride; with stride 0, columns are constant."""
    offset, step = draw(st.integers(0, 3)), draw(st.sampled_from([1, 1, 2]))
    stride = draw(st.sampled_from([d, d + 1, d + 5, 0, 1]))
    storage = torch.randn(offset + 2 * n * (d + 5), generator=generator, dtype=torch.float64)
    storage = storage * draw(st.sampled_from([1.0, 1.0, 0.0, 1e-3, 20.0]))
    return torch.as_strided(storage, (n, d), (step * stride, step), offset)


@given(data=st.data())
@pytest.mark.parametrize("loss", ["barlow_twins", "vicreg", "cross_correlation_sq"])
def test_odd_layouts(backend: str, loss: str, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**16)))
    n, d = data.draw(st.integers(2, 40)), data.draw(st.sampled_from([1, 2, 3, 7, 16, 17, 33, 49]))
    z0, z1 = (data.draw(strided(n, d, generator)) for _ in range(2))
    ours, formula = LOSSES[loss]
    leaves = [z.detach().requires_grad_() for z in (z0, z1)]
    actual = found(ours, *leaves, side=data.draw(st.sampled_from(SIDES)), backend=backend)
    expected = exact(formula, z0, z1)
    # If a column hardly varies beside eps, standardising multiplies rounding by up to the inverse root of eps.
    tolerance = 1e-9 * (1 + float(expected[0].abs()))
    assert_near(actual, expected, tolerance)
