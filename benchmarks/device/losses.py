# SPDX-License-Identifier: Apache-2.0
"""Every public loss at a small size, by the list and the formulas that the tests keep in tests/every_loss.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from device.rehearsal import REHEARSED
from sslkernels import backends

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
from every_loss import EVERY_LOSS, gradients  # noqa: E402

# The part of the norm by which float32 may be off.
CLOSE = 1e-4
BACKEND = "triton"


def names(here: torch.device, texts: list[str]) -> list[str]:
    """The losses whose names have one of the texts. A rehearsal takes a few of them."""
    if backends.why_not(BACKEND, here, torch.float32) is not None:
        return []
    able = [name for name, loss in EVERY_LOSS.items() if loss.takes("backend")]
    return [name for name in able if not texts or any(text in name for text in texts)][:: 6 if REHEARSED else 1]


def prepared(name: str, here: torch.device) -> tuple[Callable[[], Tensor], dict[str, Any], Callable[[], str]]:
    """The step of a loss, its inputs, and a check of value and gradients against float64 on the host."""
    loss = EVERY_LOSS[name]
    drawn = loss.inputs(torch.float32, rows=70, features=33)
    exact, slopes = loss.exact(drawn)
    inputs = {key: x.detach().to(here).requires_grad_(x.requires_grad) for key, x in drawn.items()}

    def step() -> Tensor:
        return loss(inputs, backend=BACKEND)

    def check() -> str:
        value = step()
        found = {"loss": value.detach(), **gradients(value, inputs)}
        for key, right in {"loss": exact, **slopes}.items():
            off = float(torch.linalg.vector_norm(found[key].cpu().double() - right))
            if not off <= CLOSE * float(torch.linalg.vector_norm(right)) + 1e-7:
                return f"{key} is off by {off:.1e}"
        return "ok"

    return step, inputs, check
