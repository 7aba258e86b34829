# SPDX-License-Identifier: Apache-2.0
"""Check the exponentials that the C++ forward keeps: read or recomputed, they give the same gradient, within bounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from dense_oracle import Oracle
from torch import Tensor

import sslkernels.functional as SF
from sslkernels import _C
from sslkernels.ops.similarity import autograd

IN_EACH_INSTRUCTION_SET = """
import torch
from dense_oracle import Oracle
import sslkernels.functional as SF
from sslkernels import _C
from sslkernels.ops.similarity import autograd

assert _C.isa() == {isa!r}, _C.isa()
torch.manual_seed(0)
budget = autograd.WORKSPACE
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    for n, m, d in ((1, 3, 2), (47, 49, 17), (210, 230, 33), (500, 400, 5)):
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            x, y = (torch.randn(rows, d).div(d ** 0.5).to(dtype).requires_grad_() for rows in (n, m))
            for keys, dim in ((y, "rows"), (y, "both"), (None, "rows"), (None, "both")):
                exclude = torch.randint(-1, m if keys is y else n, (n, 2))
                exact = Oracle(x.detach(), None if keys is None else y.detach(), 1.7, exclude)
                leaves = [x] if keys is None else [x, y]
                rows_grad, columns_grad = torch.randn(n), torch.randn(n if keys is None else m)
                found = []
                for autograd.WORKSPACE in (budget, 0):
                    scale = torch.tensor(1.7, requires_grad=True)
                    sums = SF.logsumexp_similarity(x, keys, scale, exclude=exclude, dim=dim, backend="cpu")
                    sums = sums if dim == "both" else (sums,)
                    grads = [g.to(s) for g, s in zip((rows_grad, columns_grad), sums)]
                    found.append(torch.autograd.grad(sums, (*leaves, scale), grads))
                for kept, again in zip(*found):
                    bound = 1e-9 if dtype == torch.float64 else max(4 * torch.finfo(dtype).eps, 2e-5)
                    off = (kept.double() - again.double()).abs().max()
                    assert off <= bound * (1 + again.double().abs().max()), (dtype, n, m, d, threads, dim, off)
                if dtype != torch.float64:
                    *dx, dscale = found[0]
                    dy = dx[1] if keys is y else None
                    exact.check_gradients(dx[0], dy, dscale, rows_grad, columns_grad if dim == "both" else None)
print("agrees")
"""


@pytest.mark.parametrize("isa", _C.available_isas())
def test_kept_and_recomputed_agree(isa: str, run_python: Callable) -> None:
    done = run_python(IN_EACH_INSTRUCTION_SET.format(isa=isa), SSLKERNELS_ISA=isa)
    assert done.returncode == 0 and done.stdout.split() == ["agrees"], done.stderr[-2000:]


def gradient_of(x: Tensor, y: Tensor | None, scale: float, exclude: Tensor | None, between: Callable = lambda: None):
    leaves = [x.clone().requires_grad_()] + ([] if y is None else [y.clone().requires_grad_()])
    rows = SF.logsumexp_similarity(*leaves, scale=scale, exclude=exclude, backend="cpu")
    between()
    grad = torch.linspace(-1, 1, len(rows))
    gradients = torch.autograd.grad(rows, leaves, grad, retain_graph=True)
    again = torch.autograd.grad(rows, leaves, grad)
    assert all(map(torch.equal, gradients, again)), "what was kept does not survive a backward"
    oracle = Oracle(x, y, scale, exclude)
    oracle.check_gradients(gradients[0], gradients[1] if y is not None else None, None, grad, None)
    return gradients


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3), (3, 2), (3, 1)])
@pytest.mark.parametrize("n", [97, 300, 700])
def test_threads_may_change_before_the_backward(set_threads: Callable, before: int, after: int, n: int) -> None:
    """With another number of threads, the backward visits blocks of the triangle in another orientation."""
    set_threads(before)
    gradient_of(torch.randn(n, 24) / 5, None, 1.0, None, lambda: set_threads(after))
    set_threads(before)
    gradient_of(torch.randn(n, 24) / 5, torch.randn(n // 2, 24) / 5, 1.0, None, lambda: set_threads(after))


@pytest.mark.usefixtures("poisoned_outputs")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 40.0, -900.0])
def test_tiles_with_nothing_in_common(scale: float, dtype: torch.dtype) -> None:
    """Values too far apart for one exponential are kept as logits; rows with few outliers give tiles of both kinds."""
    x = torch.randn(259, 9)
    x[::50] *= 30
    gradient_of(x.to(dtype), None, scale, torch.arange(259)[:, None])
    gradient_of(x.to(dtype), torch.randn(203, 9).to(dtype), scale, None)


@pytest.mark.usefixtures("poisoned_outputs")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wide_tiles_of_rows_whose_sums_are_alike(dtype: torch.dtype) -> None:
    """Logits run from -100 to 100 and every sum is near 100: the forward keeps logits, the backward exponentiates."""
    x = torch.nn.functional.normalize(torch.randn(203, 3), dim=1).to(dtype)
    gradient_of(x, None, 100.0, None)
    gradient_of(x, x.flip(0), 100.0, None)


def test_rows_without_a_gradient_may_exceed_those_with_one() -> None:
    """Whole tiles of values near 200 receive no gradient, beside rows whose sums are near 5."""
    x, y = torch.randn(144, 4) / 10, torch.randn(96, 4) / 10
    x[:48, 0], x[48:, 0], y[:, 0] = 20, 0, 10
    leaf = x.clone().requires_grad_()
    rows = SF.logsumexp_similarity(leaf, y.requires_grad_(), 1.0, backend="cpu")
    grad = torch.ones(144)
    grad[:48] = 0
    dx, dy = torch.autograd.grad(rows, (leaf, y), grad)
    oracle = Oracle(x, y.detach(), 1.0, None)
    oracle.check_gradients(dx, dy, None, grad, None)
    assert (dx[:48] == 0).all()


def test_above_the_budget_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(100, 8, requires_grad=True)
    sizes: list[int] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t)
    with hooks:
        SF.nt_xent(x, x.flip(0), backend="cpu")
    assert max(sizes) >= 200 * 200
    monkeypatch.setattr(autograd, "WORKSPACE", 200 * 200)
    sizes.clear()
    with hooks:
        SF.nt_xent(x, x.flip(0), backend="cpu")
    assert max(sizes) == 200 * 8


def test_too_little_room_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel knows how much room its schedule takes, and never writes or reads beyond the given memory."""
    monkeypatch.setattr(autograd, "kept_numbers", lambda *_: 5000)
    gradient_of(torch.randn(300, 8), None, 0.5, None)
    gradient_of(torch.randn(300, 8), torch.randn(200, 8), 0.5, None)
