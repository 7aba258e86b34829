# SPDX-License-Identifier: Apache-2.0
"""Other libraries that are timed. A case says how each of them does its op, or why it does not."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

import torch

from sslkernels.bench.cases import Inputs, Peer, Step
from sslkernels.bench.provider import Provider, Task, too_large
from sslkernels.bench.workloads import Workload
from sslkernels.files import cause_of


@dataclass(frozen=True)
class Library(Provider):
    """A library that may be installed."""

    name: str
    package: str
    """Its name on PyPI."""
    module: str
    """The module that its steps import."""
    lacks: str
    """The sentence for an op whose case says nothing about it."""
    on_cuda_alone: bool = False
    on_cpu_alone: bool = False
    dense: bool = False
    """True where it stores a number for every pair."""

    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None:
        if self.on_cuda_alone and device.type != "cuda":
            return f"{self.package} runs on CUDA alone."
        if self.on_cpu_alone and device.type != "cpu":
            return f"{self.package} runs on the CPU alone."
        peer = workload.case.peers.get(self.name, self.lacks)
        if isinstance(peer, str):
            return peer
        if importlib.util.find_spec(self.module.partition(".")[0]) is None:
            return f"{self.package} is not installed; `pip install {self.package}` brings it."
        try:
            importlib.import_module(self.module)
        except Exception as error:  # some ask for the device as they are imported
            return f"{self.package} cannot be imported: {cause_of(error)}."
        return too_large(workload, device) if self.dense else None

    def task(self, workload: Workload, inputs: Inputs) -> Task:
        peer = self._peer(workload)
        return Task(peer.inputs(inputs), peer.exact or workload.case.exact, peer.note)

    def step(self, workload: Workload, inputs: Inputs) -> Step:
        return self._peer(workload).step(inputs)

    def _peer(self, workload: Workload) -> Peer:
        peer = workload.case.peers.get(self.name, self.lacks)
        if isinstance(peer, str):
            raise ValueError(peer)
        return peer


LIGHTLY = Library("lightly", "lightly", "lightly.loss", "lightly has no such loss.", dense=True)
MEMEFF = Library("memeff", "memeff", "memeff", "memeff has image-text losses alone.", on_cuda_alone=True)
SIGLIP = Library(
    "siglip", "siglip-kernel", "siglip_kernel", "siglip-kernel has image-text losses alone.", on_cuda_alone=True
)
LIGER = Library(
    "liger",
    "liger-kernel",
    "liger_kernel.transformers",
    "liger-kernel is timed with the cross-entropy of prototypes alone.",
    on_cuda_alone=True,
)
FLASH_SINKHORN = Library(
    "flash_sinkhorn",
    "flash-sinkhorn",
    "flash_sinkhorn.kernels",
    "flash-sinkhorn solves optimal transport alone.",
    on_cuda_alone=True,
)
FAISS = Library("faiss", "faiss-cpu", "faiss", "faiss searches alone.", on_cpu_alone=True)
PML = Library(
    "pml",
    "pytorch-metric-learning",
    "pytorch_metric_learning",
    "pytorch-metric-learning is timed with SupCon alone.",
    dense=True,
)
ST = Library(
    "st",
    "sentence-transformers",
    "sentence_transformers",
    "sentence-transformers has ranking losses alone.",
    on_cpu_alone=True,
)
SKLEARN = Library("sklearn", "scikit-learn", "sklearn", "scikit-learn has no losses of this kind.", on_cpu_alone=True)
