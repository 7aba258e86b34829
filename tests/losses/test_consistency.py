# SPDX-License-Identifier: Apache-2.0
"""CO2Regularizer gives lightly's values, and the gradient of the formula, which lightly cuts off."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.losses import CO2Regularizer

pytestmark = pytest.mark.filterwarnings("ignore:To copy construct")
OPTIONS: list[dict[str, Any]] = [{}, {"alpha": 0.3, "t_consistency": 0.4}]


@pytest.fixture(scope="module")
def original() -> Iterator[Any]:
    """Import lightly's class without its packages, which import torchvision."""
    found = importlib.util.find_spec("lightly")
    if found is None or found.origin is None:
        pytest.skip("lightly is missing; pip install --no-deps lightly brings it")
    root = Path(found.origin).parent
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "lightly"}
    for name in ("", ".loss", ".loss.regularizer", ".utils", ".models", ".models.modules"):
        package = types.ModuleType(f"lightly{name}")
        package.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules[package.__name__] = package
    utils = sys.modules["lightly.models.utils"] = types.ModuleType("lightly.models.utils")
    sys.modules["lightly.models"].utils = utils  # type: ignore[attr-defined]
    yield importlib.import_module("lightly.loss.regularizer.co2").CO2Regularizer
    for name in [name for name in sys.modules if name.split(".")[0] == "lightly"]:
        del sys.modules[name]
    sys.modules.update(kept)


def views(n: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    common = torch.randn(n, d, dtype=torch.float64)
    one, other = ((3 * common + torch.randn_like(common)).to(dtype).requires_grad_() for _ in range(2))
    return one, other


def formula(out0: Tensor, out1: Tensor, bank: Tensor | None, alpha: float = 1.0, t_consistency: float = 0.05) -> Tensor:
    """One pair after another, its positive first."""
    a, b = F.normalize(out0.double(), dim=1), F.normalize(out1.double(), dim=1)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(a)):
        others = [j for j in range(len(a)) if j != i]
        beside_a, beside_b = (b[others], a[others]) if bank is None else (bank, bank)
        p = torch.softmax(torch.cat([a[i] @ b[i][:, None], beside_a @ a[i]]) / t_consistency, 0)
        q = torch.softmax(torch.cat([b[i] @ a[i][:, None], beside_b @ b[i]]) / t_consistency, 0)
        total = total + (p * (p.log() - q.log())).sum() + (q * (q.log() - p.log())).sum()
    return alpha / 2 * total / len(a)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("size", [0, 11])
@pytest.mark.parametrize("shape", [(1, 3), (2, 3), (7, 5), (33, 16)], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_value_and_gradient(
    original: Any, options: dict[str, Any], shape: tuple[int, int], size: int, dtype: torch.dtype
) -> None:
    bank = (size, shape[1]) if size else 0
    ours, theirs = CO2Regularizer(**options, memory_bank_size=bank), original(**options, memory_bank_size=bank)
    close = 1e-9 if dtype == torch.float64 else 1e-4
    for _ in range(3):  # the bank fills, and begins again
        leaves, negatives = views(*shape, dtype), None
        if size:
            ours.memory_bank.double()
            negatives = ours.memory_bank.keys.clone()
            theirs.memory_bank.bank = negatives.clone()  # lightly drops keys where a batch passes the bank's end
        found, exact = ours(*leaves), formula(*leaves, negatives, **options)
        torch.testing.assert_close(found.double(), exact, rtol=close, atol=close)
        value = theirs(*(leaf.detach().double() for leaf in leaves))
        torch.testing.assert_close(found.double(), value, rtol=close, atol=close)
        slopes = torch.autograd.grad(exact, leaves)
        # Shares of views that agree are equal but for a rounding, which the temperature of 0.05 multiplies by 20.
        rounding = 20 * torch.finfo(dtype).eps
        for one, other in zip(torch.autograd.grad(found, leaves), slopes, strict=True):
            largest = float(other.abs().max())
            torch.testing.assert_close(one, other, rtol=10 * close, atol=10 * close * largest + rounding)


def test_the_bank_is_read_first_and_written_in_training_alone() -> None:
    loss = CO2Regularizer(memory_bank_size=(6, 4))
    out0, out1 = views(3, 4, torch.float32)
    before = loss.memory_bank.keys.clone()
    loss(out0.detach(), out1)
    assert torch.equal(loss.memory_bank.keys, before)
    value = loss(out0, out1)
    torch.testing.assert_close(value.double(), formula(out0, out1, before.double()), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss.memory_bank.keys[:3], F.normalize(out1.detach(), dim=1))
    assert torch.equal(loss.memory_bank.keys[3:], before[3:]) and not loss.memory_bank.keys.requires_grad
    resumed = CO2Regularizer(memory_bank_size=(6, 4))
    resumed.load_state_dict(loss.state_dict())
    assert torch.equal(resumed(out0, out1), loss(out0, out1))
    with pytest.warns(UserWarning, match="creates the bank at the first call"):
        lazy = CO2Regularizer(memory_bank_size=6)
    lazy(out0, out1)
    assert lazy.memory_bank.keys.shape == (6, 4)


@pytest.mark.parametrize("size", [0, (20, 16)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rows_of_16_bits_give_float32(dtype: torch.dtype, size: Any) -> None:
    loss = CO2Regularizer(t_consistency=0.3, memory_bank_size=size)
    bank = None if size == 0 else loss.memory_bank.keys.double().clone()
    low = [z.detach().to(dtype).requires_grad_() for z in views(8, 16, torch.float32)]
    value = loss(*low)
    exact = formula(*low, bank, t_consistency=0.3)
    value.backward()
    assert value.dtype == torch.float32 and all(z.grad.dtype == dtype for z in low)
    torch.testing.assert_close(value.double(), exact, rtol=0.05, atol=0.01)
