# SPDX-License-Identifier: Apache-2.0
"""The pieces that Triton kernels share: values in the interpreter, and the instructions that the compiler makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from interpreted import INTERPRETED, run_interpreted

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

from sslkernels.ops import triton_pieces as pieces  # noqa: E402


@triton.jit
def exp_kernel(x, out, BLOCK: tl.constexpr):
    places = tl.arange(0, BLOCK)
    tl.store(out + places, pieces.exp(tl.load(x + places)))


if INTERPRETED:

    def test_exp_at_the_ends_and_between() -> None:
        inf, nan = float("inf"), float("nan")
        x = torch.tensor([-inf, inf, nan, 0.0, -200.0, 100.0, 1.0, -80.0])
        out = torch.full_like(x, -1)
        exp_kernel[(1,)](x, out, BLOCK=8)
        expected = torch.tensor([0.0, inf, nan, 1.0, 0.0, inf, 2.718281828459045, 1.8048513878454153e-35])
        torch.testing.assert_close(out, expected, rtol=1e-6, atol=0, equal_nan=True)

else:

    @pytest.mark.parametrize("architecture", (80, 90, 100))
    def test_exp_is_two_instructions(architecture: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both keep -inf, inf and NaN: 2^-inf is 0, 2^inf is inf and 2^NaN is NaN in NVIDIA's description of ex2."""
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
        source = triton.compiler.ASTSource(
            fn=exp_kernel,
            signature={"x": "*fp32", "out": "*fp32", "BLOCK": "constexpr"},
            constexprs={(2,): 128},
        )
        target = triton.backends.compiler.GPUTarget("cuda", architecture, 32)
        ptx = triton.compile(source, target=target, options={"num_warps": 4}).asm["ptx"]
        after = ptx[ptx.index("ld.global") : ptx.index("st.global")]
        floats = re.findall(r"^\s*(?:@\S+\s+)?(\w+(?:\.\w+)*\.f32)\s+(.*);", after, re.MULTILINE)
        assert [name for name, _ in floats] == ["mul.f32", "ex2.approx.ftz.f32"], after
        assert "0f3FB8AA3B" in floats[0][1], "the factor is not the logarithm of e to base 2"

    @pytest.mark.slow
    def test_interpreted(tmp_path: Path) -> None:
        run_interpreted(__file__, "not slow and not gpu", tmp_path)
