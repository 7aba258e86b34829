# SPDX-License-Identifier: Apache-2.0
"""Our ops work inside torch: op registration, compile, autocast, autograd's rules, determinism, one OpenMP runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rows_oracle
import similarity_oracle as oracle
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import sslkernels.functional as SF
from sslkernels.ops.rows import row_dot, unit_rows

OPS = torch.ops.sslkernels
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def nt_xent(a: Tensor, b: Tensor, **options: Any) -> Tensor:
    return SF.nt_xent(a, b, **options)


def info_nce(a: Tensor, b: Tensor, **options: Any) -> Tensor:
    return SF.info_nce(a, b, **options)


def moco(a: Tensor, b: Tensor, **options: Any) -> Tensor:
    queue = torch.linspace(-1, 1, 9 * a.shape[1], dtype=a.dtype).view(9, -1)
    return SF.info_nce(a, b.detach(), negatives=queue, **options)


def clip_loss(a: Tensor, b: Tensor, **options: Any) -> Tensor:
    return SF.clip_loss(a, b, a.new_full((), 2.0), **options)


def logsumexp(a: Tensor, b: Tensor, **options: Any) -> Tensor:
    rows, columns = SF.logsumexp_similarity(a, b, 0.5, exclude=torch.arange(len(a)), dim="both", **options)
    return rows.mean() + columns.sin().mean()


def agreement(a: Tensor, b: Tensor, **options: Any) -> Tensor:
    """Add BYOL's loss and SimSiam's with one frozen view."""
    return SF.byol_loss(a, b, **options) + SF.negative_cosine_similarity(b, a.detach(), **options)


def barlow_twins(a: Tensor, b: Tensor, **options: Any) -> Tensor:
    return SF.barlow_twins(a, b, **options)


def vicreg(a: Tensor, b: Tensor, **options: Any) -> Tensor:
    return SF.vicreg(a, b, **options)


def cross_correlation(a: Tensor, b: Tensor, **options: Any) -> Tensor:
    diagonal, total = SF.cross_correlation_sq(a, b, side="samples", **options)
    return diagonal.sin().mean() + total / a.numel()


def regularized(a: Tensor, b: Tensor, **options: Any) -> Tensor:
    return SF.variance_hinge(0.3 * a, **options) + SF.covariance_penalty(b, **options)


def masked_tokens(a: Tensor, b: Tensor, **options: Any) -> Tensor:
    """Apply every op on tokens that has a gradient, one after another; rows are the tokens of one sample."""
    places = torch.arange(len(a)).flip(0)[None]
    kept = SF.gather_tokens(a[None], places[:, 1:], pos=b, **options)
    whole = SF.restore_tokens(kept, places, b[0], **options)
    moved = SF.scatter_tokens(whole, places, len(a) + 1, fill=b[1], **options)
    target = a.detach()[None].cos()
    both = SF.apply_masks(moved, [places, places], **options)
    first, second = both.chunk(2)
    return SF.masked_mse(first, target, torch.ones(1, len(a)), **options) + SF.masked_smooth_l1(
        second, target, **options
    )


SIMILARITY = (nt_xent, info_nce, moco, clip_loss, logsumexp)
LOSSES = (*SIMILARITY, agreement, barlow_twins, vicreg, cross_correlation, regularized, masked_tokens)


def pair(n: int, d: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(n, d).to(dtype).requires_grad_(), torch.randn(n, d).to(dtype).requires_grad_()


def gradients(loss: Callable[..., Tensor], a: Tensor, b: Tensor, **options: Any) -> list[Tensor]:
    value = loss(a, b, **options)
    return [value.detach(), *torch.autograd.grad(value, (a, b), allow_unused=True, materialize_grads=True)]


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# One of each family in every run; the others are slow.
COMPILED = (nt_xent, agreement, vicreg, masked_tokens)


@pytest.mark.parametrize(
    "loss", [loss if loss in COMPILED else pytest.param(loss, marks=pytest.mark.slow) for loss in LOSSES]
)
def test_compiles_whole_and_once_for_three_batch_sizes(backend: str, loss: Callable, fresh_compiler: None) -> None:
    """Forward and backward compile as full graphs; the second size makes the batch dynamic, the third compiles none."""
    graphs: list[torch.fx.GraphModule] = []

    def counted(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(loss, fullgraph=True, backend=counted)
    for n in (6, 9, 14):
        a, b = pair(n, 5)
        for actual, expected in zip(
            gradients(compiled, a, b, backend=backend), gradients(loss, a, b, backend=backend), strict=True
        ):
            torch.testing.assert_close(actual, expected)
    assert len(graphs) <= 2


LABELS = torch.tensor([0, 0, 1, 1])
# One node of each kind is given the same tensor twice.
REPEATED: dict[str, Callable[..., Tensor]] = {
    "keys that are values": lambda x, y, **options: SF.attend_similarity(x, y, y, **options).square().sum(),
    "labels of rows and of columns": lambda x, y, **options: SF.logsumexp_similarity(
        x, y, row_labels=LABELS, col_labels=LABELS, **options
    ).sum(),
    "a bias over rows themselves": lambda x, y, **options: SF.logsumexp_similarity(
        x, bias=y[:, 0], row_labels=LABELS, **options
    ).sum(),
    "rows that meet themselves": lambda x, y, **options: SF.softplus_similarity(x, x, **options).sum() + 0 * y.sum(),
    "equal views": lambda x, y, **options: SF.nt_xent(x, x, **options) + 0 * y.sum(),
    "equal views one by one": lambda x, y, **options: (
        SF.info_nce(x, x, reduction="none", normalize=False, **options) @ y[:, 0]
    ),
    "equal rows": lambda x, y, **options: SF.negative_cosine_similarity(x, x, reduction="none", **options) @ y[:, 0],
}


@pytest.mark.parametrize("name", REPEATED)
def test_compiles_where_a_tensor_comes_twice(backend: str, name: str, fresh_compiler: None) -> None:
    loss = REPEATED[name]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    x, y = pair(4, 5)
    for actual, expected in zip(
        gradients(compiled, x, y, backend=backend), gradients(loss, x, y, backend=backend), strict=True
    ):
        torch.testing.assert_close(actual, expected)


def test_compiles_once_where_the_batch_is_marked_dynamic(fresh_compiler: None) -> None:
    compiled = torch.compile(nt_xent, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n in (6, 9, 14):
            a, b = pair(n, 5)
            torch._dynamo.mark_dynamic(a, 0), torch._dynamo.mark_dynamic(b, 0)
            for actual, expected in zip(gradients(compiled, a, b), gradients(nt_xent, a, b), strict=True):
                torch.testing.assert_close(actual, expected)


def test_inductor(fresh_compiler: None) -> None:
    compiled = torch.compile(nt_xent, fullgraph=True)
    for n in (6, 9, 14):
        a, b = pair(n, 5)
        for actual, expected in zip(gradients(compiled, a, b), gradients(nt_xent, a, b), strict=True):
            torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_computes_in_its_dtype(backend: str, loss: Callable, dtype: torch.dtype) -> None:
    """Inside autocast fp32 rows give the same as rows of autocast's dtype; loss and gradients come back in fp32."""
    a, b = pair(12, 7)
    with torch.autocast("cpu", dtype=dtype):
        inside, first, second = gradients(loss, a, b, backend=backend)
    assert inside.dtype == torch.float32 and first.dtype == second.dtype == torch.float32
    if loss in (clip_loss, logsumexp):
        low = [x.detach().to(dtype).requires_grad_() for x in (a, b)]
        value, *expected = gradients(loss, *low, backend=backend)
        assert torch.equal(inside, value)
        assert torch.equal(first, expected[0].float()) and torch.equal(second, expected[1].float())
    outside = gradients(loss, a, b, backend=backend)[0]
    # Correlation rounds just before products, and not always: float16 on the CPU and the side of samples use fp32.
    assert inside != outside or loss not in SIMILARITY, "autocast changed nothing"
    torch.testing.assert_close(inside, outside, rtol=0.02, atol=0.02)


def test_autocast_leaves_float64_alone(backend: str) -> None:
    a, b = pair(5, 4, torch.float64)
    outside = SF.nt_xent(a, b, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(SF.nt_xent(a, b, backend=backend), outside)


@pytest.mark.parametrize("other", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("swap", [False, True])
def test_autocast_takes_two_dtypes(backend: str, other: torch.dtype, swap: bool) -> None:
    a, b = torch.randn(5, 4), torch.randn(5, 4).to(other)
    if swap:
        a, b = b, a
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert SF.nt_xent(a, b, backend=backend).isfinite()
        assert SF.clip_loss(a, b, 2.0, backend=backend).isfinite()
        for symmetric in (False, True):
            for normalize in (False, True):
                options = {"symmetric": symmetric, "normalize": normalize}
                value = SF.info_nce(a, b, **options, backend=backend).double()
                exact = SF.info_nce(a.double(), b.double(), **options, backend="reference")
                torch.testing.assert_close(value, exact, rtol=5e-2, atol=5e-2)
        assert SF.logsumexp_similarity(a, b, backend=backend).isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_grad_scaler_sized_gradients_in_float16(backend: str, loss: Callable) -> None:
    """The gradient is multiplied by grad_output before it is rounded: small entries survive a scale of 65536."""
    a, b = pair(64, 16)
    with torch.autocast("cpu", dtype=torch.float16):
        value = loss(a, b, backend=backend)
    scaled = torch.autograd.grad(value, (a, b), torch.tensor(65536.0), allow_unused=True, materialize_grads=True)
    exact = gradients(loss, *(x.detach().half().double().requires_grad_() for x in (a, b)), backend="reference")[1:]
    for actual, expected in zip(scaled, exact, strict=True):
        if expected.abs().max() == 0:
            continue
        error = (actual.double() / 65536 - expected).norm() / expected.norm()
        assert actual.isfinite().all() and error < 2e-3


def test_frozen_keys_round_once_in_float16(backend: str) -> None:
    """The gradient that the forward leaves behind stays in fp32 until grad_output is known."""
    query, queue = torch.randn(32, 16).half().requires_grad_(), torch.randn(400, 16).half()
    lse = SF.logsumexp_similarity(query, queue, 1e-6, backend=backend)
    (gradient,) = torch.autograd.grad(lse, query, torch.full((32,), 65536.0))
    (exact,) = rows_oracle.gradients(lambda q: 65536 * oracle.logsumexp_similarity(q, queue, 1e-6)[0].sum(), [query])
    torch.testing.assert_close(gradient.double(), exact, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_retained_graph_gives_the_same_gradient_twice(backend: str, loss: Callable) -> None:
    a, b = pair(20, 6)
    value = loss(a, b, backend=backend)
    once = torch.autograd.grad(value, (a, b), retain_graph=True, allow_unused=True, materialize_grads=True)
    again = torch.autograd.grad(value, (a, b), allow_unused=True, materialize_grads=True)
    assert all(torch.equal(x, y) for x, y in zip(once, again, strict=True))


@pytest.mark.parametrize(
    "call",
    [
        lambda a, b, **o: SF.nt_xent(a, b, **o),
        lambda a, b, **o: SF.info_nce(a, b.detach(), negatives=b.detach(), **o),
        lambda a, b, **o: SF.clip_loss(a, b, 2.0, **o),
        lambda a, b, **o: SF.logsumexp_similarity(a, b, **o).sum(),
        lambda a, b, **o: unit_rows(a, b, **o).sum(),
        lambda a, b, **o: row_dot(a, b, **o).sum(),
        lambda a, b, **o: SF.byol_loss(a, b.detach(), **o),
    ],
    ids=["nt_xent", "info_nce-queue", "clip_loss", "logsumexp_similarity", "unit_rows", "row_dot", "byol_loss"],
)
def test_a_second_derivative_raises(backend: str, call: Callable) -> None:
    """A gradient penalty must not count as a constant: a training would silently go wrong."""
    a, b = pair(4, 3)
    with pytest.raises(RuntimeError, match="twice|second"):
        value = call(a, b, backend=backend)
        (gradient,) = torch.autograd.grad(value, a, create_graph=True)
        (value + gradient.square().sum()).backward()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_second_derivative_of_chosen_parameters_raises(backend: str, loss: Callable) -> None:
    """autograd.grad visits only the nodes that lead to its inputs, so the complaint must be raised by one of them."""
    layer = torch.nn.Linear(3, 3)
    x, b = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    for wanted in (list(layer.parameters()), [x]):
        value = loss(layer(x), b, backend=backend)
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        with pytest.raises(RuntimeError, match="second derivative"):
            torch.autograd.grad(value + gradient.square().sum(), wanted)
    queue = torch.randn(7, 3)
    value = SF.info_nce(layer(x), b, negatives=queue, normalize=False, backend=backend)
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(value + gradient.square().sum(), list(layer.parameters()))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(backend: str, loss: Callable, reentrant: bool) -> None:
    a, b = pair(8, 5)
    expected = gradients(loss, a, b, backend=backend)
    actual = checkpoint(lambda a, b: loss(a, b, backend=backend), a, b, use_reentrant=reentrant)
    actual.backward()
    assert torch.equal(actual.detach(), expected[0]) and torch.equal(a.grad, expected[1])
    assert b.grad is None or torch.equal(b.grad, expected[2])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_inputs_are_never_written(backend: str, loss: Callable, dtype: torch.dtype) -> None:
    a, b = pair(20, 6, dtype)
    before = a.detach().clone(), b.detach().clone()
    versions = a._version, b._version
    gradients(loss, a, b, backend=backend)
    assert torch.equal(a.detach(), before[0]) and torch.equal(b.detach(), before[1])
    assert (a._version, b._version) == versions


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_from_run_to_run(dtype: torch.dtype, threads: int, set_threads: Callable[[int], None]) -> None:
    set_threads(threads)
    a, b = pair(450, 24, dtype)
    for loss in LOSSES:
        first = gradients(loss, a, b, backend="cpu")
        for _ in range(4):
            for x, y in zip(gradients(loss, a, b, backend="cpu"), first, strict=True):
                assert torch.equal(x, y), loss.__name__


def test_inference_mode(backend: str) -> None:
    with torch.inference_mode():
        a, b = torch.randn(5, 4), torch.randn(5, 4)
        inside = SF.nt_xent(a, b, backend=backend)
    assert inside.item() == SF.nt_xent(a.clone(), b.clone(), backend=backend).item()


def test_fake_tensors_reach_no_kernel(backend: str) -> None:
    """Fake tensors have shapes and dtypes but no memory: the fakes answer, forward and backward."""
    with FakeTensorMode():
        a, b = pair(6, 4)
        for loss in (
            nt_xent,
            info_nce,
            moco,
            clip_loss,
            agreement,
            barlow_twins,
            vicreg,
            cross_correlation,
            regularized,
            masked_tokens,
        ):
            value, first, second = gradients(loss, a, b, backend=backend)
            assert value.shape == () and value.dtype == torch.float32
            assert first.shape == second.shape == (6, 4)


class Witness(TorchDispatchMode):
    """Records the names of our ops that pass the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "sslkernels":
            self.seen.add(function.name().split("::")[1])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("backend", ("cpu", "reference"))
def test_a_dispatch_mode_sees_every_op(backend: str) -> None:
    """Ops bypass the dispatcher only if nothing watches it; the numbers are the same."""
    a, b = pair(6, 5)
    alone = gradients(nt_xent, a, b, backend=backend)
    with Witness() as witness:
        watched = gradients(nt_xent, a, b, backend=backend)
    assert witness.seen == {"similarity_contrast"}
    assert all(torch.equal(got, wanted) for got, wanted in zip(watched, alone, strict=True))


def test_a_negated_view_is_read_with_its_sign(backend: str) -> None:
    a, b = pair(6, 5)
    negated = torch._neg_view(b.detach())  # the imaginary part of a conjugate is such a view
    assert negated.is_neg() and torch.equal(negated, -b)
    for loss in (nt_xent, clip_loss, agreement, barlow_twins):
        assert torch.equal(loss(a, negated, backend=backend), loss(a, -b.detach(), backend=backend))


def test_one_openmp_runtime(run_python: Callable) -> None:
    done = run_python(
        "import torch, sslkernels.functional as SF\n"
        "SF.nt_xent(torch.randn(300, 8), torch.randn(300, 8))\n"
        "torch.randn(500, 500) @ torch.randn(500, 500)\n"
        "paths = {line.split()[-1] for line in open('/proc/self/maps') if '/' in line}\n"
        "print(sum('gomp' in path.rsplit('/', 1)[1] or 'iomp' in path or 'libomp' in path for path in paths))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1"]
