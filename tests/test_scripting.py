# SPDX-License-Identifier: Apache-2.0
"""torch.jit.script of anything that runs our kernels raises one sentence, alone or inside of somebody's model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from small_methods import small_method
from torch import Tensor, nn

import sslkernels as sk
import sslkernels.functional as SF
from sslkernels import losses
from sslkernels.methods import METHODS
from sslkernels.models import DirectPred, ViT


def vit() -> ViT:
    return ViT((8, 8), patch_size=4, width=8, depth=1, heads=2)


MODULES: dict[str, Callable[[], nn.Module]] = {
    **{name: getattr(losses, name) for name in losses.__all__},
    "CoCaLoss": lambda: losses.CoCaLoss(2.0, 1.0),
    "PMSNCustomLoss": lambda: losses.PMSNCustomLoss(torch.ones_like),
    **{name: partial(small_method, name) for name in METHODS},
    "EMA": lambda: sk.EMA(nn.Linear(2, 2)),
    "Center": lambda: sk.Center(4),
    "MemoryBank": lambda: sk.MemoryBank(4, 2),
    "MemoryQueue": lambda: sk.MemoryQueue(4, 2),
    "DirectPred": lambda: DirectPred(2),
    "ViT": vit,
}
FUNCTIONS: dict[str, Any] = {**{name: getattr(SF, name) for name in SF.__all__}, "update_momentum": sk.update_momentum}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside"])
def test_no_module_can_be_scripted(name: str, inside: bool) -> None:
    module = MODULES[name]()
    known = type(module).__name__
    with pytest.raises(TypeError) as raised:
        torch.jit.script(nn.Sequential(nn.Linear(2, 2), module) if inside else module)
    assert str(raised.value) == (
        f"torch.jit.script: {known} runs kernels that TorchScript cannot read; use torch.compile."
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_function_can_be_scripted(name: str) -> None:
    with pytest.raises(TypeError, match=f"^torch.jit.script: {name} runs kernels .* use torch.compile.$"):
        torch.jit.script(FUNCTIONS[name])


class Scripted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return SF.vcreg(x)


def test_a_function_called_by_what_is_scripted_says_so_too() -> None:
    with pytest.raises(Exception, match="torch.jit.script: vcreg runs kernels that TorchScript cannot read"):
        torch.jit.script(Scripted())
