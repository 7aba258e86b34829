# SPDX-License-Identifier: Apache-2.0
"""Losses of inputs of any size against float64: sums must not leave the range where the result does not.

Results are compared where float32 (float16) can hold them. The fuzz measures how exact they are at inputs of size 1;
here a thousandth of the tensor's largest number tells right from wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import formulas
import pytest
import torch
from interpreted import INTERPRETED, run_interpreted
from torch import Tensor

import sslkernels.functional as SF

if INTERPRETED:

    @pytest.fixture
    def backend() -> str:
        return "triton"

else:

    @pytest.mark.slow
    def test_interpreted(tmp_path: Path) -> None:
        run_interpreted(__file__, "not slow and not gpu", tmp_path)


POWERS = (-30, -20, -15, -10, 0, 10, 15, 17, 18, 19, 20, 30)
HALF_POWERS = (-4, -2, 2, 4)
MASK = torch.tensor([[1, 1, 0, 1, 1, 1, 1]])

# For each name ours and the formula. Ours takes two tensors (7, 5), which both get a gradient, and a backend.
LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "nt_xent": (SF.nt_xent, lambda a, b: formulas.nt_xent(a, b, 0.1, True).mean()),
    "nt_xent of rows as they are": (
        lambda a, b, backend: SF.nt_xent(a, b, normalize=False, temperature=0.5, backend=backend),
        lambda a, b: formulas.nt_xent(a, b, 0.5, False).mean(),
    ),
    "info_nce": (SF.info_nce, lambda a, b: formulas.info_nce(a, b, None, 0.1, True, False).mean()),
    "symmetric info_nce of rows as they are": (
        lambda a, b, backend: SF.info_nce(a, b, normalize=False, temperature=0.5, symmetric=True, backend=backend),
        lambda a, b: formulas.info_nce(a, b, None, 0.5, False, True).mean(),
    ),
    "moco": (
        lambda a, b, backend: SF.info_nce(
            a, b, negatives=(a + b).detach(), normalize=False, temperature=0.5, backend=backend
        ),
        lambda a, b: formulas.info_nce(a, b, (a + b).detach(), 0.5, False, False).mean(),
    ),
    "clip_loss": (lambda a, b, backend: SF.clip_loss(a, b, 1.0, backend=backend),
                  lambda a, b: formulas.clip_loss(a, b, 1.0).mean()),
    "logsumexp_similarity": (
        lambda a, b, backend: torch.cat(SF.logsumexp_similarity(a, b, -0.5, dim="both", backend=backend)) @ _ramp(a),
        lambda a, b: torch.cat(formulas.logsumexp_similarity(a, b, -0.5, None, "both")) @ _ramp(a),
    ),
    "logsumexp_similarity of frozen keys": (
        lambda a, b, backend: SF.logsumexp_similarity(a, b.detach(), backend=backend) @ _ramp(a)[:7],
        lambda a, b: formulas.logsumexp_similarity(a, b.detach(), 1.0, None, "rows")[0] @ _ramp(a)[:7],
    ),
    "negative_cosine_similarity": (SF.negative_cosine_similarity, lambda a, b: -formulas.cosine(a, b, 1e-8).mean()),
    "byol_loss": (SF.byol_loss, lambda a, b: 2 - 2 * formulas.cosine(a, b, 1e-12).mean()),
    "alignment": (
        lambda a, b, backend: SF.alignment(a, b, 0.5, backend=backend),
        lambda a, b: formulas.alignment(a, b, 0.5).mean(),
    ),
    "alignment one by one": (
        lambda a, b, backend: SF.alignment(a, b, 1.0, reduction="none", backend=backend).mean(),
        lambda a, b: formulas.alignment(a, b, 1.0).mean(),
    ),
    "masked_mse": (
        lambda a, b, backend: SF.masked_mse(a[None], b.detach()[None], MASK, backend=backend),
        lambda a, b: formulas.masked(a, b.detach(), MASK[0], "none", None),
    ),
    "masked_mse of normal targets": (
        lambda a, b, backend: SF.masked_mse(
            0 * a[None], b.detach()[None], MASK, normalize_target=True, backend=backend
        ),
        lambda a, b: formulas.masked(0 * a, b.detach(), MASK[0], "mae", None),
    ),
    "masked_smooth_l1": (
        lambda a, b, backend: SF.masked_smooth_l1(a[None], b.detach()[None], MASK, backend=backend),
        lambda a, b: formulas.masked(a, b.detach(), MASK[0], "none", 1.0),
    ),
    "masked_smooth_l1 of normal targets": (
        lambda a, b, backend: SF.masked_smooth_l1(
            0 * a[None], b.detach()[None], MASK, normalize_target=True, backend=backend
        ),
        lambda a, b: formulas.masked(0 * a, b.detach(), MASK[0], "layer", 1.0),
    ),
    "the invariance of lejepa": (
        lambda a, b, backend: SF.lejepa(a[None], b[None], torch.eye(5).to(a), weight=0.0, backend=backend),
        lambda a, b: formulas.lejepa(a[None], b[None], torch.eye(5).double(), 0.0, 3, 1.0),
    ),
}  # fmt: skip


def _ramp(like: Tensor) -> Tensor:
    return torch.linspace(-0.5, 1, 14).to(torch.float64 if like.dtype == torch.float64 else torch.float32)


def check(ours: Callable, exact: Callable, a: Tensor, b: Tensor, backend: str) -> None:
    leaves = [x.clone().requires_grad_() for x in (a, b)]
    wanted = [x.double().requires_grad_() for x in (a, b)]
    value, want = ours(*leaves, backend=backend), exact(*wanted)
    rounding = 5e-3 if a.dtype == torch.float16 else 1e-3
    if want.abs() > torch.finfo(value.dtype).max / 1e4:  # the largest logits overflow
        return
    _close(value, want, rounding)
    options = {"allow_unused": True, "materialize_grads": True}
    gradients = torch.autograd.grad(value, leaves, **options), torch.autograd.grad(want, wanted, **options)
    for gradient, slope in zip(*gradients, strict=True):
        _close(gradient, slope, rounding)


def _close(output: Tensor, want: Tensor, rounding: float) -> None:
    limits = torch.finfo(output.dtype)
    fits = want.abs() < limits.max / 4
    error = torch.where(fits, output.double() - want, 0).abs().max()
    largest = torch.where(fits, want, 0).abs().max()
    assert error <= rounding * largest + 16 * limits.tiny, f"off by {error:.3g} where values reach {largest:.3g}"


def pair(power: float, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    a, b = torch.randn(7, 5), torch.randn(7, 5)
    return tuple((x * 10.0**power).to(dtype) for x in (a, (a + b) / 2))  # type: ignore[return-value]


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_rows_of_any_size(backend: str, loss: str, power: int) -> None:
    check(*LOSSES[loss], *pair(power), backend)


@pytest.mark.parametrize("power", HALF_POWERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision(backend: str, loss: str, power: int) -> None:
    if power == 4 and "normal targets" in loss:
        pytest.skip("0 times an infinite entry.")
    check(*LOSSES[loss], *pair(power, torch.float16), backend)


@pytest.mark.parametrize("sign", (1, -1))
@pytest.mark.parametrize("power", (-6, -4, -2, 0, 2, 4, 6))
def test_any_temperature(backend: str, power: int, sign: int) -> None:
    a, b = pair(0)
    t = sign * 10.0**power

    def raw(a: Tensor, b: Tensor, backend: str) -> Tensor:
        return SF.nt_xent(a, b, temperature=t, normalize=False, backend=backend)

    check(raw, lambda a, b: formulas.nt_xent(a, b, t, False).mean(), a, b, backend)
    check(
        lambda a, b, backend: SF.clip_loss(a, b, t, backend=backend),
        lambda a, b: formulas.clip_loss(a, b, t).mean(), a, b, backend,
    )  # fmt: skip
    check(
        lambda a, b, backend: SF.logsumexp_similarity(a, b, t, backend=backend).mean(),
        lambda a, b: formulas.logsumexp_similarity(a, b, t, None, "rows")[0].mean(), a, b, backend,
    )  # fmt: skip
