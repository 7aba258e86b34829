# SPDX-License-Identifier: Apache-2.0
"""KoLeo: ties, duplicates, antipodes, groups and rows of any size, beside a formula in float64."""

from __future__ import annotations

import math

import formulas
import pytest
import torch
from torch import Tensor

import sslkernels.functional as SF


def graded(x: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = SF.koleo(x, **options)
    return value.detach(), torch.autograd.grad(value, x)[0]


def exact(x: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    x = x.double().requires_grad_()
    value = formulas.koleo(x, **options).mean()
    return value.detach(), torch.autograd.grad(value, x)[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("group_size", [None, 4, 12])
def test_value_and_gradient_are_those_of_the_formula(backend: str, group_size: int | None, dtype: torch.dtype) -> None:
    """Rows of all dtypes are computed in float32 at least: float16 gives what float32 gives of the same numbers."""
    x = (3 * torch.randn(24, 5)).to(dtype)
    (value, grad), wanted = graded(x, group_size=group_size, backend=backend), exact(x, group_size=group_size)
    close = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(value.double(), wanted[0], rtol=close, atol=close)
    rounded = 5e-4 if dtype == torch.float16 else 10 * close
    torch.testing.assert_close(grad.double(), wanted[1], rtol=rounded, atol=rounded * float(wanted[1].abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_equal_rows_have_a_finite_loss_and_no_gradient(backend: str, dtype: torch.dtype) -> None:
    value, grad = graded(torch.ones(3, 1024, dtype=dtype), backend=backend)
    torch.testing.assert_close(value, torch.tensor(-math.log(1e-8 * math.sqrt(1024) + 1e-8)))
    assert not grad.any()


def test_two_antipodes_find_each_other(backend: str) -> None:
    value, grad = graded(torch.tensor([[1.0, 2.0], [-1.0, -2.0]]), backend=backend)
    torch.testing.assert_close(value, torch.tensor(-math.log(2)))
    assert not grad.any()


def test_of_equally_near_rows_the_first_is_pushed(backend: str) -> None:
    """All rows of an identity are equally far apart: rows 1 to 3 have row 0 as theirs, which has row 1."""
    value, grad = graded(torch.eye(4), backend=backend)
    torch.testing.assert_close(value, torch.tensor(-math.log(2) / 2))
    torch.testing.assert_close(grad.double(), exact(torch.eye(4))[1], atol=1e-7, rtol=1e-6)
    assert grad[2, 0] > 0.1 and grad[2, 1].abs() < 1e-6


def test_near_rows_keep_their_neighbours(backend: str) -> None:
    """Products of these rows all round to 1, so that neighbours by products would be the first rows."""
    angle = torch.tensor([0, 1, 3, 4.5]) * 1e-4
    x = torch.stack([angle.cos(), angle.sin()], 1)
    torch.testing.assert_close(graded(x, backend=backend)[0].double(), exact(x)[0], rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", [1e-9, 1e25])
def test_rows_of_any_size(backend: str, size: float) -> None:
    """Norms below eps count as eps, and squares of large numbers do not leave the range."""
    x = size * torch.randn(9, 4)
    (value, grad), wanted = graded(x, backend=backend), exact(x)
    torch.testing.assert_close(value.double(), wanted[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad.double(), wanted[1], rtol=1e-3, atol=1e-4 * float(wanted[1].abs().max()))


def test_autocast_rounds_nothing() -> None:
    x = torch.randn(16, 5)
    wanted = graded(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(graded(x), wanted, rtol=0, atol=0)


def test_numbers_that_are_none_are_told() -> None:
    assert SF.koleo(torch.tensor([[1.0, math.nan], [1.0, 2.0], [2.0, 1.0]])).isnan()


@pytest.mark.parametrize(
    "x, options, words",
    [
        (torch.ones(1, 3), {}, "x has one row in all; pass at least two"),
        (torch.ones(0, 3), {}, "x has no row in all"),
        (torch.ones(5, 3), {"group_size": 2}, "group_size is 2 and there are 5 rows; pass a size that divides"),
    ],
)
def test_too_few_rows_get_a_sentence(x: Tensor, options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=f"koleo: {words}"):
        SF.koleo(x, **options)
