# SPDX-License-Identifier: Apache-2.0
"""The Gram loss beside its formula in float64: clipping, tiles, small losses, and a teacher of another width."""

from __future__ import annotations

import formulas
import pytest
import torch
from torch import Tensor

import sslkernels.functional as SF
from sslkernels.functional import gram


def graded(x: Tensor, target: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = SF.gram_loss(x, target, **options)
    return value.detach(), torch.autograd.grad(value, x)[0]


def exact(x: Tensor, target: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    x = x.double().requires_grad_()
    value = formulas.gram_loss(x, target.double(), **options).mean()
    return value.detach(), torch.autograd.grad(value, x)[0]


def assert_near(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], close: float) -> None:
    torch.testing.assert_close(found[0].double(), wanted[0], rtol=close, atol=0)
    torch.testing.assert_close(found[1].double(), wanted[1], rtol=close, atol=close * float(wanted[1].abs().max()))


@pytest.mark.parametrize("width", [6, 4])
@pytest.mark.parametrize("clip", gram.CLIPS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("tile", [1, 100, 1 << 22])
def test_every_form_in_tiles_of_any_size(
    clip: str, normalize: bool, width: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles hold some rows, one image and a part of the others, or everything."""
    monkeypatch.setattr(gram, "TILE", tile)
    x, target = torch.randn(5, 9, 6, dtype=torch.float64), torch.randn(5, 9, width, dtype=torch.float64)
    options = {"clip": clip, "normalize": normalize}
    assert_near(graded(x, target, **options), exact(x, target, **options), 1e-12)


@pytest.mark.parametrize("clip", gram.CLIPS)
def test_a_small_loss_keeps_its_digits(backend: str, clip: str) -> None:
    """Differences of similarities are 1e-6 here, and those of rounded float32 similarities wrong by a tenth."""
    x = torch.randn(2, 33, 24)
    target = x * (1 + 1e-6 * torch.randn_like(x))
    options = {"clip": clip, "normalize": False}
    assert_near(graded(x, target, **options, backend=backend), exact(x, target, **options), 1e-4)


def test_a_turned_teacher_is_the_same(backend: str) -> None:
    """A Gram matrix does not know how its rows are turned: the loss of a turned teacher is nearly zero."""
    x = torch.randn(2, 65, 16)
    turn, _ = torch.linalg.qr(torch.randn(16, 16))
    assert SF.gram_loss(x, x @ turn, backend=backend) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rows_of_16_bits_are_computed_in_float32(dtype: torch.dtype) -> None:
    x, target = torch.randn(2, 9, 6).to(dtype), torch.randn(2, 9, 6).to(dtype)
    found, wanted = graded(x, target), exact(x, target)
    torch.testing.assert_close(found[0].double(), wanted[0], rtol=1e-6, atol=0)
    assert found[1].dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(graded(x, target), found, rtol=0, atol=0)


def test_unlike_patches_get_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 4\) and target \(2, 4, 4\); pass the same patches"):
        SF.gram_loss(torch.ones(2, 3, 4), torch.ones(2, 4, 4))
