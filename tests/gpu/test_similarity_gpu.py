# SPDX-License-Identifier: Apache-2.0
"""Test the Triton backend of the similarity family on a CUDA device: ``pytest -m gpu``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from captured import assert_captured
from dense_oracle import Oracle
from torch import Tensor

import sslkernels.functional as SF

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def rows_of(n: int, d: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(n, d, device="cuda").div(d**0.25).to(dtype)


def check(
    x: Tensor, y: Tensor | None, scale: float, exclude: Tensor | None, dim: str, epsilon: float = 2.0**-23
) -> None:
    """Compare values and every gradient of the public function with the oracle's."""
    oracle = Oracle(x, y, scale, exclude, epsilon)
    leaf, keys = x.clone().requires_grad_(), None if y is None else y.clone().requires_grad_()
    factor = torch.tensor(scale, device="cuda", requires_grad=True)
    got = SF.logsumexp_similarity(leaf, keys, factor, exclude=exclude, dim=dim, backend="triton")
    sums = got if dim == "both" else (got,)
    for value, want in zip(sums, (oracle.rows, oracle.columns), strict=False):
        oracle.check_sums(value, want)
    grads = [torch.randn_like(value) for value in sums]
    torch.autograd.backward(sums, grads)
    oracle.check_gradients(
        leaf.grad, None if keys is None else keys.grad, factor.grad, grads[0], grads[1] if dim == "both" else None
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", (1, 17, 64, 128, 200, 256, 257, 768))
@pytest.mark.parametrize(("n", "m"), ((1, 1), (33, 257), (1000, 1031)), ids=str)
def test_rectangle(n: int, m: int, d: int, dtype: torch.dtype) -> None:
    x, y = rows_of(n, d, dtype), rows_of(m, d, dtype)
    check(x, y, 0.7, None, "rows")
    check(x, y, -0.7, torch.randint(-1, m, (n, 2), device="cuda"), "both")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", (64, 128, 256, 384))
@pytest.mark.parametrize("n", (1, 33, 1031))
@pytest.mark.parametrize("excluded", (0, 2, 9))
def test_with_itself(n: int, d: int, excluded: int, dtype: torch.dtype) -> None:
    exclude = torch.randint(-1, n, (n, excluded), device="cuda") if excluded else None
    for dim in ("rows", "both"):
        check(rows_of(n, d, dtype), None, 0.7, exclude, dim)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", (64, 128, 256, 384))
@pytest.mark.parametrize(("n", "m"), ((3, 70), (256, 4096), (1031, 257)), ids=str)
def test_frozen_keys(n: int, m: int, d: int, dtype: torch.dtype) -> None:
    x, y = rows_of(n, d, dtype), rows_of(m, d, dtype)
    oracle = Oracle(x, y, 1.5, None)
    leaf, scale = x.clone().requires_grad_(), torch.tensor(1.5, device="cuda", requires_grad=True)
    rows = SF.logsumexp_similarity(leaf, y, scale, backend="triton")
    y.fill_(torch.nan)
    oracle.check_sums(rows, oracle.rows)
    grad = torch.randn_like(rows)
    rows.backward(grad)
    oracle.check_gradients(leaf.grad, None, scale.grad, grad, None)


@pytest.mark.parametrize("scale", (1e-3, 0.0, 20.0, 1e3, -1e3))
@pytest.mark.parametrize("dtype", DTYPES)
def test_scale(scale: float, dtype: torch.dtype) -> None:
    check(rows_of(300, 64, dtype), rows_of(333, 64, dtype), scale, None, "both")


@pytest.mark.parametrize("precision", ("high", "medium"))
def test_tf32_where_torch_allows_it(precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    check(rows_of(300, 64, torch.float32), rows_of(333, 64, torch.float32), 0.7, None, "both", epsilon=2.0**-10)


def test_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from sslkernels.ops.similarity import triton_plan

    monkeypatch.setattr(triton_plan, "WORKSPACE", 2**18)
    for dtype in DTYPES:
        exclude = torch.randint(-1, 700, (700, 1), device="cuda")
        check(rows_of(700, 300, dtype), rows_of(900, 300, dtype), 0.7, exclude, "both")
        check(rows_of(700, 300, dtype), None, 0.7, exclude, "rows")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", (128, 512))
def test_same_inputs_same_bits(d: int, dtype: torch.dtype) -> None:
    x, y = rows_of(1000, d, dtype), rows_of(1031, d, dtype)

    def once() -> list[Tensor]:
        leaf, keys = x.clone().requires_grad_(), y.clone().requires_grad_()
        scale = torch.tensor(3.0, device="cuda", requires_grad=True)
        rows, columns = SF.logsumexp_similarity(leaf, keys, scale, dim="both", backend="triton")
        (rows.sum() + columns.sum()).backward()
        return [rows, columns, leaf.grad, keys.grad, scale.grad]

    first = once()
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, once(), strict=True))


def losses(dtype: torch.dtype, d: int) -> dict[str, Callable[[Tensor, Tensor, Tensor, str], Tensor]]:
    queue = F.normalize(rows_of(2048, d, torch.float32), dim=1).to(dtype)
    return {
        "nt_xent": lambda a, b, s, backend: SF.nt_xent(a, b, temperature=s, backend=backend),
        "clip_loss": lambda a, b, s, backend: SF.clip_loss(a, b, 1 / s, backend=backend),
        "info_nce": lambda a, b, s, backend: SF.info_nce(a, b, temperature=s, symmetric=True, backend=backend),
        "moco": lambda a, b, s, backend: SF.info_nce(a, b, negatives=queue.to(a.dtype), temperature=s, backend=backend),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", (128, 512))
@pytest.mark.parametrize("loss", ("nt_xent", "clip_loss", "info_nce", "moco"))
def test_losses(loss: str, d: int, dtype: torch.dtype) -> None:
    value = losses(dtype, d)[loss]
    a, b = (F.normalize(rows_of(500, d, torch.float32), dim=1).to(dtype) for _ in range(2))
    leaves = [part.clone().requires_grad_() for part in (a, b, torch.tensor(0.1, device="cuda"))]
    exact = [part.double().requires_grad_() for part in (a, b, torch.tensor(0.1, device="cuda"))]
    got, want = value(*leaves, "triton"), value(*exact, "reference")
    got.backward()
    want.backward()
    loose = {torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
    torch.testing.assert_close(got.double(), want, rtol=loose, atol=loose)
    for narrow, wide in zip(leaves, exact, strict=True):
        torch.testing.assert_close(
            narrow.grad.double(), wide.grad, rtol=loose, atol=loose * float(wide.grad.abs().max()), check_dtype=False
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", (128, 512))
@pytest.mark.parametrize("loss", ("nt_xent", "clip_loss", "moco"))
def test_nothing_waits_for_the_device(loss: str, d: int, dtype: torch.dtype) -> None:
    """A CUDA graph of forward and backward, replayed on new inputs, gives the bits of an eager run."""
    value = losses(dtype, d)[loss]
    a, b = (F.normalize(rows_of(512, d, torch.float32), dim=1).to(dtype).requires_grad_() for _ in range(2))
    scale = torch.tensor(0.1, device="cuda", requires_grad=True)

    def step() -> tuple[Tensor, ...]:
        loss_value = value(a, b, scale, "triton")
        return loss_value, *torch.autograd.grad(loss_value, (a, b, scale))

    def change() -> None:
        a.copy_(b.roll(1, 0))
        scale.fill_(0.2)

    assert_captured(step, change)


@pytest.mark.parametrize("d", (128, 512))
def test_memory_stays_below_the_matrix(d: int) -> None:
    n = 16384
    x, y = (rows_of(n, d, torch.bfloat16).requires_grad_() for _ in range(2))
    SF.clip_loss(x[:256], y[:256], 1.0, backend="triton").backward()
    x.grad = y.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    SF.clip_loss(x, y, 1.0, backend="triton").backward()
    extra = torch.cuda.max_memory_allocated() - before
    assert extra < 4 * n * n // 2, f"{extra / 2**20:.0f} MiB, and the float32 matrix takes {4 * n * n / 2**20:.0f}"


def test_offsets_beyond_32_bits() -> None:
    if torch.cuda.get_device_properties(0).total_memory < 16 * 2**30:
        pytest.skip("needs 16 GiB of GPU memory.")
    stride = 2**26
    far = torch.empty(40 * stride, dtype=torch.float16, device="cuda").as_strided((40, 64), (stride, 1))
    far.copy_(rows_of(40, 64, torch.float16))
    near = far.clone().contiguous()
    for d in (64, 3):
        for a, b in ((far, far), (far, near), (near, far)):
            got = SF.logsumexp_similarity(a[:, :d], b[:, :d], dim="both", backend="triton")
            want = SF.logsumexp_similarity(near[:, :d], near[:, :d], dim="both", backend="triton")
            assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


def test_autocast_and_compile() -> None:
    a, b = rows_of(300, 128, torch.float32).requires_grad_(), rows_of(300, 128, torch.float32).requires_grad_()
    compiled = torch.compile(lambda x, y: SF.nt_xent(x, y, temperature=0.1), fullgraph=True)
    for n in (300, 200, 100):
        with torch.autocast("cuda", torch.bfloat16):
            eager, fast = SF.nt_xent(a[:n], b[:n], temperature=0.1), compiled(a[:n], b[:n])
        assert eager.dtype == torch.float32
        torch.testing.assert_close(fast, eager)
    fast.backward()
    assert a.grad.dtype == torch.float32 and a.grad.isfinite().all()
