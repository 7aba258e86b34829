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
    from test_sampled_values import check, found, problem

    from sslkernels.ops.sampled import schema
    from sslkernels.ops.sampled import triton as launcher

    @pytest.fixture(autouse=True)
    def poison(monkeypatch: pytest.MonkeyPatch) -> None:
        poison_new_tensors(monkeypatch, launcher)

    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
    @pytest.mark.parametrize("shape", ((1, 1, 1, 1), (5, 7, 9, 3), (9, 5, 33, 70), (2, 6, 300, 17), (3, 4, 5, 300)))
    def test_values_and_gradients(shape: tuple[int, ...], dtype: torch.dtype) -> None:
        check(*problem(*shape, dtype, torch.int32 if shape[0] % 2 else torch.int64), "triton")

    @pytest.mark.parametrize("shape", ((0, 4, 3, 2), (3, 0, 2, 4), (3, 4, 0, 2)), ids=str)
    def test_empty(shape: tuple[int, ...]) -> None:
        n, m, k, d = shape
        index = torch.full((n, k), -1) if m == 0 else torch.zeros((n, k), dtype=torch.int64)
        check(torch.randn(n, d), torch.randn(m, d), index, torch.randn(n, k), "triton")

    def test_strides_and_a_row_that_all_name() -> None:
        x, y, index, grad = problem(6, 5, 80, 12)
        index[:, ::2] = 3
        check(x.repeat(1, 2)[:, 6:18], y.repeat(2, 2)[::2, ::2], index, grad[:, :1].expand(6, 80), "triton")

    def test_parts_of_a_row_are_added_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
        x, y, index, grad = problem(2, 9, 1000, 20)
        for processors in (1, 40):
            monkeypatch.setattr(launcher, "processors", lambda device, count=processors: count)
            check(x, y, index, grad, "triton")

    def test_a_gradient_where_there_is_no_pair_is_ignored() -> None:
        x, y, index, grad = problem(7, 6, 9, 5)
        wanted = found(x, y, index, 0.5, grad, "triton")[1]
        spoilt = found(x, y, index, 0.5, grad.masked_fill(index < 0, torch.nan), "triton")[1]
        for one, other in zip(spoilt, wanted, strict=True):
            assert torch.equal(one, other)

    @pytest.mark.parametrize("wrong", (3, -2, 2**32 + 1, -(2**32)))
    def test_a_wrong_index_is_not_read(wrong: int) -> None:
        """It counts as a row of NaN, which gets no gradient; cut to 32 bits, it could pass for a right one."""
        x, y, index, grad = problem(4, 3, 5, 2)
        index[1, 2] = wrong
        sampled = schema.Sampled(x, y, index, torch.tensor(1.0))
        assert schema.forward(sampled, "triton").isnan().nonzero().tolist() == [[1, 2]]
        dx, dy, dscale = schema.backward(sampled, grad, True, True, True, "triton")
        assert dx.isnan().all(1).tolist() == [False, True, False, False] and dscale.isnan()
        index[1, 2] = -1
        torch.testing.assert_close(dy, found(x, y, index, 1.0, grad, "triton")[1][1])
