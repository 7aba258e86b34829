# SPDX-License-Identifier: Apache-2.0
"""Who computes a workload: our backends, plain PyTorch as well as it can be written, torch.compile of it, and peers."""

from __future__ import annotations

import importlib.util
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import sslkernels.functional as SF
from sslkernels import backends
from sslkernels.bench.measure import Inputs, Step
from sslkernels.bench.workloads import LAMBD, LOGIT_SCALE, MOMENTUM, SIGMOID, SIGMOID_BIAS, TEMPERATURE, Workload

# A dense provider holds logits, their softmax and its gradient: three numbers a pair. Past this it would swap.
_DENSE_BYTES_PER_PAIR = 12
_MOST_DENSE_BYTES_ON_CPU = 8 << 30
# torch.compile writes code for every tensor of a list: half a minute for 161, two to three for 1000.
_MOST_COMPILED_TENSORS = 300


class Provider(ABC):
    """Something that can run a workload, or say in one sentence why not."""

    name: str

    @abstractmethod
    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None: ...

    def task(self, workload: Workload, inputs: Inputs) -> Task:
        """What it does of a workload: all of it, or what a peer has in its place."""
        return Task(workload, inputs)

    @abstractmethod
    def step(self, workload: Workload, inputs: Inputs) -> Step:
        """One forward pass on the inputs of its `task`."""


@dataclass(frozen=True)
class Task:
    """What a provider is held against and timed on; ``note`` says where that is not the workload itself."""

    workload: Workload
    inputs: Inputs
    note: str | None = None


OURS: dict[str, Callable[..., Tensor | None]] = {
    "clip_loss": SF.clip_loss,
    "byol_loss": SF.byol_loss,
    "barlow_twins": partial(SF.barlow_twins, lambd=LAMBD),
    "vicreg": SF.vicreg,
    "gather_tokens": SF.gather_tokens,
    "restore_tokens": SF.restore_tokens,
    "apply_masks": lambda x, masks, backend: SF.apply_masks(x, list(masks), backend=backend),
    "masked_mse": partial(SF.masked_mse, normalize_target=True),
    "ema_update": partial(SF.ema_update_, momentum=MOMENTUM),
}


@dataclass(frozen=True)
class Ours(Provider):
    """The library on one of its backends."""

    name: str

    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None:
        if self.name not in has_backends(workload):
            return f"{workload.op} has no kernels for {self.name}."
        reason = backends.why_not(self.name, device, dtype)
        return reason or (_too_large(workload, device) if self.name == "reference" else None)

    def step(self, workload: Workload, inputs: Inputs) -> Step:
        if workload.op == "nt_xent":
            return lambda: SF.nt_xent(**inputs, temperature=TEMPERATURE, backend=self.name)
        if workload.op == "info_nce":
            return lambda: SF.info_nce(**inputs, temperature=TEMPERATURE, backend=self.name)
        if workload.op in OURS:
            return lambda: OURS[workload.op](**inputs, backend=self.name)
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


def eager_byol_loss(prediction: Tensor, target: Tensor) -> Tensor:
    return 2 - 2 * F.cosine_similarity(prediction, target).mean()


def eager_barlow_twins(z0: Tensor, z1: Tensor) -> Tensor:
    a, b = (F.batch_norm(z, None, None, training=True) for z in (z0, z1))
    c = a.T @ b / len(a)
    return (c.diagonal() - 1).square().sum() + LAMBD * _off_diagonal(c).square().sum()


def eager_vicreg(z0: Tensor, z1: Tensor) -> Tensor:
    loss = 25 * F.mse_loss(z0, z1)
    for z in (z0, z1):
        loss = loss + 12.5 * F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
        z = z - z.mean(0)
        loss = loss + _off_diagonal(z.T @ z / (len(z) - 1)).square().sum() / z.shape[1]
    return loss


def _off_diagonal(c: Tensor) -> Tensor:
    """A view of the square matrix without its diagonal: no mask, no copy."""
    d = len(c)
    return c.flatten()[1:].view(d - 1, d + 1)[:, :-1]


def dual_barlow_twins(z0: Tensor, z1: Tensor) -> Tensor:
    a, b = (F.batch_norm(z, None, None, training=True) for z in (z0, z1))
    diagonal = (a * b).mean(0)
    total = ((a @ a.T) * (b @ b.T)).sum() / len(a) ** 2
    return (diagonal - 1).square().sum() + LAMBD * (total - diagonal.square().sum())


def dual_vicreg(z0: Tensor, z1: Tensor) -> Tensor:
    loss = 25 * F.mse_loss(z0, z1)
    for z in (z0, z1):
        z = z - z.mean(0)
        variances = z.square().sum(0) / (len(z) - 1)
        loss = loss + 12.5 * F.relu(1 - (variances + 1e-4).sqrt()).mean()
        total = (z @ z.T).square().sum() / (len(z) - 1) ** 2
        loss = loss + (total - variances.square().sum()) / z.shape[1]
    return loss


def eager_gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def eager_restore_tokens(visible: Tensor, ids_restore: Tensor, mask_token: Tensor, pos: Tensor) -> Tensor:
    """As MAE's decoder has it."""
    (batch, kept, channels), length = visible.shape, ids_restore.shape[1]
    tokens = torch.cat([visible, mask_token.to(visible.dtype).expand(batch, length - kept, channels)], 1)
    return eager_gather_tokens(tokens, ids_restore) + pos


def eager_apply_masks(x: Tensor, masks: Tensor) -> Tensor:
    return torch.cat([eager_gather_tokens(x, mask) for mask in masks])


def eager_masked_mse(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    mean, variance = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
    error = (pred - (target - mean) / (variance + 1e-6).sqrt()).square().mean(-1)
    return (error * mask).sum() / mask.sum()


def eager_ema_update(targets: list[Tensor], sources: list[Tensor]) -> None:
    if sources[0].dtype != targets[0].dtype:
        sources = [source.to(target.dtype) for target, source in zip(targets, sources, strict=True)]
    torch._foreach_lerp_(targets, sources, 1 - MOMENTUM)


EAGER: dict[str, Callable[..., Tensor | None]] = {
    "nt_xent": eager_nt_xent,
    "info_nce": eager_info_nce,
    "clip_loss": eager_clip_loss,
    "byol_loss": eager_byol_loss,
    "barlow_twins": eager_barlow_twins,
    "vicreg": eager_vicreg,
    "gather_tokens": eager_gather_tokens,
    "restore_tokens": eager_restore_tokens,
    "apply_masks": eager_apply_masks,
    "masked_mse": eager_masked_mse,
    "ema_update": eager_ema_update,
}
DUAL = {"barlow_twins": dual_barlow_twins, "vicreg": dual_vicreg}


@dataclass(frozen=True)
class Eager(Provider):
    """The best plain PyTorch that anyone would write."""

    name: str = "eager"

    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None:
        return _too_large(workload, device)

    def step(self, workload: Workload, inputs: Inputs) -> Step:
        function = EAGER[workload.op]
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
        if workload.family == "ema" and workload.shape[0] > _MOST_COMPILED_TENSORS:
            return f"torch.compile writes code for each of {workload.shape[0]} tensors, which takes minutes."
        return _too_large(workload, device)

    def step(self, workload: Workload, inputs: Inputs) -> Step:
        torch._dynamo.reset()  # a new shape is a new program, not a reason to give up specialising
        function = torch.compile(EAGER[workload.op], dynamic=False)
        return lambda: function(**inputs)


@dataclass(frozen=True)
class Dual(Provider):
    """Plain PyTorch with |a^T b|^2 = <a a^T, b b^T>: what the identity gives without kernels. No library has it."""

    name: str = "dual"

    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None:
        if workload.op not in DUAL or workload.shape[0] >= workload.shape[1]:
            return "the dual is for correlations of fewer rows than features."
        return None

    def step(self, workload: Workload, inputs: Inputs) -> Step:
        function = DUAL[workload.op]
        return lambda: function(**inputs)


@dataclass(frozen=True)
class Lightly(Provider):
    """lightly's module of the loss; NTXentLoss with its memory bank for the queue, set to the workload's negatives.

    Of an update its function for two modules, here two that hold the tensors.
    """

    name: str = "lightly"

    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None:
        if workload.op == "clip_loss":
            return "lightly has no CLIP loss."
        if workload.family == "tokens":
            return "lightly has PyTorch's gather here, which is eager's."
        if importlib.util.find_spec("lightly") is None:
            return "lightly is not installed; `pip install lightly` brings it."
        try:
            import lightly.loss  # noqa: F401
        except (ImportError, RuntimeError) as error:
            return f"lightly cannot be imported: {str(error).splitlines()[0]}."
        return _too_large(workload, device)

    def step(self, workload: Workload, inputs: Inputs) -> Step:
        from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss, VICRegLoss

        if workload.family == "ema":
            from lightly.models.utils import update_momentum

            teacher, student = (torch.nn.ParameterList(inputs[side]) for side in ("targets", "sources"))
            return lambda: update_momentum(student, teacher, MOMENTUM)
        if workload.op == "byol_loss":
            cosine = NegativeCosineSimilarity()
            return lambda: 2 + 2 * cosine(inputs["prediction"], inputs["target"])
        if workload.family == "correlation":
            module = BarlowTwinsLoss(LAMBD) if workload.op == "barlow_twins" else VICRegLoss()
            return lambda: module(inputs["z0"], inputs["z1"])
        if workload.op == "nt_xent":
            loss = NTXentLoss(temperature=TEMPERATURE)
            return lambda: loss(inputs["z0"], inputs["z1"])
        query, key, negatives = inputs["query"], inputs["key"], inputs["negatives"]
        loss = NTXentLoss(temperature=TEMPERATURE, memory_bank_size=tuple(negatives.shape)).to(query)
        loss.memory_bank.bank = negatives.clone()
        return lambda: loss(query, key)


@dataclass(frozen=True)
class Memeff(Provider):
    """memeff's CLIP loss. Its temperature is a number: the scale gets no gradient, and nobody is held to it here."""

    name: str = "memeff"

    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None:
        return _no_clip_peer(self.name, "memeff", workload, device)

    def task(self, workload: Workload, inputs: Inputs) -> Task:
        return Task(workload, _with_fixed_scale(inputs), "memeff has no gradient for the scale; it is timed without.")

    def step(self, workload: Workload, inputs: Inputs) -> Step:
        from memeff import MemoryEfficientCLIPLoss

        # stable=True, its default, scales the gradient by another factor than the loss
        module = MemoryEfficientCLIPLoss(1 / LOGIT_SCALE, normalized_inputs=True, stable=False)
        return lambda: module(inputs["image"], inputs["text"])


@dataclass(frozen=True)
class Siglip(Provider):
    """siglip-kernel's sigmoid loss of the same pairs: another objective than CLIP's with the same matrix products."""

    name: str = "siglip"

    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None:
        return _no_clip_peer("siglip-kernel", "siglip_kernel", workload, device)

    def task(self, workload: Workload, inputs: Inputs) -> Task:
        sigmoid = replace(workload, op=SIGMOID)
        note = "siglip is timed on the sigmoid loss of the same pairs, another objective; scale and bias are fixed."
        return Task(sigmoid, _with_fixed_scale(inputs), note)

    def step(self, workload: Workload, inputs: Inputs) -> Step:
        from siglip_kernel import fused_siglip_loss

        image, text, scale = (inputs[name] for name in ("image", "text", "logit_scale"))
        bias = torch.full_like(scale, SIGMOID_BIAS)
        return lambda: fused_siglip_loss(image, text, scale.log(), bias)


def _no_clip_peer(name: str, module: str, workload: Workload, device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"{name} runs on CUDA alone."
    if importlib.util.find_spec(module) is None:
        return f"{name} is not installed; `pip install {module.replace('_', '-')}` brings it."
    return None if workload.op == "clip_loss" else f"{name} has image-text losses alone."


def _with_fixed_scale(inputs: Inputs) -> Inputs:
    return {**inputs, "logit_scale": inputs["logit_scale"].detach()}


_ALL: tuple[Provider, ...] = (
    Ours("cpu"),
    Ours("cuda"),
    Ours("triton"),
    Ours("reference"),
    Eager(),
    Compile(),
    Lightly(),
    Dual(),
    Memeff(),
    Siglip(),
)
PROVIDERS = {provider.name: provider for provider in _ALL}
OTHERS = tuple(name for name, provider in PROVIDERS.items() if not isinstance(provider, Ours))


def has_backends(workload: Workload) -> tuple[str, ...]:
    return backends.WITH_CUDA if workload.family in ("tokens", "ema") else backends.USUAL


def chosen_backend(workload: Workload, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that the library takes by itself: the one that the others are compared with."""
    return backends.choose(device, dtype, has=has_backends(workload))


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
