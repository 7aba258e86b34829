# SPDX-License-Identifier: Apache-2.0
"""Check the exponentials that a call keeps for its gradient, and the memory that outlives the call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import similarity_oracle as oracle
import torch
from torch import Tensor

import sslkernels as sk
import sslkernels.functional as SF
from sslkernels import _C
from sslkernels.ops.similarity import cpu

IN_EACH_INSTRUCTION_SET = """
import itertools
import torch
import sslkernels.functional as SF
import similarity_oracle as oracle
from sslkernels import _C
from sslkernels.ops.similarity import cpu

assert _C.isa() == {isa!r}, _C.isa()
torch.manual_seed(0)
budget = cpu.WORKSPACE
losses = (
    (SF.nt_xent, oracle.nt_xent, dict()), (SF.info_nce, oracle.info_nce, dict()),
    (SF.info_nce, oracle.info_nce, dict(symmetric=True)), (SF.info_nce, oracle.info_nce, dict(negatives=True)),
)
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    for (n, d), (loss, exact, options) in itertools.product(((1, 2), (47, 17), (210, 33)), losses):
        leaves = [torch.randn(n, d).to(dtype).requires_grad_() for _ in range(2)]
        if "negatives" in options:
            leaves.append(torch.randn(n + 9, d).div(d ** 0.5).to(dtype).requires_grad_())
        scale = torch.tensor(0.625, requires_grad=True)

        def value_of(loss, leaves, scale, **more):
            given = dict(options, negatives=leaves[2]) if len(leaves) == 3 else options
            return loss(*leaves[:2], temperature=scale, **given, **more)

        wide = [leaf.detach().double().requires_grad_() for leaf in (*leaves, scale)]
        truth = value_of(exact, wide[:-1], wide[-1]).mean()
        truths = [truth.detach(), *torch.autograd.grad(truth, wide)]
        bound = 1e-9 if dtype == torch.float64 else max(4 * torch.finfo(dtype).eps, 2e-5)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = []
            for cpu.WORKSPACE in (budget, 0):
                value = value_of(loss, leaves, scale, backend="cpu")
                found.append([value.detach(), *torch.autograd.grad(value, (*leaves, scale))])
            assert torch.equal(found[0][0], found[1][0])
            for kept, again, wanted in zip(*found, truths):
                size = wanted.abs().max()
                assert (kept.double() - again.double()).abs().max() <= bound * size, (dtype, n, d, threads, options)
                assert (kept.double() - wanted).abs().max() <= 2 * bound * size + 1e-7, (dtype, n, d, threads, options)
print("agrees")
"""


@pytest.mark.parametrize("isa", _C.available_isas())
def test_kept_and_recomputed_agree(isa: str, run_python: Callable) -> None:
    done = run_python(IN_EACH_INSTRUCTION_SET.format(isa=isa), SSLKERNELS_ISA=isa)
    assert done.returncode == 0 and done.stdout.split() == ["agrees"], done.stderr[-2000:]


def gradients(loss: Callable[..., Tensor], *rows: Tensor, **options: Any) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in rows]
    value = loss(*leaves, **options)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


@pytest.mark.usefixtures("poisoned_outputs")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 1 / 40, -1 / 900])
def test_tiles_with_nothing_in_common(temperature: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values too far apart for one exponential are kept as logits; rows with few outliers give tiles of both kinds."""
    x, y = torch.randn(259, 9), torch.randn(259, 9)
    x[::50] *= 30
    options = {"temperature": temperature, "normalize": False}
    for loss, exact in ((SF.nt_xent, oracle.nt_xent), (SF.info_nce, oracle.info_nce)):
        rows = x.to(dtype), y.to(dtype)
        kept = gradients(loss, *rows, backend="cpu", **options)
        with monkeypatch.context() as patch:
            patch.setattr(cpu, "WORKSPACE", 0)
            again = gradients(loss, *rows, backend="cpu", **options)
        truth = gradients(lambda *given, f=exact: f(*given, **options).mean(), *(x.double() for x in rows))
        for found, other, wanted in zip(kept, again, truth, strict=True):
            off = (found.double() - wanted).norm()
            # Logits of 1e4 are rounded to 1e-3, and so are the weights of negatives that compete.
            assert off <= 2 * (other.double() - wanted).norm() + 1e-6 * wanted.norm(), loss


@pytest.fixture
def released() -> Iterator[None]:
    sk.release_workspace()
    yield
    sk.release_workspace()


@pytest.mark.usefixtures("released")
def test_above_the_budget_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1000, 8, requires_grad=True)
    triangle = cpu.kept_bytes("itself", 2000, 2000, 8, torch.float32)
    SF.nt_xent(x, x.flip(0), backend="cpu")
    assert triangle <= _C.workspace_bytes() < 2 * triangle
    sk.release_workspace()
    monkeypatch.setattr(cpu, "WORKSPACE", triangle - 1)
    SF.nt_xent(x, x.flip(0), backend="cpu")
    assert 0 < _C.workspace_bytes() < triangle / 2


@pytest.mark.usefixtures("released")
def test_a_gradient_of_the_keys_alone_keeps_nothing() -> None:
    """It passes the matrix the other way, and would not find what the forward keeps."""
    x, y = torch.randn(1000, 8, requires_grad=True), torch.randn(1000, 8, requires_grad=True)
    square = cpu.kept_bytes("both", 1000, 1000, 8, torch.float32)
    for loss in (SF.info_nce, lambda *rows, **options: SF.clip_loss(*rows, 2.0, **options)):
        for query in (x, x.detach()):
            sk.release_workspace()
            loss(query, y, backend="cpu")
            assert (_C.workspace_bytes() >= square) == query.requires_grad


@pytest.mark.usefixtures("released")
def test_what_an_earlier_call_left_does_not_count() -> None:
    """The block that waits for the next call may hold anything, and is taken by calls of any shape."""
    x, y = torch.randn(70, 11), torch.randn(70, 11)
    losses = (SF.nt_xent, SF.info_nce, lambda *rows, **options: SF.clip_loss(*rows, 2.0, **options), SF.barlow_twins)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for loss in losses:
            sk.release_workspace()
            fresh = gradients(loss, x.to(dtype), y.to(dtype), backend="cpu")
            for shape in ((300, 40), (3, 5)):
                gradients(SF.nt_xent, torch.full(shape, torch.nan), torch.full(shape, torch.nan), backend="cpu")
                for found, wanted in zip(gradients(loss, x.to(dtype), y.to(dtype), backend="cpu"), fresh, strict=True):
                    assert torch.equal(found, wanted), (loss, dtype, shape)


@pytest.mark.usefixtures("released")
def test_release_gives_all_back() -> None:
    SF.nt_xent(torch.randn(300, 16, requires_grad=True), torch.randn(300, 16), backend="cpu")
    assert _C.workspace_bytes() > 0
    sk.release_workspace()
    assert _C.workspace_bytes() == 0


@pytest.mark.parametrize("mib", [0, 1, 64])
def test_the_workspace_is_bounded(mib: int, run_python: Callable) -> None:
    code = """
import torch, sslkernels.functional as SF
from sslkernels import _C
for n in (30, 300, 1500, 700):
    x = torch.randn(n, 32, requires_grad=True)
    SF.nt_xent(x, x.flip(0), backend="cpu").backward()
    print(_C.workspace_bytes())
"""
    done = run_python(code, SSLKERNELS_WORKSPACE_MIB=str(mib))
    sizes = [int(line) for line in done.stdout.split()]
    assert len(sizes) == 4 and all(size <= mib << 20 for size in sizes), done.stderr
    assert (max(sizes) > 0) == (mib > 0)
