# SPDX-License-Identifier: Apache-2.0
"""Modules that lightly has too give its values and gradients; its files are read without the package's imports."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from originals import lightly_losses
from torch import Tensor, nn

from sslkernels import losses
from sslkernels.losses import (
    DCLLoss,
    DCLWLoss,
    DirectCLRLoss,
    HypersphereLoss,
    MACLLoss,
    SymNegCosineSimilarityLoss,
)

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4}
SHAPES = [(2, 3), (7, 5), (33, 16)]


@pytest.fixture(scope="module")
def lightly() -> Iterator[Callable[[str, str], Any]]:
    yield from lightly_losses()


def near(x: Tensor, y: Tensor) -> Tensor:
    """A weight that falls with the distance, and has a gradient."""
    return 1 + (x - y).square().sum(1)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "DCLLoss": ("dcl_loss", {}),
    "DCLLoss at 0.5": ("dcl_loss", {"temperature": 0.5}),
    "DCLLoss at 0.02": ("dcl_loss", {"temperature": 0.02}),
    "DCLLoss weighted": ("dcl_loss", {"temperature": 0.3, "weight_fn": near}),
    "DCLLoss with one weight": ("dcl_loss", {"weight_fn": lambda x, y: 0.25}),
    "DCLLoss with a frozen weight": ("dcl_loss", {"weight_fn": lambda x, y: near(x, y).detach().mean()}),
    "DCLLoss whose weights know the side": ("dcl_loss", {"weight_fn": lambda x, y: 1 + x[:, 0] - 2 * y[:, 1]}),
    "DCLWLoss": ("dcl_loss", {}),
    "DCLWLoss at 0.4": ("dcl_loss", {"temperature": 0.4, "sigma": 0.2}),
    "DirectCLRLoss": ("directclr_loss", {}),
    "DirectCLRLoss of two features": ("directclr_loss", {"loss_dim": 2, "temperature": 0.2}),
    "MACLLoss": ("macl_loss", {}),
    "MACLLoss at 0.5": ("macl_loss", {"temperature": 0.5, "alpha": 1.0, "A_0": 0.4}),
    "MACLLoss fixed": ("macl_loss", {"alpha": 0.0}),
    "HypersphereLoss": ("hypersphere_loss", {}),
    "HypersphereLoss weighted": ("hypersphere_loss", {"t": 2.0, "lam": 0.3, "alpha": 1.0}),
}


def views(n: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    common = torch.randn(n, d, dtype=torch.float64)
    return tuple(  # type: ignore[return-value]
        (3 * common + torch.randn_like(common)).to(dtype).requires_grad_() for _ in range(2)
    )


def compare(ours: Callable[..., Tensor], original: Callable[..., Tensor], leaves: tuple[Tensor, ...]) -> None:
    tolerance = TOLERANCE[leaves[0].dtype]
    exact = tuple(leaf.detach().double().requires_grad_() for leaf in leaves)
    found, expected = ours(*leaves), original(*exact)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    theirs = torch.autograd.grad(expected, exact)
    for mine, his in zip(torch.autograd.grad(found, leaves), theirs, strict=True):
        assert mine.dtype == leaves[0].dtype
        torch.testing.assert_close(
            mine.double(), his, rtol=10 * tolerance, atol=10 * tolerance * float(his.abs().max())
        )


@pytest.mark.filterwarnings("ignore:To copy construct")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_lightlys(
    lightly: Callable[[str, str], Any], case: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    file, options = CASES[case]
    name = case.split()[0]
    compare(getattr(losses, name)(**options), lightly(file, name)(**options), views(*shape, dtype))


@pytest.mark.parametrize("loss", [DCLLoss(), DCLLoss(weight_fn=near), DCLWLoss(), MACLLoss(), HypersphereLoss()])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rows_of_16_bits_give_float32(loss: nn.Module, dtype: torch.dtype) -> None:
    z0, z1 = views(8, 16, torch.float32)
    low = [z.detach().to(dtype).requires_grad_() for z in (z0, z1)]
    value = loss(*low)
    value.backward()
    assert value.dtype == torch.float32 and all(z.grad.dtype == dtype for z in low)
    torch.testing.assert_close(value, loss(z0, z1), rtol=0.05, atol=0.05)


def test_a_temperature_that_learns_gets_its_gradient() -> None:
    temperature = nn.Parameter(torch.tensor(0.4))
    for weight_fn in (None, near):
        loss = DCLLoss(temperature, weight_fn)  # type: ignore[arg-type]
        z0, z1 = views(6, 4, torch.float32)
        (slope,) = torch.autograd.grad(loss(z0, z1), temperature)
        step = 1e-2
        above, below = (DCLLoss(0.4 + each, weight_fn)(z0, z1) for each in (step, -step))
        torch.testing.assert_close(slope, (above - below).detach() / (2 * step), rtol=5e-3, atol=1e-3)


def test_a_temperature_of_float64_leaves_the_loss_float32() -> None:
    loss = DCLLoss(torch.tensor([0.3], dtype=torch.float64), weight_fn=near)
    found = loss(*views(5, 4, torch.float32))
    assert (found.dtype, found.shape) == (torch.float32, ())


def test_weights_of_one_are_no_weights() -> None:
    z0, z1 = views(6, 4, torch.float64)
    torch.testing.assert_close(DCLLoss(weight_fn=lambda x, y: torch.ones(6))(z0, z1), DCLLoss()(z0, z1))


@pytest.mark.parametrize(
    "weights", [torch.ones(6, 1), torch.ones(5), "x", None], ids=["matrix", "fewer", "text", "none"]
)
def test_weights_that_do_not_fit_are_refused(weights: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="^DCLLoss: .*weight_fn.*\\.$"):
        DCLLoss(weight_fn=lambda x, y: weights)(*views(6, 4, torch.float32))


def test_direct_clr_takes_maps_and_keeps_a_bank_of_its_features() -> None:
    z0, z1 = torch.randn(2, 5, 4, 2, 2)
    same = losses.NTXentLoss()(z0.flatten(1)[:, :6], z1.flatten(1)[:, :6])
    assert torch.equal(DirectCLRLoss(loss_dim=6)(z0, z1), same)
    loss = DirectCLRLoss(6, 0.5, (12, 6))
    loss(z0.requires_grad_(), z1)
    resumed = DirectCLRLoss(6, 0.5, (12, 6))
    resumed.load_state_dict(loss.state_dict())
    assert torch.equal(loss(z0, z1), resumed(z0, z1))
    with pytest.raises(ValueError, match="^DirectCLRLoss: temperature is 0.0; pass"):
        DirectCLRLoss(temperature=0.0)


def test_macl_keeps_the_digits_of_small_losses() -> None:
    """In float32 1 - P is 0 for such rows; the weight must be 1 / (loss + 1e-8) nevertheless."""
    rows = torch.cat([torch.eye(6), -torch.eye(6)])
    least = math.log1p(20 * math.exp(-1 / 0.06) + 2 * math.exp(-2 / 0.06))  # of 22 negatives two are opposite
    exact = least / (1e-8 - math.expm1(-least))
    assert MACLLoss(temperature=0.04)(rows, rows).item() == pytest.approx(exact, rel=1e-4)
    assert exact < 0.995


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4), (4,)], ids=str)
def test_symmetric_cosine_is_the_formula(shape: tuple[int, ...]) -> None:
    """lightly has removed the class in 1.6; this is its line of 1.5."""
    leaves = tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(4))

    def exact(z0: Tensor, p0: Tensor, z1: Tensor, p1: Tensor) -> Tensor:
        cosines = [F.cosine_similarity(p, z.detach(), dim=-1).mean() for p, z in ((p0, z1), (p1, z0))]
        return -sum(cosines) / 2 + 0 * (z0.sum() + z1.sum())

    found = SymNegCosineSimilarityLoss()((leaves[0], leaves[1]), (leaves[2], leaves[3]))
    torch.testing.assert_close(found, exact(*leaves))
    slopes = torch.autograd.grad(found, leaves, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(slopes, torch.autograd.grad(exact(*leaves), leaves))


def test_symmetric_cosine_refuses_views_of_unlike_shapes() -> None:
    z = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"^SymNeg.*: out0\[0\] has shape \(4, 3\) and out1\[0\] \(2, 3\); both"):
        SymNegCosineSimilarityLoss()((z, z), (z[:2], z))
    with pytest.raises(TypeError, match=r"^SymNeg.*: out0\[0\] has dtype torch.float32 and out0\[1\] torch.float64"):
        SymNegCosineSimilarityLoss()((z, z.double()), (z, z))
    with pytest.raises(ValueError, match=r"^SymNeg.*: out0\[0\] has shape \(0, 3\); pass a batch"):
        SymNegCosineSimilarityLoss()((z[:0], z[:0]), (z[:0], z[:0]))
