# SPDX-License-Identifier: Apache-2.0
"""Every public function against its formula in float64, at random shapes, strides, dtypes, scales and options.

A failure prints the call that repeats it; run it with ``from compare import run`` beside this file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cases import GENERATORS
from compare import run
from interpreted import INTERPRETED, run_interpreted

import sslkernels.functional as SF
from sslkernels import _C

TESTS = Path(__file__).parent
NAMES = sorted(GENERATORS)
EVERY_DTYPE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
AUTOCAST = (torch.bfloat16, torch.float16)
# Families that take infinite entries and NaN, and then give what the formula gives.
NON_FINITE = (
    "apply_masks", "attend_similarity", "byol_loss", "clip_loss", "ema_update_", "gather_similarity", "gather_tokens",
    "info_nce", "logsumexp_similarity", "masked_mse", "masked_smooth_l1", "negative_cosine_similarity", "nt_xent",
    "patchify_gather", "queue_update_", "restore_tokens", "scatter_tokens", "siglip_loss", "softplus_similarity",
)  # fmt: skip
# Those that take one of several ways through the pairs on Triton, and those that have CPU kernels for each instruction
# set.
PLANNED = ("byol_loss", "clip_loss", "info_nce", "logsumexp_similarity", "negative_cosine_similarity", "nt_xent")
SIMILARITY = (*PLANNED, "attend_similarity", "siglip_loss", "softplus_similarity")
# Dtypes that Triton's interpreter multiplies rightly.
INTERPRETABLE = (torch.float32, torch.float32, torch.float16)

if INTERPRETED:
    from similarity_plans import PATHS, force

    @pytest.mark.share(4)
    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("name", PLANNED)
    def test_similarity_on_triton(name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        force(monkeypatch, path, 3_000)
        dtypes = INTERPRETABLE if path == "products" else (torch.float16,)  # cuBLAS forms those of float32
        for number in range(12):
            run(name, number, "triton", dtypes=dtypes)
            run(name, number, "triton", poisoned=True, dtypes=dtypes)

    @pytest.mark.share(4)
    @pytest.mark.parametrize("name", sorted(set(NON_FINITE) - set(PLANNED)))
    def test_others_on_triton(name: str) -> None:
        for number in range(8):
            run(name, number, "triton", dtypes=INTERPRETABLE)
            run(name, number, "triton", poisoned=True, dtypes=INTERPRETABLE)

else:

    def test_every_public_function_is_drawn() -> None:
        assert set(GENERATORS) == set(SF.__all__)
        assert set(NON_FINITE) <= set(GENERATORS)

    @pytest.mark.parametrize("name", NAMES)
    def test_finite_numbers(backend: str, name: str) -> None:
        for number in range(5):
            run(name, number, backend)

    @pytest.mark.parametrize("name", NON_FINITE)
    def test_infinite_entries_and_nan(backend: str, name: str) -> None:
        for number in range(8):
            run(name, number, backend, poisoned=True)

    @pytest.mark.parametrize("autocast", AUTOCAST, ids=str)
    @pytest.mark.parametrize("name", NAMES)
    def test_every_pair_of_dtypes_inside_autocast(name: str, autocast: torch.dtype) -> None:
        """The first tensor of a call has one dtype and those after it another; autocast has a third."""
        for number, (first, others) in enumerate(itertools.product(EVERY_DTYPE, repeat=2)):
            run(name, number, "cpu", autocast=autocast, dtypes=(first,), others=others)

    @pytest.mark.parametrize("name", NAMES)
    def test_every_dtype(name: str) -> None:
        for number, dtype in enumerate(EVERY_DTYPE):
            run(name, number, "cpu", dtypes=(dtype,))

    @pytest.mark.slow
    @pytest.mark.parametrize("name", NAMES)
    def test_many(backend: str, name: str) -> None:
        for number in range(100):
            run(name, number, backend)
            for dtype in AUTOCAST if number < 30 else ():
                run(name, number, backend, autocast=dtype)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", NON_FINITE)
    def test_many_with_infinite_entries_and_nan(backend: str, name: str) -> None:
        for number in range(150):
            run(name, number, backend, poisoned=True)
            run(name, number, backend, poisoned=True, autocast=AUTOCAST[number % 2])

    IN_EACH_INSTRUCTION_SET = """
import sys
sys.path.insert(0, {folder!r})
from compare import run
from sslkernels import _C
assert _C.isa() == {isa!r}, _C.isa()
for name in {names!r}:
    for number in range(60):
        run(name, number, "cpu")
        run(name, number, "cpu", poisoned=True)
print("agrees")
"""

    @pytest.mark.slow
    @pytest.mark.parametrize("isa", _C.available_isas())
    def test_each_instruction_set(isa: str, run_python: Callable) -> None:
        code = IN_EACH_INSTRUCTION_SET.format(folder=str(TESTS), isa=isa, names=SIMILARITY)
        done = run_python(code, SSLKERNELS_ISA=isa)
        assert done.returncode == 0 and done.stdout.split() == ["agrees"], done.stderr[-3000:]

    @pytest.mark.slow
    def test_interpreted(tmp_path: Path) -> None:
        run_interpreted(__file__, "not slow and not gpu", tmp_path)
