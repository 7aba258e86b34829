# SPDX-License-Identifier: Apache-2.0
"""Let hypothesis find odd shapes, strides, exclusions and scales, and compare them with the float64 oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import rows_oracle
import similarity_oracle as oracle
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sslkernels.functional as SF

pytestmark = pytest.mark.usefixtures("poisoned_outputs")


@dataclass
class Problem:
    x: Tensor
    y: Tensor | None
    scale: float
    exclude: Tensor | None

    @property
    def keys(self) -> Tensor:
        return self.x if self.y is None else self.y


@st.composite
def rows(draw: st.DrawFn, n: int, d: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Draw n rows at any offset and stride, even 0; sometimes they are zeros, duplicates, or very large."""
    offset, gap = draw(st.integers(0, 3)), draw(st.sampled_from([0, 1, 5]))
    stride = draw(st.sampled_from([d + gap, d + gap, 0, 1]))
    step = draw(st.sampled_from([1, 1, 1, 2]))
    storage = torch.randn(offset + 2 * n * (d + 5), generator=generator)
    storage = (storage * draw(st.sampled_from([1.0, 1.0, 0.0, 1e-3, 20.0]))).to(dtype)
    return torch.as_strided(storage, (n, d), (step * stride, step), offset)


@st.composite
def problems(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> Problem:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    n, m = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    d = draw(st.sampled_from([1, 2, 3, 7, 16, 17, 33]))
    x = draw(rows(n, d, dtype, generator))
    y = draw(st.one_of(st.none(), rows(m, d, dtype, generator)))
    columns = n if y is None else m
    exclude = None
    if draw(st.booleans()):
        width = draw(st.integers(1, 4))
        exclude = torch.randint(-1, columns, (n, width), generator=generator)
    return Problem(x, y, draw(st.sampled_from([1.0, 0.0, -0.5, 1e-3, 10.0, 50.0])), exclude)


@given(problem=problems(torch.float32))
def test_values(backend: str, problem: Problem) -> None:
    rows, columns = SF.logsumexp_similarity(
        problem.x, problem.y, problem.scale, exclude=problem.exclude, dim="both", backend=backend
    )
    alone = SF.logsumexp_similarity(problem.x, problem.y, problem.scale, exclude=problem.exclude, backend=backend)
    expected = oracle.logsumexp_similarity(problem.x, problem.y, problem.scale, problem.exclude)
    allowed = oracle.rounding(problem.x, problem.keys, problem.scale, 2.0**-23)
    for actual, exact in ((rows, expected[0]), (alone, expected[0]), (columns, expected[1])):
        torch.testing.assert_close(actual.double(), exact, rtol=0, atol=allowed)


@given(problem=problems())
def test_gradients(backend: str, problem: Problem) -> None:
    scale = torch.tensor(problem.scale, dtype=torch.float64, requires_grad=True)
    leaves = [problem.x, scale] if problem.y is None else [problem.x, scale, problem.y]
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]

    def value(lse: tuple[Tensor, Tensor]) -> Tensor:
        return sum(side[side.isfinite()].sin().sum() for side in lse)  # type: ignore[return-value]

    def ours(x: Tensor, scale: Tensor, y: Tensor | None = None) -> Tensor:
        options = {"exclude": problem.exclude, "backend": backend}
        rows = SF.logsumexp_similarity(x, y, scale, **options)
        return value(SF.logsumexp_similarity(x, y, scale, dim="both", **options)) + value((rows, rows))

    def exact(x: Tensor, scale: Tensor, y: Tensor | None = None) -> Tensor:
        rows, columns = oracle.logsumexp_similarity(x, y, scale, problem.exclude)
        return value((rows, columns)) + value((rows, rows))

    total = ours(*leaves)
    actual = torch.autograd.grad(total, leaves)
    allowed = oracle.rounding(problem.x, problem.keys, problem.scale, 1e-12)
    for found, expected in zip(actual, rows_oracle.gradients(exact, leaves), strict=True):
        assert expected is not None
        largest = 1 + float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=allowed * largest * problem.x.shape[0])


@given(problem=problems(torch.float32), temperature=st.sampled_from([0.01, 0.1, 1.0, -0.3, 1e3]))
def test_losses(backend: str, problem: Problem, temperature: float) -> None:
    x, y = problem.x, problem.keys
    n = min(len(x), len(y))
    x, y = x[:n], y[:n]
    for loss, exact in (
        (SF.nt_xent(x, y, temperature=temperature, backend=backend), oracle.nt_xent(x, y, temperature)),
        (
            SF.info_nce(x, y, temperature=temperature, backend=backend),
            oracle.info_nce(x, y, None, temperature),
        ),
        (
            SF.info_nce(x, y, negatives=problem.keys, temperature=temperature, backend=backend),
            oracle.info_nce(x, y, problem.keys, temperature),
        ),
    ):
        longest = 1 + float(torch.linalg.vector_norm(problem.keys.double(), dim=1).max())
        torch.testing.assert_close(loss.double(), exact.mean(), rtol=1e-5, atol=2e-6 * (1 + longest / abs(temperature)))


@pytest.mark.parametrize(("prior", "hardness"), [(0.0, 0.0), (0.1, 0.0), (0.9, 0.0), (0.1, 1.0)])
def test_debiased_losses_one_by_one_at_a_low_temperature(backend: str, prior: float, hardness: float) -> None:
    """Positives stand so far above the negatives that the exponential of the difference overflows float32."""
    views = torch.eye(4).requires_grad_(), torch.eye(4).requires_grad_()
    options = {"temperature": 0.005, "prior": prior, "hardness": hardness, "backend": backend}
    losses = SF.debiased_nt_xent(*views, reduction="none", **options)
    assert losses.tolist() == [0.0] * 8
    for gradient in torch.autograd.grad(losses.sum(), views):
        torch.testing.assert_close(gradient, torch.zeros(4, 4))


def test_debiased_losses_of_rows_that_meet_a_nan_are_nan(backend: str) -> None:
    z0, z1 = torch.randn(3, 5), torch.randn(3, 5)
    z0[1, 2] = torch.nan
    assert SF.debiased_nt_xent(z0, z1, reduction="none", backend=backend).isnan().all()


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_pairs_without_distance_get_no_gradient(backend: str, power: float, reduction: str) -> None:
    z0, z1 = torch.zeros(2, 4, requires_grad=True), torch.tensor([[0.0] * 4, [3.0, 0.0, 4.0, 0.0]], requires_grad=True)
    losses = SF.alignment(z0, z1, power, reduction=reduction, backend=backend)
    torch.testing.assert_close(losses.sum(), torch.tensor(5.0**power / (2 if reduction == "mean" else 1)))
    for gradient in torch.autograd.grad(losses.sum(), (z0, z1)):
        assert gradient[0].tolist() == [0.0] * 4
        assert gradient[1].isfinite().all() and gradient[1, 0] != 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_uniformity_is_the_same_far_from_the_origin(backend: str, dtype: torch.dtype) -> None:
    z = (torch.randn(9, 5, dtype=dtype) / 4 + 1000).requires_grad_()
    apart = torch.pdist(exact := z.detach().double().requires_grad_())
    wanted = apart.square().mul(-2).exp().mean().log()
    found = SF.uniformity(z, backend=backend)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    (slope,), (want,) = torch.autograd.grad(found, z), torch.autograd.grad(wanted, exact)
    torch.testing.assert_close(slope.double(), want, rtol=1e-4, atol=1e-6)


AS_GIVEN = {"normalize": False, "temperature": 1.0}
MATCHED: dict[str, Callable[..., Tensor]] = {
    "sampled_info_nce": lambda x, y, **o: SF.sampled_info_nce(
        x, y, y, torch.tensor([[1, 2]] * 4), equal="keep", **AS_GIVEN, **o
    ),
    "mil_nce": lambda x, y, **o: SF.mil_nce(x, y, torch.arange(4)[:, None], **AS_GIVEN, **o),
    "sup_con": lambda x, y, **o: SF.sup_con(torch.cat([x, y]), torch.arange(4).repeat(2), form="in", **AS_GIVEN, **o),
    "linear_cross_entropy": lambda x, y, **o: SF.linear_cross_entropy(x, y, torch.arange(4), **o),
    "similarity_distillation": lambda x, y, **o: SF.similarity_distillation(x, y, y.detach()[1:], **AS_GIVEN, **o),
}


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", MATCHED)
def test_an_infinite_positive_is_no_perfect_match(backend: str, name: str, reduction: str) -> None:
    """Infinity less infinity is no number, in the value and in the gradient."""
    x, y = torch.randn(2, 4, 3).mul(0.1).unbind(0)
    x[:, 0], y[:, 0] = torch.tensor([1e20, 0, 0, 0]), torch.tensor([1e20, 0, 0, 0])
    losses = MATCHED[name](x.requires_grad_(), y, reduction=reduction, backend=backend)
    assert losses.reshape(-1)[0].isnan() and losses.reshape(-1)[1:4].isfinite().all()
    assert torch.autograd.grad(losses.reshape(-1)[0], x)[0].isnan().any()


def test_a_classifier_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^linear_cross_entropy: weight has shape \(0, 4\); pass one row for each"):
        SF.linear_cross_entropy(torch.randn(2, 4), torch.zeros(0, 4), torch.tensor([-1, -1]))


def test_subcenters_are_as_many_for_each_class_and_take_no_smoothing() -> None:
    x, weight, target = torch.randn(2, 4), torch.randn(6, 4), torch.tensor([0, 2])
    for options, says in (
        ({"subcenters": 4}, r"weight has shape \(6, 4\) and subcenters is 4; pass so many rows for each class"),
        ({"subcenters": 2, "label_smoothing": 0.1}, "label_smoothing is 0.1 with 2 subcenters"),
    ):
        with pytest.raises(ValueError, match=f"^linear_cross_entropy: {says}"):
            SF.linear_cross_entropy(x, weight, target, **options)
    with pytest.raises(IndexError, match="target holds 3; classes run from 0 to 2"):
        SF.linear_cross_entropy(x, weight, target + 1, subcenters=2)
