# SPDX-License-Identifier: Apache-2.0
"""Compare nt_xent, info_nce and clip_loss with the float64 oracle: values, reductions, gradients of every input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import rows_oracle
import similarity_oracle as oracle
import torch
from torch import Tensor

import sslkernels.functional as SF
from sslkernels import MemoryQueue

pytestmark = pytest.mark.usefixtures("poisoned_outputs")


@dataclass(frozen=True)
class Loss:
    """Hold our loss and the oracle's, which are called alike: with two sides of rows, then a temperature or a scale."""

    ours: Callable[..., Tensor]
    expected: Callable[..., Tensor]
    scalar: str
    options: dict[str, Any] = field(default_factory=dict)
    queue: int = 0

    def inputs(self, n: int, d: int, dtype: torch.dtype = torch.float32, scalar: float = 0.3) -> list[Tensor]:
        """Make two similar sides, the scalar, and a queue for losses that have one."""
        first = torch.randn(n, d)
        second = first + 0.5 * torch.randn(n, d)
        if self.scalar == "logit_scale":
            first, second = rows_oracle.unit(first), rows_oracle.unit(second)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        given = [first.to(dtype), second.to(dtype), torch.tensor(scalar, dtype=wide)]
        return [*given, rows_oracle.unit(torch.randn(self.queue, d)).to(dtype)] if self.queue else given

    def call(self, inputs: list[Tensor], **options: Any) -> Tensor:
        return self.ours(*inputs[:2], **self._named(inputs), **self.options, **options)

    def oracle(self, *inputs: Tensor) -> Tensor:
        return self.expected(*inputs[:2], **self._named(list(inputs)), **self.options)

    def _named(self, inputs: list[Tensor]) -> dict[str, Tensor]:
        return {self.scalar: inputs[2], **({"negatives": inputs[3]} if len(inputs) > 3 else {})}


LOSSES = {
    "nt_xent": Loss(SF.nt_xent, oracle.nt_xent, "temperature"),
    "nt_xent-raw": Loss(SF.nt_xent, oracle.nt_xent, "temperature", {"normalize": False}),
    "info_nce": Loss(SF.info_nce, oracle.info_nce, "temperature"),
    "info_nce-raw": Loss(SF.info_nce, oracle.info_nce, "temperature", {"normalize": False}),
    "info_nce-symmetric": Loss(SF.info_nce, oracle.info_nce, "temperature", {"symmetric": True}),
    "info_nce-queue": Loss(SF.info_nce, oracle.info_nce, "temperature", queue=37),
    "info_nce-queue-raw": Loss(SF.info_nce, oracle.info_nce, "temperature", {"normalize": False}, queue=5),
    "clip_loss": Loss(SF.clip_loss, oracle.clip_loss, "logit_scale"),
}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}


@pytest.fixture(params=LOSSES, scope="session")
def loss(request: pytest.FixtureRequest) -> Loss:
    return LOSSES[request.param]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("n, d", [(1, 1), (1, 5), (2, 3), (3, 2), (17, 33), (33, 17), (70, 31)])
def test_value_and_gradients(backend: str, loss: Loss, n: int, d: int, dtype: torch.dtype) -> None:
    inputs = [x.requires_grad_() for x in loss.inputs(n, d, dtype)]
    rows = loss.call(inputs, reduction="none", backend=backend)
    expected = loss.oracle(*inputs).detach()
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    assert rows.dtype == dtype and rows.shape == expected.shape
    torch.testing.assert_close(rows.double(), expected, **close)

    weights = torch.randn_like(expected)
    (rows * weights).sum().backward()
    exact = rows_oracle.gradients(lambda *given: (loss.oracle(*given) * weights).sum(), inputs)
    for x, gradient in zip(inputs, exact, strict=True):
        largest = float(gradient.abs().max())
        torch.testing.assert_close(x.grad.double(), gradient, rtol=0, atol=TOLERANCE[dtype] * (1 + largest))


def test_reductions(backend: str, loss: Loss) -> None:
    inputs = loss.inputs(9, 4)
    expected = loss.oracle(*inputs)
    mean = loss.call(inputs, backend=backend)
    total = loss.call(inputs, reduction="sum", backend=backend)
    assert mean.shape == total.shape == () and mean.dtype == torch.float32
    torch.testing.assert_close(mean.double(), expected.mean(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(total.double(), expected.sum(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
def test_several_blocks_of_rows(backend: str, loss: Loss, dtype: torch.dtype, tolerance: float, set_threads) -> None:
    inputs = [x.requires_grad_() for x in loss.inputs(300, 40, dtype)]
    expected = rows_oracle.gradients(lambda *x: loss.oracle(*x).mean(), inputs)
    for threads in (1, 2):
        set_threads(threads)
        gradients = torch.autograd.grad(loss.call(inputs, backend=backend), inputs)
        for actual, gradient in zip(gradients, expected, strict=True):
            allowed = tolerance * float(gradient.abs().max()) + 1e-12
            torch.testing.assert_close(actual.double(), gradient, rtol=0, atol=allowed)


@pytest.mark.parametrize("n", [1, 7])
def test_rows_of_none_come_in_the_documented_order(backend: str, n: int) -> None:
    z0, z1 = torch.randn(n, 6), torch.randn(n, 6)
    rows = SF.nt_xent(z0, z1, reduction="none", backend=backend)
    swapped = SF.nt_xent(z1, z0, reduction="none", backend=backend)
    assert rows.shape == (2 * n,)
    torch.testing.assert_close(rows, swapped.roll(n))
    assert SF.info_nce(z0, z1, reduction="none", backend=backend).shape == (n,)
    assert SF.clip_loss(z0, z1, 1.0, reduction="none", backend=backend).shape == (n,)


def test_one_pair_has_no_negatives(backend: str) -> None:
    """With one pair nothing competes with the positive: loss and gradient are exactly zero."""
    for function, scalar in ((SF.nt_xent, {}), (SF.info_nce, {}), (SF.clip_loss, {"logit_scale": 10.0})):
        a, b = torch.randn(1, 8, requires_grad=True), torch.randn(1, 8, requires_grad=True)
        value = function(a, b, **scalar, backend=backend)
        value.backward()
        assert value.item() == 0 and (a.grad == 0).all() and (b.grad == 0).all()


@pytest.mark.parametrize("temperature", [-0.3, 1e-3, 1e3])
def test_temperature_far_from_usual(backend: str, loss: Loss, temperature: float) -> None:
    inputs = [x.requires_grad_() for x in loss.inputs(12, 6, torch.float64, temperature)]
    value = loss.call(inputs, backend=backend)
    gradients = torch.autograd.grad(value, inputs)
    torch.testing.assert_close(value, loss.oracle(*inputs).mean(), rtol=1e-9, atol=1e-12)
    for actual, gradient in zip(
        gradients, rows_oracle.gradients(lambda *x: loss.oracle(*x).mean(), inputs), strict=True
    ):
        torch.testing.assert_close(actual, gradient, rtol=1e-8, atol=1e-10 * float(1 + gradient.abs().max()))


def test_float_and_tensor_scalars_agree(backend: str, loss: Loss) -> None:
    first, second, scalar, *queue = loss.inputs(6, 4)
    as_tensor = loss.call([first, second, scalar, *queue], backend=backend)
    assert torch.equal(loss.call([first, second, scalar.item(), *queue], backend=backend), as_tensor)
    column = scalar.reshape(1, 1).requires_grad_()
    value = loss.call([first, second, column, *queue], backend=backend)
    value.backward()
    torch.testing.assert_close(value, as_tensor)
    assert column.grad.shape == (1, 1)


def test_well_aligned_pairs_keep_their_gradient(backend: str) -> None:
    """lse - positive would cancel here: in fp32 a loss of 1e-9 would be nothing but noise."""
    z0 = torch.eye(6) + 1e-3 * torch.randn(6, 6)
    z1 = z0 + 1e-3 * torch.randn(6, 6)
    inputs = [z0.requires_grad_(), z1.requires_grad_()]
    value = SF.nt_xent(*inputs, temperature=0.05, backend=backend)
    value.backward()
    expected = oracle.nt_xent(z0, z1, 0.05).mean()
    gradients = rows_oracle.gradients(lambda a, b: oracle.nt_xent(a, b, 0.05).mean(), inputs)
    assert 1e-9 < expected.item() < 1e-6
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=0)
    for x, gradient in zip(inputs, gradients, strict=True):
        torch.testing.assert_close(x.grad.double(), gradient, rtol=0, atol=1e-3 * float(gradient.abs().max()))


def test_queue_may_be_overwritten_before_the_backward(backend: str) -> None:
    query, key = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4)
    queue = MemoryQueue(8, 4)
    (untouched,) = torch.autograd.grad(SF.info_nce(query, key, negatives=queue.keys.clone(), backend=backend), query)
    value = SF.info_nce(query, key, negatives=queue.keys, backend=backend)
    queue.enqueue(torch.randn(8, 4))
    (gradient,) = torch.autograd.grad(value, query)
    assert torch.equal(gradient, untouched)


def test_negatives_are_used_as_given(backend: str) -> None:
    query, key = torch.randn(3, 4), torch.randn(3, 4)
    negatives = 5 * torch.randn(6, 4)
    value = SF.info_nce(query, key, negatives=negatives, reduction="none", backend=backend)
    expected = oracle.info_nce(query, key, negatives)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)


def test_logit_bias_cancels(backend: str) -> None:
    image, text = torch.randn(4, 3), torch.randn(4, 3)
    bias = torch.tensor([7.0], requires_grad=True)
    value = SF.clip_loss(image, text, 2.0, bias, backend=backend)
    value.backward()
    assert torch.equal(value.detach(), SF.clip_loss(image, text, 2.0, backend=backend))
    assert torch.equal(SF.clip_loss(image, text, 2.0, -3.0, backend=backend), value.detach())
    assert torch.equal(bias.grad, torch.zeros(1))


def test_world_without_a_process_group_is_no_group(backend: str, loss: Loss) -> None:
    inputs = loss.inputs(4, 3)
    alone = loss.call(inputs, backend=backend)
    assert torch.equal(loss.call(inputs, group="world", backend=backend), alone)


@pytest.mark.parametrize("frozen", [False, True])
def test_conversions_under_no_grad_leave_the_value_its_bits(frozen: bool, backend: str) -> None:
    """A converted key requires no gradient under no_grad; its sums must not take another order for that."""
    query, key, queue = (rows_oracle.unit(torch.randn(n, 33)).float() for n in (31, 31, 140))
    for x in (key, queue):
        x.requires_grad_(not frozen)
    for options in ({"normalize": False}, {"negatives": queue}):
        for temperature in torch.linspace(0.2, 2, 60):
            with torch.autocast("cpu", torch.bfloat16):
                wanted = SF.info_nce(query, key, temperature=temperature, backend=backend, **options)
                with torch.no_grad():
                    value = SF.info_nce(query, key, temperature=temperature, backend=backend, **options)
            assert torch.equal(value, wanted)
