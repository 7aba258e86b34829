# SPDX-License-Identifier: Apache-2.0
"""Compare SIGReg and LeJEPA with the paper's formula, values and gradients, and check how they behave inside torch."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import sigreg_oracle as dense
import torch
from torch import Tensor
from torch.autograd.gradcheck import gradcheck

import sslkernels.functional as SF
from sslkernels.losses import LeJEPALoss, SIGReg
from sslkernels.peak_memory import peak_memory

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def value_and_gradient(loss: Any, *leaves: Tensor) -> tuple[Tensor, ...]:
    leaves = tuple(leaf.detach().clone().requires_grad_() for leaf in leaves)
    value = loss(*leaves)
    return value.detach(), *torch.autograd.grad(value, leaves)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape, count, knots", (((2, 9, 5), 7, 17), ((1, 3), 1, 2), ((2, 3, 4, 6), 18, 5)), ids=str)
def test_value_and_gradient(backend: str, shape: tuple, count: int, knots: int, dtype: torch.dtype) -> None:
    z, slices = torch.randn(shape).to(dtype), dense.unit_slices(shape[-1], count).to(dtype)
    got, dz = value_and_gradient(lambda z: SF.sigreg(z, slices, knots=knots, t_max=2.5, backend=backend), z)
    want, want_dz = value_and_gradient(lambda z: dense.sigreg(z, slices, knots, 2.5), z.double())
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and dz.dtype == dtype
    close = TOLERANCE[dtype]
    torch.testing.assert_close(got.double(), want, rtol=close, atol=close)
    torch.testing.assert_close(dz.double(), want_dz, rtol=close, atol=close * float(want_dz.abs().max()))


def test_gradcheck(backend: str) -> None:
    slices = dense.unit_slices(3, 4)
    assert gradcheck(lambda z: SF.sigreg(z, slices, backend=backend), torch.randn(2, 5, 3).double().requires_grad_())
    views = [torch.randn(v, 3, 3).double().requires_grad_() for v in (1, 2)]
    assert gradcheck(lambda a, b: SF.lejepa(a, b, slices, weight=0.3, backend=backend), views)


def lightly_sigreg(proj: Tensor, slices: Tensor, knots: int, t_max: float) -> Tensor:
    """Compute lightly 1.6.0's SIGReg in its own order of operations, with its grid in float32."""
    t = torch.linspace(0, t_max, knots)
    step = t_max / (knots - 1)
    rule = torch.full((knots,), 2 * step)
    rule[[0, -1]] = step
    phi = torch.exp(-t.square() / 2.0)
    x_t = (proj @ slices).unsqueeze(-1) * t
    n = proj.size(-2)
    error = (x_t.cos().sum(-3) / n - phi).square() + (x_t.sin().sum(-3) / n).square()
    return ((error @ (rule * phi)) * n).mean()


@pytest.mark.parametrize("knots, t_max, count", ((17, 3.0, 64), (5, 1.7, 3)))
def test_the_module_is_lightlys(knots: int, t_max: float, count: int) -> None:
    """After the same seed both draw the same slices, and so give the same value."""
    proj = torch.randn(2, 3, 20, 8)
    torch.manual_seed(5)
    slices = torch.randn(8, count)
    slices /= slices.norm(p=2, dim=0)
    want, want_dz = value_and_gradient(lambda z: lightly_sigreg(z, slices, knots, t_max), proj)
    torch.manual_seed(5)
    got, dz = value_and_gradient(SIGReg(knots=knots, t_max=t_max, num_vectors=count), proj)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dz, want_dz, rtol=1e-4, atol=1e-6)


def test_state_of_lightlys_module_loads() -> None:
    assert set(SIGReg().state_dict()) == {"t", "phi", "weights"}
    assert set(LeJEPALoss().state_dict()) == {"sigreg.t", "sigreg.phi", "sigreg.weights"}


@pytest.mark.parametrize("weight", (0.0, 0.05, 1.0))
def test_lejepa(weight: float) -> None:
    local, world = torch.randn(3, 6, 5), torch.randn(2, 6, 5)
    torch.manual_seed(6)
    slices = torch.randn(5, 32)
    slices /= slices.norm(dim=0)
    torch.manual_seed(6)
    loss = LeJEPALoss(lambda_param=weight, sigreg_num_vectors=32)
    got = value_and_gradient(lambda a, b: loss(local_proj=a, global_proj=b), local, world)
    want = value_and_gradient(lambda a, b: dense.lejepa(a, b, slices, weight), local.double(), world.double())
    for ours, exact in zip(got, want, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=2e-5, atol=1e-6)


def test_a_generator_decides_the_slices() -> None:
    z = torch.randn(7, 4)
    first, again, other = (
        SF.sigreg(z, num_slices=8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_normal_sample_scores_low() -> None:
    """The statistic of N draws from the normal itself does not grow with N; that of another distribution does."""
    normal = [float(SF.sigreg(torch.randn(n, 4), num_slices=64)) for n in (100, 10_000)]
    shifted = [float(SF.sigreg(torch.randn(n, 4) + 1, num_slices=64)) for n in (100, 10_000)]
    assert max(normal) < 4 and shifted[1] > 50 * shifted[0] > 50


def test_nan_gives_nan(backend: str) -> None:
    z = torch.randn(2, 5, 3)
    z[1, 2, 0] = torch.nan
    value, dz = value_and_gradient(lambda z: SF.sigreg(z, num_slices=4, backend=backend), z)
    assert value.isnan() and dz[1].isnan().all() and dz[0].isfinite().all()


def test_autocast() -> None:
    z, slices = torch.randn(2, 30, 8), dense.unit_slices(8, 16).float()
    with torch.autocast("cpu", torch.bfloat16):
        value, dz = value_and_gradient(lambda z: SF.sigreg(z, slices), z)
    want, want_dz = value_and_gradient(lambda z: dense.sigreg(z, slices), z.double())
    assert value.dtype == torch.float32 and dz.dtype == torch.float32
    torch.testing.assert_close(value.double(), want, rtol=3e-2, atol=3e-2)
    torch.testing.assert_close(dz.double(), want_dz, rtol=0.1, atol=3e-2 * float(want_dz.abs().max()))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("weight", (0.0, 0.3, 1.0))
def test_lejepa_in_any_dtype(backend: str, dtype: torch.dtype, weight: float) -> None:
    """There are more positions than a block of the C++ kernel has, and each view's gradient is that of its dtype."""
    views = [torch.randn(v, 37, 9).to(dtype) for v in (3, 2)]
    slices = dense.unit_slices(9, 21).to(dtype)
    got = value_and_gradient(lambda a, b: SF.lejepa(a, b, slices, weight=weight, backend=backend), *views)
    want = value_and_gradient(lambda a, b: dense.lejepa(a, b, slices, weight), *(view.double() for view in views))
    close = TOLERANCE[dtype]
    for ours, exact in zip(got, want, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=close, atol=close * float(exact.abs().max()))
    assert got[1].dtype == got[2].dtype == dtype


def test_small_gradients_keep_their_digits_in_float16(backend: str) -> None:
    """A gradient of a projection is a mean's share, here of 8192 views and slices, and float16 ends at 6e-8."""
    z, slices = torch.randn(2, 20, 3).half(), dense.unit_slices(3, 4096).half()
    leaf, exact = z.clone().requires_grad_(), z.double().requires_grad_()
    (2.0**14 * SF.sigreg(leaf, slices, backend=backend)).backward()
    (2.0**14 * dense.sigreg(exact, slices)).backward()
    assert (leaf.grad.double() - exact.grad).norm() < 4e-3 * exact.grad.norm()


def test_the_value_does_not_depend_on_gradients(backend: str) -> None:
    z, views = torch.randn(2, 9, 5, requires_grad=True), torch.randn(1, 9, 5)
    slices = dense.unit_slices(5, 7).float()
    for loss in (lambda: SF.sigreg(z, slices, backend=backend), lambda: SF.lejepa(z, views, slices, backend=backend)):
        with torch.no_grad():
            plain = loss()
        assert torch.equal(plain, loss()) and loss().requires_grad and not plain.requires_grad


def test_a_second_derivative_is_refused(backend: str) -> None:
    z = torch.randn(4, 3, requires_grad=True)
    (dz,) = torch.autograd.grad(SF.sigreg(z, num_slices=2, backend=backend), z, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        dz.sum().backward()


def test_any_number_of_threads_gives_the_same_loss(set_threads: Callable[[int], None]) -> None:
    views, slices = [torch.randn(v, 301, 40) for v in (3, 2)], torch.eye(40)  # torch's product is exact with these
    results = []
    for threads in (1, 2, 3, 2):
        set_threads(threads)
        results.append(value_and_gradient(lambda a, b: SF.lejepa(a, b, slices, backend="cpu"), *views))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(other, results[0], strict=True))


def test_slices_are_constants() -> None:
    slices = dense.unit_slices(4, 3).float().requires_grad_()
    assert not SF.sigreg(torch.randn(5, 4), slices).requires_grad


@pytest.mark.slow
def test_compiles_whole() -> None:
    torch._dynamo.reset()
    proj, slices = torch.randn(2, 20, 8), dense.unit_slices(8, 20).float()
    module = SIGReg()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    want, want_dz = value_and_gradient(lambda z: module(z, slices), proj)
    got, dz = value_and_gradient(lambda z: compiled(z, slices), proj)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(dz, want_dz)
    drawn = torch.compile(LeJEPALoss(sigreg_num_vectors=8), fullgraph=True, backend="aot_eager")
    assert drawn(local_proj=proj, global_proj=proj).isfinite()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_far_below_the_dense_tensor() -> None:
    views, n, slices, knots = 4, 256, 512, 17
    z, lines = torch.randn(views, n, 16, requires_grad=True), dense.unit_slices(16, slices).float()

    def step() -> None:
        SF.sigreg(z, lines, knots=knots, backend="cpu").backward()

    step()
    peak = peak_memory(step, torch.device("cpu"))
    assert peak is not None and peak < views * n * slices * knots * 4 / 3
    assert peak < 5 * views * n * slices * 4


@pytest.mark.parametrize(
    "call, words",
    (
        (lambda: SF.sigreg([[0.0]]), "is a list"),
        (lambda: SF.sigreg(torch.zeros(3, 2, dtype=torch.int64)), "int64"),
        (lambda: SF.sigreg(torch.zeros(0, 2)), "no samples"),
        (lambda: SF.sigreg(torch.zeros(0, 3, 2)), "expected (..., N, C), at least one view of N samples"),
        (lambda: SF.sigreg(torch.zeros(3)), "z has shape (3,); expected (..., N, C)"),
        (
            lambda: SF.sigreg(torch.zeros(3, 2), torch.zeros(3)),
            "slices has shape (3,); expected (C, S), a slice",
        ),
        (lambda: SF.sigreg(torch.zeros(3, 2), generator=3), "generator is a int; pass a torch.Generator on cpu"),
        (lambda: SF.sigreg(torch.zeros(3, 2), torch.zeros(4, 2)), "transpose"),
        (lambda: SF.sigreg(torch.zeros(3, 2), knots=1), "knots"),
        (lambda: SF.sigreg(torch.zeros(3, 2), t_max=0.0), "t_max"),
        (lambda: SF.sigreg(torch.zeros(3, 2), num_slices=0), "num_slices"),
        (lambda: SF.lejepa(torch.zeros(3, 2), torch.zeros(1, 3, 2)), "local_z"),
        (lambda: SF.lejepa(torch.zeros(1, 3, 2), torch.zeros(1, 4, 2)), "same samples"),
        (lambda: SF.lejepa(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2), weight=1.5), "weight"),
        (lambda: SIGReg(knots=1), "knots"),
        (lambda: SIGReg(t_max=-1.0), "t_max"),
        (lambda: LeJEPALoss(lambda_param=2), "lambda_param"),
    ),
)
def test_errors_say_what_came(call: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        call()
