# SPDX-License-Identifier: Apache-2.0
"""Check the Triton backend's numbers with Triton's interpreter: this file runs itself again with TRITON_INTERPRET=1.

It tests only float32 and float16, since the interpreter multiplies bfloat16 wrongly.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from interpreted import INTERPRETED, run_interpreted

if not INTERPRETED:

    @pytest.mark.slow
    def test_interpreted(tmp_path: Path) -> None:
        run_interpreted(__file__, "not slow", tmp_path)

else:
    import test_prototypes as plain

    import sslkernels.functional as SF
    from sslkernels.ops.similarity import triton_plan

    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
    @pytest.mark.parametrize("shape", plain.SHAPES[:4], ids=str)
    def test_against_the_oracle(shape: tuple[int, ...], dtype: torch.dtype) -> None:
        plain.check_loss(plain.problem(shape, dtype), "triton")
        plain.check_bias(*shape[1:4], dtype, "triton")

    def test_what_the_other_backends_pass() -> None:
        plain.check_loss(plain.of_crops(4, torch.float32), "triton")
        plain.test_rows_without_weight_may_hold_anything("triton", torch.float32)
        plain.test_nobody_follows_anybody("triton")
        plain.test_rows_count_as_often_as_their_weight_says("triton")
        plain.test_nothing_overflows("triton")
        plain.test_without_a_target_nobody_is_compared("triton")
        tensors, options = plain.problem((1, 5, 20, 8, 8), torch.float32)
        options["bias"][:7] = -torch.inf
        plain.check_loss((tensors, options), "triton")

    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
    def test_softmaxes_in_several_chunks(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
        monkeypatch.setattr(triton_plan, "WORKSPACE", 1)  # a tile at a time
        plain.check_loss(plain.of_many(150, 140, 260, 2, dtype), "triton")

    def test_no_rows_of_a_teacher() -> None:
        student, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
        index = torch.full((3, 1), -1)
        value = SF.prototype_cross_entropy(student, weight, torch.randn(0, 4), teacher_index=index, backend="triton")
        assert value == 0
        for gradient in torch.autograd.grad(value, (student, weight)):
            assert not gradient.any()
