# SPDX-License-Identifier: Apache-2.0
"""Check the Triton backend's numbers with Triton's interpreter: this file runs itself again with TRITON_INTERPRET=1.

It tests only float32 and float16, since the interpreter multiplies bfloat16 wrongly.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from interpreted import INTERPRETED, poison_new_tensors, run_interpreted

if not INTERPRETED:

    @pytest.mark.slow
    def test_interpreted(tmp_path: Path) -> None:
        run_interpreted(__file__, "not slow", tmp_path)

else:
    import test_attention as plain

    from sslkernels.ops.attention import triton
    from sslkernels.ops.attention.triton import Tile

    @pytest.fixture(autouse=True, params=("many slices", "one slice"))
    def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take tiles so small that small problems cross many, in slices and parts; and poison new tensors."""
        width = 16 if request.param == "many slices" else 64
        for table in (triton.FORWARD, triton.BACKWARD):
            for size in table:
                monkeypatch.setitem(table, size, Tile(16, 32, width, width, 4, 1, 2))
        poison_new_tensors(monkeypatch)

    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
    @pytest.mark.parametrize(
        "shape", ((1, 1, 1, 1), (3, 2, 17, 1), (17, 31, 33, 16), (33, 70, 3, 49), (31, 17, 70, 3)), ids=str
    )
    def test_odd_shapes(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        plain.check(plain.problem(*shape, dtype, bias=False), "triton")
        plain.check(plain.problem(*shape, dtype, excluded=2), "triton")

    @pytest.mark.parametrize(
        "needs",
        (("query",), ("scale",), ("keys",), ("values",), ("bias",), ("query", "values"), ("values", "bias")),
        ids="+".join,
    )
    def test_any_inputs_may_be_frozen(needs: tuple[str, ...]) -> None:
        plain.check(plain.problem(20, 45, 5, 18, excluded=1), "triton", needs)

    def test_what_dense_tensors_pass() -> None:
        plain.test_a_row_with_nothing_left_is_zero_with_zero_gradients("triton")
        plain.test_weights_of_keys_and_ones("triton")
        plain.test_soft_targets("triton")
        for n, m in ((0, 3), (3, 0)):
            plain.test_no_rows_or_no_keys("triton", n, m)

    def test_numbers_at_the_edges() -> None:
        import test_attention_numerics as edges

        edges.test_infinities_and_nan_come_out_as_in_the_formula("triton")
        edges.test_any_row_stride_and_no_input_is_written("triton")
        edges.test_any_real_scale("triton", -1e3)
        edges.test_any_real_scale("triton", 0.0)
        for size in (1.0, 1e-7):
            edges.test_no_worse_than_eager_in_its_dtype("triton", torch.float16, 0.1, size)

    def test_same_inputs_give_the_same_bits() -> None:
        given = plain.problem(40, 70, 20, 17)
        first, again = plain.run(given, "triton"), plain.run(given, "triton")
        assert torch.equal(first[0], again[0])
        assert all(torch.equal(first[1][name], again[1][name]) for name in plain.NAMES)
