# SPDX-License-Identifier: Apache-2.0
"""Compare sums of cosines and sines, and their adjoint, with the dense tensor in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sigreg_oracle as dense
import torch
from torch import Tensor

import sslkernels.ops.sigreg.cpu as cpu
from sslkernels import _C
from sslkernels.ops.sigreg import schema as sigreg
from sslkernels.ops.sigreg.angles import turns

STEP = 3 / 16
# No dimension is a multiple of a vector, of two samples, of a segment of 64, or of the distance of centres.
SHAPES = ((1, 1, 1, 2), (2, 3, 5, 5), (1, 2, 17, 6), (3, 65, 33, 17), (1, 130, 16, 13), (2, 7, 1, 14), (1, 9, 40, 40))


class Poisoned:
    """Stand for torch, but fill the tensors that `empty` gives with NaN."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def empty(*arguments: Any, **options: Any) -> Tensor:
        return torch.empty(*arguments, **options).fill_(torch.nan)


@pytest.fixture(autouse=True, scope="module")
def poisoned() -> Iterator[None]:
    """Make numbers come out as NaN if a C++ kernel does not write them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "torch", Poisoned())
        yield


def both(p: Tensor, step: float, knots: int, grad: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return sigreg.sums(p, step, knots, backend), sigreg.adjoint(p, grad.to(p.dtype), step, backend)


def exact(p: Tensor, step: float, knots: int, grad: Tensor) -> tuple[Tensor, Tensor]:
    leaf = p.double().requires_grad_()
    sums = dense.sums(leaf, step, knots)
    sums.backward(grad.double())
    return sums.detach(), leaf.grad


def check(p: Tensor, step: float, knots: int, backend: str, each: float) -> None:
    """Compare sums and gradients, where a cosine errs by ``each``, a sum by N times that, and T terms a gradient."""
    views, n, slices = p.shape
    grad = torch.randn(views, 2, knots, slices, dtype=torch.float64)
    (sums, dp), (want, want_dp) = both(p, step, knots, grad, backend), exact(p, step, knots, grad)
    assert sums.shape == (views, 2, knots, slices) and dp.dtype == p.dtype
    torch.testing.assert_close(sums.double(), want, rtol=0, atol=each * n)
    terms = (step * torch.arange(knots)[:, None] * grad.abs().sum(1)).sum(1, keepdim=True)  # dp cannot be larger
    rounding = torch.finfo(p.dtype).eps * want_dp.abs()
    assert ((dp.double() - want_dp).abs() <= each * terms + rounding).all()


@pytest.mark.parametrize("dtype, each", ((torch.float64, 3e-15), (torch.float32, 1e-6)))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_the_dense_tensor(backend: str, shape: tuple[int, ...], dtype: torch.dtype, each: float) -> None:
    views, n, slices, knots = shape
    check(torch.randn(views, n, slices).to(dtype), STEP, knots, backend, each)


@pytest.mark.parametrize("size", (0.0, 1e-30, 1e-4, 10.0, 1e3, 1e4, 1e6))
def test_projections_of_any_size(backend: str, size: float) -> None:
    """Angles lose whole turns without rounding: 1e4 is thousands of turns at the last knot, and costs no digit."""
    p = size * torch.randn(1, 40, 33)
    check(p, STEP, 17, backend, 1e-6 if size < 1e3 else 6e-6)
    check(p.double(), STEP, 17, backend, 3e-15 if size < 1e3 else 1e-15 * size)  # the oracle's angles are rounded


@pytest.mark.parametrize("step", (1e-6, 0.1, 1.0, 50.0))
def test_steps(backend: str, step: float) -> None:
    check(torch.randn(1, 20, 17), step, 17, backend, 4e-6)


def test_an_evaluation_is_as_good_as_a_direct_one() -> None:
    """Each sum has one sample, so it is one evaluation; its products err less than fp32 angles do."""
    p = torch.randn(1, 1, 20_000)
    want = dense.sums(p, STEP, 17)
    got = sigreg.sums(p, STEP, 17, "cpu").double()
    angles = p[:, 0, None, :] * (STEP * torch.arange(17))[:, None]
    direct = torch.stack([angles.cos(), angles.sin()], 1).double()
    ours, theirs = ((value - want).square().mean().sqrt() for value in (got, direct))
    assert ours < 1.3 * theirs < 6e-8
    assert (got - want).abs().max() < 7e-7


def test_many_knots_lose_little() -> None:
    """A chain of products grows by one every 8 knots."""
    p = torch.randn(1, 1, 2_000)
    error = (sigreg.sums(p, 0.01, 801, "cpu").double() - dense.sums(p, 0.01, 801)).abs()
    assert error[:, :, :17].max() < 7e-7
    assert error.max() < 7e-7 + 100 * 1.2e-7


def test_long_sums_keep_their_digits() -> None:
    """Segments of 64 samples are added in double precision."""
    p = torch.full((1, 100_000, 3), 0.7)
    sums = sigreg.sums(p, STEP, 17, "cpu").double()
    torch.testing.assert_close(sums / 1e5, dense.sums(p[:, :1], STEP, 17), rtol=0, atol=2e-6)


def test_strides(backend: str) -> None:
    wide = torch.randn(4, 12, 20)
    for p in (wide[::2, ::3, ::2], wide.mT, wide[:1].expand(3, 12, 20), wide[..., 1:]):
        check(p, STEP, 17, backend, 1e-6)


def test_no_samples(backend: str) -> None:
    assert (sigreg.sums(torch.empty(2, 0, 3), STEP, 17, backend) == 0).all()


@pytest.mark.parametrize("bad", (torch.nan, torch.inf, -torch.inf))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_what_is_no_number_stays_none(backend: str, dtype: torch.dtype, bad: float) -> None:
    """NaN or infinity makes NaN in its own slice and view, and nowhere else."""
    p = torch.randn(2, 5, 19, dtype=dtype)
    p[1, 3, 7] = bad
    sums, dp = both(p, STEP, 17, torch.ones(2, 2, 17, 19), backend)
    spoilt = torch.zeros(2, 2, 17, 19, dtype=torch.bool)
    spoilt[1, :, 1:, 7] = True
    assert torch.equal(sums[:, :, 1:].isnan(), spoilt[:, :, 1:])
    assert dp.isnan().nonzero().tolist() == [[1, 3, 7]]


def test_a_hidden_nan_is_seen() -> None:
    """The only mantissa bits of this NaN are bits that the reduction cuts off."""
    p = torch.zeros(1, 1, 20)
    p.view(torch.int32)[0, 0, 3] = 0x7F800001
    assert sigreg.sums(p, STEP, 17, "cpu")[0, :, 1:, 3].isnan().all()


def test_huge_numbers_stay_on_the_circle() -> None:
    p = torch.tensor([1e10, -1e20, 3e38, torch.finfo(torch.float32).max])[None, None]
    sums = sigreg.sums(p, STEP, 17, "cpu")
    torch.testing.assert_close(sums.square().sum(1), torch.ones(1, 17, 4), rtol=0, atol=3e-6)


def test_any_number_of_threads_gives_the_same_bits(set_threads: Callable[[int], None]) -> None:
    p, grad = torch.randn(3, 70, 100), torch.randn(3, 2, 17, 100)
    results = []
    for threads in (1, 2, 3, 2):
        set_threads(threads)
        results.append(both(p, STEP, 17, grad, "cpu"))
    for sums, dp in results[1:]:
        assert torch.equal(sums, results[0][0]) and torch.equal(dp, results[0][1])


@pytest.mark.parametrize("dtype, bits", ((torch.float32, 12), (torch.float64, 26)))
@pytest.mark.parametrize("step", (3 / 16, 0.1, 1e-3, 7.0))
def test_the_pieces_of_a_step_are_short(step: float, dtype: torch.dtype, bits: int) -> None:
    first, second, rest = turns(step, dtype)
    for piece in (first, second):
        mantissa = float(torch.tensor(piece, dtype=torch.float64).frexp().mantissa) * 2**bits
        assert mantissa == round(mantissa)
    assert abs(rest) <= abs(first) * 2.0 ** (2 - 2 * bits)
    assert abs((first + second + rest) * 6.283185307179586 - step) < 4e-16 * step


def test_the_ops_are_registered_properly(backend: str) -> None:
    for dtype in (torch.float32, torch.float64):
        p, grad = torch.randn(2, 4, 3, dtype=dtype), torch.randn(2, 2, 5, 3, dtype=dtype)
        torch.library.opcheck(torch.ops.sslkernels.sigreg_sums.default, (p, STEP, 5, backend))
        torch.library.opcheck(torch.ops.sslkernels.sigreg_adjoint.default, (p, grad, STEP, backend))


AGAINST_THE_DENSE_TENSOR = """
import sys
sys.path.insert(0, {folder!r})
import torch, test_sigreg_sums as test_sums
from sslkernels import _C

assert _C.isa() == {isa!r}, _C.isa()
torch.manual_seed(0)
for views, n, slices, knots in test_sums.SHAPES:
    for size in (1.0, 1e4):
        test_sums.check(size * torch.randn(views, n, slices), test_sums.STEP, knots, "cpu", 1e-6 if size == 1 else 6e-6)
    test_sums.check(torch.randn(views, n, slices).double(), test_sums.STEP, knots, "cpu", 3e-15)
test_sums.test_an_evaluation_is_as_good_as_a_direct_one()
test_sums.test_what_is_no_number_stays_none("cpu", torch.float32, torch.nan)
test_sums.test_a_hidden_nan_is_seen()
test_sums.test_huge_numbers_stay_on_the_circle()
print("agrees")
"""


@pytest.mark.slow
@pytest.mark.parametrize("isa", _C.available_isas())
def test_every_instruction_set(isa: str, run_python: Callable) -> None:
    folder = str(Path(__file__).parent)
    done = run_python(AGAINST_THE_DENSE_TENSOR.format(isa=isa, folder=folder), SSLKERNELS_ISA=isa)
    assert done.returncode == 0 and done.stdout.split() == ["agrees"], done.stderr
