# SPDX-License-Identifier: Apache-2.0
"""torch has an old switch for the precision of float32 products and a new one; kernels follow whichever was set."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from interpreted import INTERPRETED, run_interpreted

import sslkernels.functional as SF
from sslkernels.ops.launch import dot_precision
from sslkernels.ops.registry import families


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    switches = (torch.backends, torch.backends.cudnn, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [switch.fp32_precision for switch in switches]
    yield
    for switch, precision in zip(switches, before, strict=True):
        switch.fp32_precision = precision


def new(precision: str) -> None:
    torch.backends.cuda.matmul.fp32_precision = precision


def new_of_everything(precision: str) -> None:
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch.backends.fp32_precision = precision


def new_of_cuda(precision: str) -> None:
    """PyTorch keeps the switch for everything on CUDA with cuDNN's."""
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch.backends.cudnn.fp32_precision = precision


def mixed(precision: str) -> None:
    """The newest setting counts, and no switch of the older kind can be read after it."""
    torch.set_float32_matmul_precision("highest" if precision == "tf32" else "high")
    new(precision)


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
    (new_of_cuda, "ieee", "ieee"),
    (new_of_cuda, "tf32", "tf32"),
    (mixed, "ieee", "ieee"),
    (mixed, "tf32", "tf32"),
    (older, False, "ieee"),
    (older, True, "tf32"),
]


LOSSES: dict[str, Callable] = {
    "nt_xent": lambda x, y, backend: SF.nt_xent(x, y, backend=backend),
    "nt_xent 16": lambda x, y, backend: SF.nt_xent(x.half(), y.half(), backend=backend).float(),
    "clip_loss": lambda x, y, backend: SF.clip_loss(x, y, 2.0, backend=backend),
    "siglip_loss": lambda x, y, backend: SF.siglip_loss(x, y, 2.0, -1.0, backend=backend),
    "info_nce": lambda x, y, backend: SF.info_nce(x, y, negatives=y.flip(0), backend=backend),
    "barlow_twins samples": lambda x, y, backend: SF.barlow_twins(x, y, side="samples", backend=backend),
    "barlow_twins features": lambda x, y, backend: SF.barlow_twins(x, y, side="features", backend=backend),
    "barlow_twins 16": lambda x, y, backend: SF.barlow_twins(x.half(), y.half(), side="features", backend=backend),
    "vicreg samples": lambda x, y, backend: SF.vicreg(x, y, side="samples", backend=backend),
    "vicreg features": lambda x, y, backend: SF.vicreg(x, y, side="features", backend=backend),
    "sigreg": lambda x, y, backend: SF.sigreg(torch.stack([x, y]), slices=torch.eye(5)[:, :3], backend=backend),
    "byol_loss": lambda x, y, backend: SF.byol_loss(x, y, backend=backend),
}
SIXTEEN_BIT = {"nt_xent 16", "barlow_twins 16"}
PRODUCTS = {"barlow_twins samples", "barlow_twins features", "vicreg samples", "vicreg features"}


@pytest.mark.parametrize(("switch", "value", "expected"), WAYS)
def test_every_switch_is_followed(switch: Callable, value: object, expected: str) -> None:
    switch(value)
    assert dot_precision() == expected


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float64))
def test_only_float32_looks_at_a_switch(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    new("tf32")
    monkeypatch.setattr(torch.backends, "cuda", None)  # to look would raise
    assert dot_precision(dtype) == "ieee"


if INTERPRETED:
    for family in families().values():  # whoever imports the function later would keep a test's own for good
        if "triton" in family.kernels:
            importlib.import_module(f"sslkernels.ops.{family.name}.triton")

    @pytest.mark.parametrize("name", LOSSES)
    @pytest.mark.parametrize(("switch", "value", "expected"), WAYS)
    def test_every_family_runs_after_every_switch(
        switch: Callable, value: object, expected: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The values are right, and products of float32 take the precision that was set."""
        asked = []

        def recorded(*given: Any, **named: Any) -> str:
            asked.append(dot_precision(*given, **named))
            return asked[-1]

        for module in sys.modules.values():
            if getattr(module, "dot_precision", None) is dot_precision and module.__name__.startswith("sslkernels."):
                monkeypatch.setattr(module, "dot_precision", recorded)
        z0, z1 = torch.randn(2, 9, 5).unbind()
        right = LOSSES[name](z0, z1, "reference")
        switch(value)
        x = z0.clone().requires_grad_()
        found = LOSSES[name](x, z1, "triton")
        found.backward()
        torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-3)
        assert x.grad is not None and x.grad.isfinite().all()
        assert set(asked) <= {expected} or name in SIXTEEN_BIT
        assert bool(asked) or name not in PRODUCTS

else:

    @pytest.mark.slow
    def test_interpreted(tmp_path: Path) -> None:
        run_interpreted(__file__, "not slow and not gpu", tmp_path)
