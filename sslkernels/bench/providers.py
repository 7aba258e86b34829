# SPDX-License-Identifier: Apache-2.0
"""Everybody who is timed: our backends, the best plain PyTorch, torch.compile of it, and peers."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass

import torch

from sslkernels import backends
from sslkernels.bench.cases import Inputs, Step
from sslkernels.bench.peers import FAISS, FLASH_SINKHORN, LIGER, LIGHTLY, MEMEFF, PML, SIGLIP, SKLEARN, ST
from sslkernels.bench.provider import Provider, too_large
from sslkernels.bench.workloads import Workload
from sslkernels.ops.registry import families


@dataclass(frozen=True)
class Ours(Provider):
    """The library on one of its backends."""

    name: str

    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None:
        if self.name not in has_backends(workload):
            return f"{workload.op} has no kernels for {self.name}."
        reason = backends.why_not(self.name, device, dtype)
        return reason or (too_large(workload, device) if self.name == "reference" else None)

    def step(self, workload: Workload, inputs: Inputs) -> Step:
        function = workload.case.ours
        return lambda: function(**inputs, backend=self.name)


@dataclass(frozen=True)
class Eager(Provider):
    """The best plain PyTorch that anyone would write."""

    name: str = "eager"

    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None:
        return too_large(workload, device)

    def step(self, workload: Workload, inputs: Inputs) -> Step:
        function = workload.case.eager
        return lambda: function(**inputs)


@dataclass(frozen=True)
class Compile(Provider):
    """torch.compile of `Eager`, for exactly these shapes."""

    name: str = "compile"

    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
            return "torch.compile needs a C++ compiler and none was found; install g++ or set CXX."
        if device.type == "cuda" and importlib.util.find_spec("triton") is None:
            return "torch.compile needs Triton on a GPU; `pip install triton` brings it."
        return workload.case.not_compiled(workload.shape) or too_large(workload, device)

    def step(self, workload: Workload, inputs: Inputs) -> Step:
        torch._dynamo.reset()  # a new shape has to be a new program, and no reason to give up specialising
        function = torch.compile(workload.case.eager, dynamic=False)
        return lambda: function(**inputs)


@dataclass(frozen=True)
class Dual(Provider):
    """Plain PyTorch with |a^T b|^2 = <a a^T, b b^T>, which no library has. It shows what that gives without kernels."""

    name: str = "dual"

    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None:
        if workload.case.dual is None or workload.shape[0] >= workload.shape[1]:
            return "the dual is for correlations of fewer rows than features."
        return None

    def step(self, workload: Workload, inputs: Inputs) -> Step:
        function = workload.case.dual
        assert function is not None
        return lambda: function(**inputs)


_ALL: tuple[Provider, ...] = (
    Ours("cpu"),
    Ours("cuda"),
    Ours("triton"),
    Ours("reference"),
    Eager(),
    Compile(),
    LIGHTLY,
    Dual(),
    MEMEFF,
    SIGLIP,
    LIGER,
    FLASH_SINKHORN,
    FAISS,
    SKLEARN,
    PML,
    ST,
)
PROVIDERS = {provider.name: provider for provider in _ALL}
OTHERS = tuple(name for name, provider in PROVIDERS.items() if not isinstance(provider, Ours))


def has_backends(workload: Workload) -> tuple[str, ...]:
    """The backends that the op's family has kernels for."""
    return families()[workload.family].backends


def chosen_backend(workload: Workload, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that the library takes by itself. The others are compared with it."""
    return families()[workload.family].choose(device, dtype, None)


def select(names: list[str]) -> list[Provider]:
    """The providers of these names, or all of them where there is no name."""
    for name in names:
        if name not in PROVIDERS:
            raise ValueError(f"--providers has {name!r}; accepted are {', '.join(PROVIDERS)}.")
    return [PROVIDERS[name] for name in names or PROVIDERS]
