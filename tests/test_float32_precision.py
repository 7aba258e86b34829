# SPDX-License-Identifier: Apache-2.0
"""torch has an old switch for the precision of float32 products and a new one; kernels follow whichever was set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from interpreted import INTERPRETED, run_interpreted

from sslkernels.ops.launch import dot_precision


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    switches = (torch.backends, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [switch.fp32_precision for switch in switches]
    yield
    for switch, precision in zip(switches, before, strict=True):
        switch.fp32_precision = precision


def new(precision: str) -> None:
    torch.backends.cuda.matmul.fp32_precision = precision


def new_of_everything(precision: str) -> None:
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch.backends.fp32_precision = precision


def older(allow: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allow


WAYS = [
    (torch.set_float32_matmul_precision, "highest", "ieee"),
    (torch.set_float32_matmul_precision, "high", "tf32"),
    (torch.set_float32_matmul_precision, "medium", "tf32"),
    (new, "ieee", "ieee"),
    (new, "tf32", "tf32"),
    (new_of_everything, "ieee", "ieee"),
    (new_of_everything, "tf32", "tf32"),
    (older, False, "ieee"),
    (older, True, "tf32"),
]


@pytest.mark.parametrize(("switch", "value", "expected"), WAYS)
def test_every_switch_is_followed(switch: Callable, value: object, expected: str) -> None:
    switch(value)
    assert dot_precision() == expected


if INTERPRETED:

    @pytest.mark.parametrize("precision", ("tf32", "ieee"))
    def test_triton_runs_beside_the_new_switch(precision: str) -> None:
        import sslkernels.functional as SF

        z = torch.randn(9, 5)
        calls: list[Callable] = [
            lambda backend: SF.nt_xent(z, z.flip(1), backend=backend),
            lambda backend: SF.logsumexp_similarity(z.half(), z.half().flip(0), backend=backend),
            lambda backend: SF.clip_loss(z, z.flip(1), 2.0, backend=backend),
            lambda backend: SF.barlow_twins(z, z.flip(1), backend=backend),
            lambda backend: SF.vicreg(z, z.flip(1), side="samples", backend=backend),
        ]
        for call in calls:
            expected = call("reference")
            new(precision)
            torch.testing.assert_close(call("triton"), expected, rtol=1e-3, atol=1e-3)

else:

    @pytest.mark.slow
    def test_interpreted(tmp_path: Path) -> None:
        run_interpreted(__file__, "not slow and not gpu", tmp_path)
