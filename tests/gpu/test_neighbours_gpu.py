# SPDX-License-Identifier: Apache-2.0
"""Test the Triton backend of the neighbours family on a CUDA device: ``pytest -m gpu``."""

from __future__ import annotations

import neighbours_oracle as oracle
import pytest
import torch
from captured import assert_captured
from torch import Tensor

import sslkernels.functional as SF

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# N, M, D, k
SHAPES = ((1, 3, 5, 2), (33, 70, 17, 1), (100, 257, 65, 9), (20, 300, 128, 100))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("metric", ("dot", "euclidean"))
@pytest.mark.parametrize("n, m, d, k", SHAPES)
def test_finds_what_the_oracle_finds(metric: str, n: int, m: int, d: int, k: int, dtype: torch.dtype) -> None:
    """Products of small whole numbers are exact, so that ties are too."""
    x, y = (torch.randint(-2, 3, (rows, d)).to(dtype) for rows in (n, m))
    exclude = torch.randint(-1, m, (n, 2))
    for keys, left_out in ((y, exclude), (None, None)):
        some = min(k, n) if keys is None else k
        values, indices = SF.topk_similarity(
            x.cuda(), None if keys is None else keys.cuda(), some, metric=metric,
            exclude=None if left_out is None else left_out.cuda(), backend="triton",
        )  # fmt: skip
        wanted, places = oracle.topk(x, keys, some, metric, exclude=left_out)
        assert torch.equal(indices.cpu(), places)
        torch.testing.assert_close(values.double().cpu(), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_rows_are_found_in_order(dtype: torch.dtype) -> None:
    rows = torch.randn(157, 72, device="cuda", dtype=dtype)
    for metric in ("dot", "cosine", "euclidean"):
        groups = SF.topk_similarity(rows, torch.cat([rows] * 4), 8, metric=metric, backend="triton")[1].view(157, 2, 4)
        assert torch.equal(groups, groups[:, :, :1] % 157 + 157 * torch.arange(4, device="cuda"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_batch_is_a_loop(dtype: torch.dtype) -> None:
    x, y = torch.randn(3, 100, 40, device="cuda", dtype=dtype), torch.randn(3, 90, 40, device="cuda", dtype=dtype)
    values, indices = SF.topk_similarity(x, y, 5, metric="euclidean", backend="triton")
    for b in range(3):
        one = SF.topk_similarity(x[b], y[b], 5, metric="euclidean", backend="triton")
        assert torch.equal(indices[b], one[1]) and torch.equal(values[b], one[0])


@pytest.mark.parametrize("metric", ("dot", "euclidean"))
def test_a_graph_replays(metric: str) -> None:
    x, y = torch.randn(257, 128, device="cuda"), torch.randn(1000, 128, device="cuda")

    def step() -> tuple[Tensor, ...]:
        return SF.topk_similarity(x, y, 40, metric=metric, backend="triton")

    assert_captured(step, lambda: x.copy_(y[:257].roll(1, 0)))
