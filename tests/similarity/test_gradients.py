# SPDX-License-Identifier: Apache-2.0
"""Check gradients in float64 by finite differences, and that nobody computes a gradient that is not needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import rows_oracle
import similarity_oracle as oracle
import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import sslkernels.functional as SF
from sslkernels import _C
from sslkernels.ops.rows import row_dot, unit_rows
from sslkernels.ops.similarity.schema import Pairs

pytestmark = pytest.mark.usefixtures("poisoned_outputs")

QUEUE = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(6, 3).sin()


def rows(n: int, d: int, needs: bool = True) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, requires_grad=needs)


def number(value: float, needs: bool = True) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=needs)


@pytest.mark.parametrize("dim", ["rows", "both"])
@pytest.mark.parametrize("exclude", [None, [0, 3, -1, 2, 2], [[0, 1], [1, -1], [3, 3], [-1, -1], [0, 2]]])
def test_gradcheck_of_a_pair(backend: str, exclude: list | None, dim: str) -> None:
    out = None if exclude is None else torch.tensor(exclude)

    def lse(x: Tensor, y: Tensor, scale: Tensor) -> Any:
        return SF.logsumexp_similarity(x, y, scale, exclude=out, dim=dim, backend=backend)

    assert gradcheck(lse, (rows(5, 3), rows(4, 3), number(-0.7)))


@pytest.mark.parametrize("dim", ["rows", "both"])
@pytest.mark.parametrize(
    "exclude", [None, [0, 1, 2, 3, 4], [1, 4, 3, 2, -1], [[0, 1], [2, -1], [3, 3], [-1, -1], [0, 2]]]
)
def test_gradcheck_of_x_with_itself(backend: str, exclude: list | None, dim: str) -> None:
    """Exclusions are symmetric or lopsided; lopsided ones need separate masks for the two rows of a pair."""
    out = None if exclude is None else torch.tensor(exclude)

    def lse(x: Tensor, scale: Tensor) -> Any:
        return SF.logsumexp_similarity(x, None, scale, exclude=out, dim=dim, backend=backend)

    assert gradcheck(lse, (rows(5, 3), number(0.8)))


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b, t, **o: SF.nt_xent(a, b, temperature=t, **o),
        lambda a, b, t, **o: SF.nt_xent(a, b, temperature=t, normalize=False, reduction="none", **o),
        lambda a, b, t, **o: SF.info_nce(a, b, temperature=t, reduction="sum", **o),
        lambda a, b, t, **o: SF.info_nce(a, b, temperature=t, symmetric=True, **o),
        lambda a, b, t, **o: SF.info_nce(a, b, temperature=t, negatives=QUEUE, **o),
        lambda a, b, t, **o: SF.clip_loss(a, b, 1 / t, **o),
    ],
    ids=["nt_xent", "nt_xent-raw", "info_nce", "info_nce-symmetric", "info_nce-queue", "clip_loss"],
)
def test_gradcheck_of_losses(backend: str, loss: Callable[..., Tensor]) -> None:
    inputs = (rows(4, 3), rows(4, 3), number(0.6))
    assert gradcheck(lambda a, b, t: loss(a, b, t, backend=backend), inputs)


def test_gradcheck_of_learnable_negatives(backend: str) -> None:
    assert gradcheck(
        lambda q, k, n, t: SF.info_nce(q, k, negatives=n, temperature=t, backend=backend),
        (rows(3, 4), rows(3, 4), rows(5, 4), number(0.6)),
    )


def test_gradcheck_across_several_blocks() -> None:
    """We check one direction for many rows, so that every block and both threads take part."""
    x, y = rows(230, 2), rows(210, 2)
    exclude = torch.arange(230) % 210

    def lse(x: Tensor, y: Tensor) -> Any:
        both = SF.logsumexp_similarity(x, y, 0.3, exclude=exclude, dim="both", backend="cpu")
        return torch.cat([*both, SF.logsumexp_similarity(x, None, 0.3, exclude=exclude, backend="cpu")])

    assert gradcheck(lse, (x, y), fast_mode=True)


@pytest.mark.parametrize("parts", [1, 2])
def test_gradcheck_of_unit_rows(backend: str, parts: int) -> None:
    inputs = tuple(rows(n, 3) for n in (4, 2)[:parts])
    assert gradcheck(lambda *z: unit_rows(*z, backend=backend), inputs)


@pytest.mark.parametrize("shift", [0, 1, 4, -2])
def test_gradcheck_of_row_dot(backend: str, shift: int) -> None:
    assert gradcheck(lambda x, y: row_dot(x, y, shift=shift, backend=backend), (rows(4, 3), rows(4, 3)))
    assert gradcheck(lambda x, y: row_dot(x, y, shift=shift, backend=backend), (rows(3, 3), rows(5, 3)))
    assert gradcheck(lambda x: row_dot(x, shift=shift, backend=backend), (rows(4, 3),))


def test_gradcheck_would_notice_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = _C.similarity_backward

    def wrong_scale(given: tuple[Any, ...], *others: Any) -> None:
        kernel(tuple(1.01 * value if isinstance(value, float) else value for value in given), *others)

    monkeypatch.setattr(_C, "similarity_backward", wrong_scale)
    with pytest.raises(GradcheckError):
        gradcheck(lambda x, y: SF.logsumexp_similarity(x, y, backend="cpu"), (rows(4, 3), rows(5, 3)))


class Calls(TorchDispatchMode):
    """Record the sslkernels ops that run, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple]] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), options: Any = None) -> Any:
        if function.namespace == "sslkernels":
            self.seen.append((function._schema.name.split("::")[1], arguments))
        return function(*arguments, **(options or {}))

    def names(self) -> list[str]:
        return [name for name, _ in self.seen]


NEEDS = [(x, y, s) for x in (False, True) for y in (False, True) for s in (False, True)]


@pytest.mark.parametrize("dim", ["rows", "both"])
@pytest.mark.parametrize("need_x, need_y, need_scale", NEEDS)
def test_each_combination_of_needs(backend: str, dim: str, need_x: bool, need_y: bool, need_scale: bool) -> None:
    x, y, scale = rows(40, 5, need_x), rows(37, 5, need_y), number(0.7, need_scale)
    exclude = torch.randint(-1, 37, (40, 2))

    def value(x: Tensor, y: Tensor, scale: Tensor, lse: Callable[..., Any]) -> Tensor:
        found = lse(x, y, scale, exclude)
        return (found[0] ** 2).sum() + (found[1].sin().sum() if dim == "both" else 0)

    def ours(x: Tensor, y: Tensor, scale: Tensor, exclude: Tensor) -> Any:
        found = SF.logsumexp_similarity(x, y, scale, exclude=exclude, dim=dim, backend=backend)
        return found if dim == "both" else (found,)

    total = value(x, y, scale, ours)
    assert total.requires_grad == (need_x or need_y or need_scale)
    if not total.requires_grad:
        return
    total.backward()
    expected = rows_oracle.gradients(lambda *given: value(*given, oracle.logsumexp_similarity), [x, y, scale])
    for leaf, gradient in zip((x, y, scale), expected, strict=True):
        if leaf.requires_grad:
            torch.testing.assert_close(leaf.grad, gradient, rtol=1e-9, atol=1e-9)
        else:
            assert leaf.grad is None


@pytest.mark.parametrize("need_x, need_scale", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("dim", ["rows", "both"])
def test_each_combination_of_needs_of_x_with_itself(backend: str, dim: str, need_x: bool, need_scale: bool) -> None:
    x, scale = rows(40, 5, need_x), number(0.7, need_scale)
    exclude = torch.arange(40)

    def value(found: Any) -> Tensor:
        return (found[0] ** 2).sum() + found[1].sin().sum() if dim == "both" else (found**2).sum()

    value(SF.logsumexp_similarity(x, None, scale, exclude=exclude, dim=dim, backend=backend)).backward()

    def expected_value(x: Tensor, scale: Tensor) -> Tensor:
        found = oracle.logsumexp_similarity(x, None, scale, exclude)
        return value(found if dim == "both" else found[0])

    for leaf, gradient in zip((x, scale), rows_oracle.gradients(expected_value, [x, scale]), strict=True):
        if leaf.requires_grad:
            torch.testing.assert_close(leaf.grad, gradient, rtol=1e-9, atol=1e-9)
        else:
            assert leaf.grad is None


@pytest.mark.parametrize("need_a, need_b, need_t", NEEDS[1:])
@pytest.mark.parametrize("name", ["nt_xent", "info_nce", "info_nce-symmetric", "clip_loss"])
def test_each_combination_of_needs_of_losses(backend: str, name: str, need_a: bool, need_b: bool, need_t: bool) -> None:
    ours, exact = {
        "nt_xent": (lambda a, b, t: SF.nt_xent(a, b, temperature=t, backend=backend), oracle.nt_xent),
        "info_nce": (
            lambda a, b, t: SF.info_nce(a, b, temperature=t, backend=backend),
            lambda a, b, t: oracle.info_nce(a, b, temperature=t),
        ),
        "info_nce-symmetric": (
            lambda a, b, t: SF.info_nce(a, b, temperature=t, symmetric=True, backend=backend),
            lambda a, b, t: oracle.info_nce(a, b, temperature=t, symmetric=True),
        ),
        "clip_loss": (lambda a, b, t: SF.clip_loss(a, b, t, backend=backend), oracle.clip_loss),
    }[name]
    inputs = rows(30, 5, need_a), rows(30, 5, need_b), number(0.6, need_t)
    with Calls() as calls:
        ours(*inputs).backward()
    for leaf, gradient in zip(inputs, rows_oracle.gradients(lambda *given: exact(*given).mean(), inputs), strict=True):
        if leaf.requires_grad:
            torch.testing.assert_close(leaf.grad, gradient, rtol=1e-9, atol=1e-9)
        else:
            assert leaf.grad is None
    ((op, given),) = calls.seen
    assert op == "similarity_contrast" and given[-5:-1] == (need_a, need_b, False, need_t)


def test_frozen_keys_take_one_pass_and_are_not_kept(backend: str) -> None:
    query, queue = rows(6, 4), rows(50, 4, needs=False)
    kept: list[Tensor] = []
    with Calls() as calls, torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        SF.logsumexp_similarity(query, queue, 0.5, backend=backend).sum().backward()
    assert calls.names() == ["similarity_forward", "similarity_finish"]
    assert all(tensor.shape != queue.shape for tensor in kept)


def test_nothing_is_computed_for_frozen_sides(backend: str) -> None:
    """The backward knows which side needs no gradient, and returns an empty tensor for it."""
    x, y = rows(6, 4, needs=False), rows(5, 4)
    with Calls() as calls:
        SF.logsumexp_similarity(x, y, 0.5, backend=backend).sum().backward()
    assert calls.names() == ["similarity_forward", "similarity_backward", "similarity_finish"]
    assert calls.seen[1][1][16:19] == (False, True, False)
    lse = SF.logsumexp_similarity(x, y.detach(), 0.5, backend=backend)
    none = torch.empty(0, dtype=torch.float64)
    pairs = Pairs(x, y.detach(), number(0.5, False), None)
    dx, _, of_bias = torch.ops.sslkernels.similarity_backward(
        *pairs, lse, torch.ones_like(lse), None, None, False, True, False, backend
    )
    assert torch.equal(dx, none) and torch.equal(of_bias, none)


def test_no_grad_saves_nothing_and_computes_no_gradient(backend: str) -> None:
    kept: list[Tensor] = []
    inputs = rows(6, 4), rows(6, 4)
    with torch.no_grad(), Calls() as calls:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            value = SF.info_nce(*inputs, negatives=rows(9, 4, needs=False), backend=backend)
    assert not value.requires_grad and not kept
    ((name, arguments),) = calls.seen
    assert name == "similarity_contrast" and not any(arguments[-5:-1])


def test_scale_gradient_at_zero(backend: str) -> None:
    """At scale 0, dX / s would be 0 / 0."""
    x, y, scale = rows(4, 3), rows(5, 3), number(0.0)
    SF.logsumexp_similarity(x, y, scale, backend=backend).sum().backward()
    torch.testing.assert_close(scale.grad, (x @ y.T).mean(1).sum().detach())
    assert (x.grad == 0).all() and (y.grad == 0).all()
    scale.grad = None
    SF.logsumexp_similarity(x, None, scale, backend=backend).sum().backward()
    torch.testing.assert_close(scale.grad, (x @ x.T).mean(1).sum().detach())


def test_one_tensor_on_both_sides(backend: str) -> None:
    """If the same tensor is passed as x and as y, its two gradients add up."""
    x = rows(7, 3)
    weights = torch.randn(7, dtype=torch.float64)
    (SF.logsumexp_similarity(x, x, 0.4, backend=backend) * weights).sum().backward()
    twice, x.grad = x.grad, None
    (SF.logsumexp_similarity(x, None, 0.4, backend=backend) * weights).sum().backward()
    torch.testing.assert_close(x.grad, twice)
