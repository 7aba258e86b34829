# SPDX-License-Identifier: Apache-2.0
"""Check the Triton backend's numbers with Triton's interpreter: this file runs itself again with TRITON_INTERPRET=1.

It tests only float32 and float16, since the interpreter computes bfloat16 wrongly. test_triton_compile.py compiles the
same kernels.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from interpreted import INTERPRETED, poison_new_tensors, run_interpreted

if not INTERPRETED:

    @pytest.mark.slow
    def test_interpreted(tmp_path: Path) -> None:
        run_interpreted(__file__, "not slow and not gpu", tmp_path)

else:
    import neighbours_oracle as oracle
    import test_neighbours as shared

    import sslkernels.functional as SF
    from sslkernels.ops.neighbours import triton

    @pytest.fixture(autouse=True)
    def poison(monkeypatch: pytest.MonkeyPatch) -> None:
        poison_new_tensors(monkeypatch, triton)

    @pytest.fixture(params=(0, 8), ids=("one program per rows", "columns split"))
    def multiprocessors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(triton, "processors", lambda device: request.param)

    @pytest.mark.usefixtures("multiprocessors")
    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
    @pytest.mark.parametrize("metric", ("dot", "euclidean"))
    @pytest.mark.parametrize(("n", "m", "d", "k"), ((1, 1, 1, 1), (17, 33, 31, 5), (70, 150, 33, 9), (5, 80, 7, 70)))
    def test_finds_what_the_oracle_finds(metric: str, n: int, m: int, d: int, k: int, dtype: torch.dtype) -> None:
        x, y = shared.whole(n, d, dtype=dtype), shared.whole(m, d, dtype=dtype)
        bias = None if metric == "euclidean" else shared.whole(m)
        for keys, given, exclude in ((y, bias, None), (y, None, torch.randint(-1, m, (n, 3))), (None, None, None)):
            some = min(k, n) if keys is None else k
            values, indices = SF.topk_similarity(
                x, keys, some, metric=metric, bias=given, exclude=exclude, backend="triton"
            )
            wanted, places = oracle.topk(x, keys, some, metric, given, exclude)
            assert torch.equal(indices, places)
            torch.testing.assert_close(values.double(), wanted, rtol=1e-6, atol=0)

    @pytest.mark.parametrize("metric", shared.METRICS)
    def test_the_rest(metric: str) -> None:
        shared.check_values(torch.randn(9, 17), torch.randn(40, 34)[:, ::2], 3, metric, "triton")
        shared.test_equal_rows_are_found_in_order("triton", metric, torch.float32)
        shared.test_fewer_than_k_are_left("triton", metric)
        shared.test_nan_and_infinities("triton", metric)
        shared.test_a_batch_is_a_loop("triton", metric)

    def test_distances() -> None:
        shared.test_near_neighbours_far_from_the_origin("triton")
        shared.test_an_equal_row_is_at_distance_zero("triton")
        shared.test_distances_beyond_the_range_are_not_found("triton")
        shared.test_no_rows("triton")
        shared.test_any_layout_of_rows("triton")
        shared.test_rows_of_zeros_have_cosine_zero("triton")
