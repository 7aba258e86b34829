# SPDX-License-Identifier: Apache-2.0
"""Compare topk_similarity with the float64 oracle: which rows are found, in which order, and their values.

Rows of small whole numbers have exact products in every order of summation, so that indices can be compared, ties
included. Of other rows the values are compared, and the values that the indices stand for.
"""

from __future__ import annotations

from collections.abc import Callable

import neighbours_oracle as oracle
import pytest
import torch
from torch import Tensor

import sslkernels.functional as SF

pytestmark = pytest.mark.usefixtures("poisoned_outputs")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
METRICS = ("dot", "cosine", "euclidean")
EPS = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
# N, M, D, k
SHAPES = ((1, 1, 1, 1), (3, 2, 257, 2), (17, 33, 31, 5), (34, 17, 3, 17), (210, 230, 33, 1), (5, 400, 7, 40))
LARGE = ((400, 1000, 65, 3), (70, 3000, 17, 33), (2, 5000, 16, 1), (200, 33, 900, 2))


def whole(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randint(-2, 3, shape).to(dtype)


def check_values(x: Tensor, y: Tensor | None, k: int, metric: str, backend: str, **options: Tensor | None) -> None:
    """Hold values against the oracle's, and against the true values of the pairs that were found."""
    values, indices = SF.topk_similarity(x, y, k, metric=metric, backend=backend, **options)
    wanted, places = oracle.topk(x, y, k, metric, **options)
    assert torch.equal(indices == -1, places == -1)
    size = 1 + float(wanted.where(places >= 0, 0).abs().max())
    sums = EPS[torch.float64] if x.dtype == torch.float64 else EPS[torch.float32]
    close = 64 * (EPS[x.dtype] if metric == "cosine" else sums) * size
    table = oracle.scores(x, x if y is None else y, metric, options.get("bias"))
    theirs = table.gather(1, indices.clamp_min(0))
    theirs = (-theirs).sqrt() if metric == "euclidean" else theirs
    torch.testing.assert_close(
        values.double().where(indices >= 0, 0), theirs.where(indices >= 0, 0), rtol=0, atol=close
    )
    if metric == "euclidean":  # squares decide between rows, and the root of a small error is larger
        close = (4 * sums) ** 0.5 * size
    torch.testing.assert_close(values.double(), wanted, rtol=0, atol=close)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("metric", ("dot", "euclidean"))
def test_finds_what_the_oracle_finds(backend: str, metric: str, dtype: torch.dtype) -> None:
    for n, m, d, k in SHAPES:
        x, y = whole(n, d, dtype=dtype), whole(m, d, dtype=dtype)
        bias = None if metric == "euclidean" else whole(m)
        for keys, exclude in ((y, None), (y, torch.randint(-1, m, (n, 3))), (None, None)):
            some = min(k, n) if keys is None else k
            given = None if keys is None else bias
            values, indices = SF.topk_similarity(
                x, keys, some, metric=metric, bias=given, exclude=exclude, backend=backend
            )
            wanted, places = oracle.topk(x, keys, some, metric, given, exclude)
            assert torch.equal(indices, places)
            assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            torch.testing.assert_close(values.double(), wanted, rtol=1e-6, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "m", "d", "k"), LARGE)
def test_finds_what_the_oracle_finds_in_several_blocks(
    backend: str, n: int, m: int, d: int, k: int, dtype: torch.dtype, set_threads: Callable[[int], None]
) -> None:
    x, y = whole(n, d, dtype=dtype), whole(m, d, dtype=dtype)
    exclude = torch.randint(-1, m, (n, 2))
    for metric in ("dot", "euclidean"):
        places = oracle.topk(x, y, k, metric, exclude=exclude)[1]
        for threads in (1, 2, 3):
            set_threads(threads)
            found = SF.topk_similarity(x, y, k, metric=metric, exclude=exclude, backend=backend)[1]
            assert torch.equal(found, places)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_values(backend: str, metric: str, dtype: torch.dtype) -> None:
    for n, m, d, k in SHAPES:
        x, y = torch.randn(n, d).to(dtype), torch.randn(m, 2 * d).to(dtype)[:, ::2]
        bias = None if metric == "euclidean" else torch.randn(m)
        check_values(x, y, k, metric, backend, bias=bias)
        check_values(x, None, min(k, n), metric, backend, exclude=torch.randint(-1, n, (n, 1)))


# --- ties and what is left out --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_equal_rows_are_found_in_order(backend: str, metric: str, dtype: torch.dtype) -> None:
    """Every row stands four times, at places that tiles, lanes and blocks treat differently."""
    if backend == "reference" and dtype == torch.float64:
        pytest.skip("PyTorch's float64 products depend on where a row stands.")
    rows = torch.randn(57, 37).to(dtype)
    keys, where = torch.cat([rows] * 4), torch.arange(57 * 4).view(4, 57).T
    _, indices = SF.topk_similarity(rows[:20], keys, 8, metric=metric, backend=backend)
    groups = indices.view(20, 2, 4)
    assert torch.equal(groups, where[groups[:, :, 0] % 57])
    first = SF.topk_similarity(rows[:20], keys, 1, metric=metric, backend=backend)[1]
    assert torch.equal(first, indices[:, :1])


@pytest.mark.parametrize("metric", METRICS)
def test_fewer_than_k_are_left(backend: str, metric: str) -> None:
    x, y = torch.randn(3, 5), torch.randn(4, 5)
    exclude = torch.tensor([[0, 1, 2, 3], [2, 2, -1, 2], [-1, 3, 1, 0]])
    values, indices = SF.topk_similarity(x, y, 4, metric=metric, exclude=exclude, backend=backend)
    nothing = torch.inf if metric == "euclidean" else -torch.inf
    assert (indices[0] == -1).all() and (values[0] == nothing).all()
    assert sorted(indices[1].tolist()) == [-1, 0, 1, 3] and indices[1, 3] == -1 and values[1, 3] == nothing
    assert indices[2].tolist() == [2, -1, -1, -1] and values[2, 0].isfinite()
    values, indices = SF.topk_similarity(x[:1], metric=metric, backend=backend)
    assert indices.tolist() == [[-1]] and values.item() == nothing


def test_one_column_per_row_may_be_left_out(backend: str) -> None:
    x = torch.randn(9, 5)
    values, indices = SF.topk_similarity(x, x, exclude=torch.arange(9), backend=backend)
    alone = SF.topk_similarity(x, backend=backend)
    assert torch.equal(indices, alone[1]) and torch.equal(values, alone[0])


@pytest.mark.parametrize("metric", METRICS)
def test_nan_and_infinities(backend: str, metric: str) -> None:
    """Neither NaN nor an infinitely bad pair is found; a product of infinity is the best there is."""
    x, y = torch.rand(5, 3) + 1, torch.rand(70, 3) + 1
    x[1, 2], y[4, 0], y[69, 1] = torch.nan, torch.nan, torch.inf
    values, indices = SF.topk_similarity(x, y, 70, metric=metric, backend=backend)
    nothing = torch.inf if metric == "euclidean" else -torch.inf
    assert (indices[1] == -1).all() and (values[1] == nothing).all()
    assert not (indices == 4).any() and not values.isnan().any()
    assert (values == nothing).eq(indices == -1).all()
    if metric == "dot":
        assert (indices[[0, 2, 3, 4], 0] == 69).all() and (values[[0, 2, 3, 4], 0] == torch.inf).all()
        bias = torch.zeros(70).index_fill(0, torch.arange(8, 70), -torch.inf)
        assert SF.topk_similarity(x, y, 9, bias=bias, backend=backend)[1].max() == 7
    else:
        assert not (indices == 69).any()


def test_rows_of_zeros_have_cosine_zero(backend: str) -> None:
    x, y = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1e-20, 0.0], [2.0, 0.0]])
    values, indices = SF.topk_similarity(x, y, 4, metric="cosine", backend=backend)
    assert indices.tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]
    torch.testing.assert_close(values, torch.tensor([[0.0] * 4, [1.0, 1e-8, 0.0, -1.0]]))


# --- distances ------------------------------------------------------------------------------------------------------


def test_near_neighbours_far_from_the_origin(backend: str) -> None:
    """Rows stand 1000 from the origin, and a tenth from each other: their squares agree in six digits of seven."""
    x, y = (1000 + 0.1 * torch.rand(rows, 64) for rows in (50, 300))
    values, indices = SF.topk_similarity(x, y, 5, metric="euclidean", backend=backend)
    wanted, places = oracle.topk(x, y, 5, "euclidean")
    torch.testing.assert_close(values.double(), wanted, rtol=1e-5, atol=0)
    assert (indices == places).float().mean() > 0.99


def test_a_row_far_from_all_others_does_not_spoil_them(backend: str) -> None:
    x, y = torch.rand(20, 8), torch.rand(600, 8)
    y[0] = 1e6
    values, _ = SF.topk_similarity(x, y, metric="euclidean", backend=backend)
    torch.testing.assert_close(values.double(), oracle.topk(x, y, 1, "euclidean")[0], rtol=1e-4, atol=0)


def test_an_equal_row_is_at_distance_zero(backend: str) -> None:
    x = torch.randn(40, 19) * 100
    values, indices = SF.topk_similarity(x, x.flip(0), 1, metric="euclidean", backend=backend)
    assert (values == 0).all() and torch.equal(indices[:, 0], torch.arange(40).flip(0))


def test_distances_beyond_the_range_are_not_found(backend: str) -> None:
    x, y = torch.tensor([[3e38, 0.0], [1.0, 0.0]]), torch.tensor([[-3e38, 0.0], [4.0, 4.0]])
    values, indices = SF.topk_similarity(x, y, 2, metric="euclidean", backend=backend)
    assert indices.tolist() == [[-1, -1], [1, -1]] and values[1].tolist() == [5.0, torch.inf]


# --- batches, layouts, threads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_a_batch_is_a_loop(backend: str, metric: str) -> None:
    x, y = torch.randn(2, 3, 20, 9), torch.randn(2, 3, 31, 9)
    bias = None if metric == "euclidean" else torch.randn(2, 3, 31)
    exclude = torch.randint(-1, 20, (2, 3, 20))
    for keys, given in ((y, bias), (None, None)):
        values, indices = SF.topk_similarity(x, keys, 4, metric=metric, bias=given, exclude=exclude, backend=backend)
        for a in range(2):
            for b in range(3):
                one = SF.topk_similarity(
                    x[a, b], None if keys is None else keys[a, b], 4, metric=metric,
                    bias=None if given is None else given[a, b], exclude=exclude[a, b], backend=backend,
                )  # fmt: skip
                torch.testing.assert_close(values[a, b], one[0])
                assert torch.equal(indices[a, b], one[1])


def test_any_layout_of_rows(backend: str) -> None:
    rows = torch.randn(6, 30, 14)
    wanted = SF.topk_similarity(rows[::2, ::3, ::2].contiguous(), k=3, metric="euclidean", backend=backend)
    found = SF.topk_similarity(rows[::2, ::3, ::2], k=3, metric="euclidean", backend=backend)
    turned = SF.topk_similarity(rows[::2, ::3, ::2].mT.contiguous().mT, k=3, metric="euclidean", backend=backend)
    one = SF.topk_similarity(rows[:1, ::3, ::2].expand(3, -1, -1), k=3, metric="euclidean", backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(turned, wanted, strict=True))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[2], b[0]) for a, b in zip(one, wanted, strict=True))


@pytest.mark.parametrize("metric", METRICS)
def test_threads_change_nothing(metric: str, set_threads: Callable[[int], None]) -> None:
    for n, m, k in ((300, 400, 1), (40, 2000, 5), (3, 6000, 1)):
        x, y = torch.randn(n, 48), torch.randn(m, 48)
        found = []
        for threads in (1, 2, 3):
            set_threads(threads)
            found.append(SF.topk_similarity(x, y, k, metric=metric, backend="cpu"))
        assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_no_rows(backend: str) -> None:
    values, indices = SF.topk_similarity(torch.empty(0, 5), torch.randn(4, 5), 2, backend=backend)
    assert values.shape == indices.shape == (0, 2) and indices.dtype == torch.int64
    assert SF.topk_similarity(torch.empty(0, 3, 5), torch.randn(0, 4, 5), 2, backend=backend)[0].shape == (0, 3, 2)


# --- the rest of the contract ---------------------------------------------------------------------------------------


def test_no_gradient(backend: str) -> None:
    x, y, bias = (torch.randn(*shape, requires_grad=True) for shape in ((4, 3), (5, 3), (5,)))
    before = x.detach().clone()
    values, indices = SF.topk_similarity(x, y, bias=bias, backend=backend)
    assert not values.requires_grad and not indices.requires_grad and torch.equal(x, before)


@pytest.mark.parametrize("metric", METRICS)
def test_autocast(backend: str, metric: str) -> None:
    x, y = torch.randn(9, 16), torch.randn(12, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = SF.topk_similarity(x, y.half(), 3, metric=metric, backend=backend)
    wanted = SF.topk_similarity(x.bfloat16(), y.half().float().bfloat16(), 3, metric=metric, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_compiles_with_dynamic_sizes() -> None:
    search = torch.compile(
        lambda x, y: SF.topk_similarity(x, y, 2, metric="euclidean"), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for n, m in ((5, 9), (7, 11)):
        x, y = torch.randn(n, 6), torch.randn(m, 6)
        wanted = SF.topk_similarity(x, y, 2, metric="euclidean")
        assert all(torch.equal(a, b) for a, b in zip(search(x, y), wanted, strict=True))


@pytest.mark.parametrize(
    ("error", "text", "options"),
    (
        (ValueError, "k is 5 and there are 4 columns", {"k": 5}),
        (ValueError, "k is 0", {"k": 0}),
        (ValueError, "metric is 'l2'", {"metric": "l2"}),
        (ValueError, "bias is given and metric is 'euclidean'", {"metric": "euclidean", "bias": torch.zeros(4)}),
        (ValueError, "bias has shape (3,)", {"bias": torch.zeros(3)}),
        (ValueError, "y (2, 4, 5)", {"y": torch.zeros(2, 4, 5)}),
        (ValueError, "y (4, 6)", {"y": torch.zeros(4, 6)}),
        (TypeError, "y torch.float64", {"y": torch.zeros(4, 5).double()}),
        (IndexError, "exclude holds 4; columns run from 0 to 3", {"exclude": torch.tensor([0, 4, 1])}),
        (ValueError, "exclude has shape (2,)", {"exclude": torch.tensor([0, 1])}),
        (TypeError, "exclude has dtype torch.int32", {"exclude": torch.zeros(3, dtype=torch.int32)}),
    ),
)  # fmt: skip
def test_errors(error: type[Exception], text: str, options: dict) -> None:
    with pytest.raises(error) as raised:
        SF.topk_similarity(torch.zeros(3, 5), **{"y": torch.zeros(4, 5), **options})
    assert str(raised.value).startswith("topk_similarity: ") and text in str(raised.value)
