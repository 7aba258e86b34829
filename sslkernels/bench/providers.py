# SPDX-License-Identifier: Apache-2.0
"""Who computes a workload: our backends, plain PyTorch as well as it can be written, torch.compile of it, and peers."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

import sslkernels.functional as SF
from sslkernels import backends
from sslkernels.bench.measure import Step
from sslkernels.bench.workloads import TEMPERATURE, Workload

# A dense provider holds logits, their softmax and its gradient: three numbers a pair. Past this it would swap.
_DENSE_BYTES_PER_PAIR = 12
_MOST_DENSE_BYTES_ON_CPU = 8 << 30


class Provider(Protocol):
    """Something that can run a workload, or say in one sentence why not."""

    @property
    def name(self) -> str: ...

    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None: ...

    def step(self, workload: Workload, inputs: Mapping[str, Tensor]) -> Step: ...


@dataclass(frozen=True)
class Ours:
    """The library on one of its backends."""

    name: str

    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None:
        reason = backends.why_not(self.name, device, dtype)
        return reason or (_too_large(workload, device) if self.name == "reference" else None)

    def step(self, workload: Workload, inputs: Mapping[str, Tensor]) -> Step:
        if workload.op == "nt_xent":
            return lambda: SF.nt_xent(**inputs, temperature=TEMPERATURE, backend=self.name)
        if workload.op == "info_nce":
            return lambda: SF.info_nce(**inputs, temperature=TEMPERATURE, backend=self.name)
        if workload.op == "clip_loss":
            return lambda: SF.clip_loss(**inputs, backend=self.name)
        return lambda: SF.logsumexp_similarity(**inputs, backend=self.name).mean()


def eager_nt_xent(z0: Tensor, z1: Tensor) -> Tensor:
    n = z0.shape[0]
    z = F.normalize(torch.cat([z0, z1]), dim=1)
    logits = (z / TEMPERATURE) @ z.T
    logits.fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(2 * n, device=z.device).roll(n))


def eager_info_nce(query: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
    query, key = F.normalize(query, dim=1) / TEMPERATURE, F.normalize(key, dim=1)
    positive = (query * key).sum(1, keepdim=True)
    logits = torch.cat([positive, query @ negatives.T], 1)
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))


def eager_clip_loss(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    logits = (logit_scale * image) @ text.T
    own = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


EAGER: dict[str, Callable[..., Tensor]] = {
    "nt_xent": eager_nt_xent,
    "info_nce": eager_info_nce,
    "clip_loss": eager_clip_loss,
}


@dataclass(frozen=True)
class Eager:
    """The best plain PyTorch that anyone would write."""

    name: str = "eager"

    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None:
        return _too_large(workload, device)

    def step(self, workload: Workload, inputs: Mapping[str, Tensor]) -> Step:
        function = EAGER[workload.op]
        return lambda: function(**inputs)


@dataclass(frozen=True)
class Compile:
    """torch.compile of `Eager`, for exactly these shapes."""

    name: str = "compile"

    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
            return "torch.compile needs a C++ compiler and none was found; install g++ or set CXX."
        if device.type == "cuda" and importlib.util.find_spec("triton") is None:
            return "torch.compile needs Triton on a GPU; `pip install triton` brings it."
        return _too_large(workload, device)

    def step(self, workload: Workload, inputs: Mapping[str, Tensor]) -> Step:
        torch._dynamo.reset()  # a new shape is a new program, not a reason to give up specialising
        function = torch.compile(EAGER[workload.op], dynamic=False)
        return lambda: function(**inputs)


@dataclass(frozen=True)
class Lightly:
    """lightly's NTXentLoss; with its memory bank for the queue, set to the workload's negatives."""

    name: str = "lightly"

    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None:
        if workload.op == "clip_loss":
            return "lightly has no CLIP loss."
        if importlib.util.find_spec("lightly") is None:
            return "lightly is not installed; `pip install lightly` brings it."
        try:
            import lightly.loss  # noqa: F401
        except (ImportError, RuntimeError) as error:
            return f"lightly cannot be imported: {str(error).splitlines()[0]}."
        return _too_large(workload, device)

    def step(self, workload: Workload, inputs: Mapping[str, Tensor]) -> Step:
        from lightly.loss import NTXentLoss

        if workload.op == "nt_xent":
            loss = NTXentLoss(temperature=TEMPERATURE)
            return lambda: loss(inputs["z0"], inputs["z1"])
        query, key, negatives = inputs["query"], inputs["key"], inputs["negatives"]
        loss = NTXentLoss(temperature=TEMPERATURE, memory_bank_size=tuple(negatives.shape)).to(query)
        loss.memory_bank.bank = negatives.clone()
        return lambda: loss(query, key)


_ALL: tuple[Provider, ...] = (Ours("cpu"), Ours("triton"), Ours("reference"), Eager(), Compile(), Lightly())
PROVIDERS = {provider.name: provider for provider in _ALL}


def chosen_backend(device: torch.device, dtype: torch.dtype) -> str:
    """The backend that the library takes by itself: the one that the others are compared with."""
    return backends.choose(device, dtype)


def select(names: list[str]) -> list[Provider]:
    """Providers by name; all of them where none is named."""
    for name in names:
        if name not in PROVIDERS:
            raise ValueError(f"--providers has {name!r}; accepted are {', '.join(PROVIDERS)}.")
    return [PROVIDERS[name] for name in names or PROVIDERS]


def _too_large(workload: Workload, device: torch.device) -> str | None:
    needed = workload.pairs * _DENSE_BYTES_PER_PAIR
    if device.type == "cuda":
        limit = torch.cuda.mem_get_info(device)[0] if torch.cuda.is_available() else needed
    else:
        limit = _MOST_DENSE_BYTES_ON_CPU
    if needed <= limit:
        return None
    return f"it stores the matrix, about {needed / 2**30:.0f} GiB; the limit here is {limit / 2**30:.0f} GiB."
