# SPDX-License-Identifier: Apache-2.0
"""With a group, neither the forward nor the backward of a loss makes the host wait for its device.

Fake tensors have no numbers: whatever reads one raises. Two ranks are pretended, and their hosts agree. Where PyTorch
has no CUDA, no fake tensor can say that it is there, so these are of the host.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import sslkernels.functional as SF
from sslkernels import distributed, ring

N, D = 8, 16
COPIES = (torch.ops.aten._to_copy, torch.ops.aten.copy_)
# They look if rows still move after each iteration.
WAITS = ("kmeans", "hierarchical_kmeans")
GROUPED = [
    name for name in SF.__all__ if name not in WAITS and "group" in inspect.signature(getattr(SF, name)).parameters
]
RINGS = [name for name in GROUPED if "ring" in inspect.signature(getattr(SF, name)).parameters]
VIEWS = {"variance_hinge": 1, "covariance_penalty": 1, "vcreg": 1, "uniformity": 1, "koleo": 1}
WARMED = ("nt_xent", "info_nce", "dcl", "dclw", "debiased_nt_xent", "sup_con")
SCALED = ("clip_loss", "clip_distillation", "siglip_loss")
TENSORS = {**dict.fromkeys(WARMED, "temperature"), **dict.fromkeys(SCALED, "logit_scale")}


class Transfers(TorchDispatchMode):
    """List the ops for which a host would wait: those that make a tensor of Python's numbers, or change its device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        found = function(*arguments, **(options or {}))
        tensors = [x for x in (*arguments, found) if isinstance(x, Tensor)]
        made = function.overloadpacket is torch.ops.aten.lift_fresh
        if made or (function.overloadpacket in COPIES and len({x.device.type for x in tensors}) > 1):
            self.seen.append(str(function))
        return found


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(distributed, "_resolve", lambda group: None if group is None else object())
    monkeypatch.setattr(distributed, "agree", lambda group, rows, device, call: (rows, rows - 3))
    monkeypatch.setattr(distributed, "all_gather", lambda *_: None)
    monkeypatch.setattr(distributed, "_reduce_scatter", lambda *_: None)
    monkeypatch.setattr(ring, "_started", lambda *_: ())
    monkeypatch.setattr(dist, "get_rank", lambda group: 0)
    for name in ("all_reduce", "broadcast"):
        monkeypatch.setattr(dist, name, lambda *_, **__: None)
    with FakeTensorMode():
        yield


def arguments_of(function: str) -> tuple[list[Any], dict[str, Any], list[Tensor]]:
    """Return rows, settings and what needs a gradient."""

    z0, z1 = (torch.empty(N, D, requires_grad=True) for _ in range(2))
    if function in TENSORS:
        learnable = torch.empty((), requires_grad=True)
        if function == "sup_con":
            return [z0, torch.empty(N, dtype=torch.int64)], {"temperature": learnable}, [z0, learnable]
        if function == "clip_distillation":
            return [z0, z1, learnable, z1, z0, learnable], {}, [z0, z1, learnable]
        return [z0, z1], {TENSORS[function]: learnable}, [z0, z1, learnable]
    if function in ("sigreg", "lejepa"):
        views = torch.empty(2, N, D, requires_grad=True)
        return [views] * (1 if function == "sigreg" else 2), {}, [views]
    if function == "center_update_":
        return [torch.empty(N), z0, z1], {}, []
    if function == "sinkhorn_bias":
        return [z0, z1], {}, []
    if function == "frossl":
        return [[z0, z1]], {}, [z0, z1]
    rows = [z0, z1][: VIEWS.get(function, 2)]
    return rows, {}, rows


@pytest.mark.parametrize("function, ring", [*((name, False) for name in GROUPED), *((name, True) for name in RINGS)])
def test_a_step_waits_for_nothing(function: str, ring: bool, two_ranks: None) -> None:
    rows, settings, inputs = arguments_of(function)
    if ring:
        settings["ring"] = True
    with Transfers() as transfers:
        value = getattr(SF, function)(*rows, **settings, group="world")
        value = value[0] if isinstance(value, tuple) else value
        if inputs:
            torch.autograd.grad(value.sum(), inputs, allow_unused=True)
    assert transfers.seen == []


def test_waiting_would_be_seen(two_ranks: None) -> None:
    x = torch.empty(())
    with pytest.raises(DataDependentOutputException):
        x.item()
    with Transfers() as transfers:
        x.to("meta")
        torch.tensor([1, 2])
    assert len(transfers.seen) == 2
