# SPDX-License-Identifier: Apache-2.0
"""What is timed: one definition of shapes, tensors, costs and targets for the command, the suites and `explain`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.bench.architectures import ARCHITECTURES, architecture, size

Preset = Literal["small", "recipe", "crossover", "quick"]
Kind = Literal["eager", "compile", "lightly", "memeff", "siglip", "floor", "seconds", "bytes"]

TEMPERATURE = 0.1
LOGIT_SCALE = 1 / 0.07
SIGMOID_BIAS = -10.0
LAMBD = 5e-3
MOMENTUM = 0.996
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# The sigmoid loss of pairs, which one peer has in the place of CLIP's: what it is held against, and nothing of ours.
SIGMOID = "sigmoid_loss"
DIMENSIONS = {
    "nt_xent": ("N", "D"),
    "info_nce": ("N", "M", "D"),
    "clip_loss": ("N", "D"),
    "logsumexp_similarity": ("N", "M", "D"),
    "byol_loss": ("N", "D"),
    "barlow_twins": ("N", "D"),
    "vicreg": ("N", "D"),
    "gather_tokens": ("B", "L", "K", "C"),
    "restore_tokens": ("B", "L", "K", "C"),
    "apply_masks": ("B", "L", "M", "K", "C"),
    "masked_mse": ("B", "L", "K", "C"),
    "ema_update": ("T", "P"),
}
FAMILIES = {
    "similarity": ("nt_xent", "info_nce", "clip_loss", "logsumexp_similarity", "byol_loss", SIGMOID),
    "correlation": ("barlow_twins", "vicreg"),
    "tokens": ("gather_tokens", "restore_tokens", "apply_masks", "masked_mse"),
    "ema": ("ema_update",),
}
# What a command may be asked for.
NAMES = (*FAMILIES, *DIMENSIONS, "all")


@dataclass(frozen=True)
class Cost:
    """Operations that no way around the pairs avoids, and the bytes: inputs read, gradients written."""

    forward: int
    backward: int
    bytes: int

    @property
    def operations(self) -> int:
        return self.forward + self.backward


@dataclass(frozen=True)
class Target:
    """Forward + backward of ours on ``device``: at least a ratio to another provider or a share of the floor, at most
    so many seconds or bytes above the inputs."""

    dtype: str
    kind: Kind
    value: float
    device: str = "cpu"


@dataclass(frozen=True)
class Workload:
    """An op at one shape, of the sizes that `DIMENSIONS` names.

    nt_xent and correlations have N rows per view, info_nce a frozen queue of M, byol_loss a frozen target. Of L tokens,
    K are kept (masked_mse: masked), or K by each of M index sets. An update moves T float32 tensors of P numbers in
    all, shaped as `architecture` knows; its dtype is that of the sources, and it has no backward.
    """

    op: str
    shape: tuple[int, ...]
    preset: Preset = "small"
    targets: tuple[Target, ...] = ()

    def __str__(self) -> str:
        return f"{self.op}-{'x'.join(self.sizes)}"

    @property
    def sizes(self) -> tuple[str, ...]:
        """As they are printed: millions of parameters are rounded."""
        if self.family == "ema" and self.shape[1] >= 1e6:
            return str(self.shape[0]), f"{self.shape[1] / 1e6:.0f}M"
        return tuple(map(str, self.shape))

    @property
    def family(self) -> str:
        return next(family for family, ops in FAMILIES.items() if self.op in ops)

    @property
    def pairs(self) -> int:
        """Entries of what a dense provider stores: logits of rows, correlations of columns, numbers of tokens or rows.

        An update has none.
        """
        if self.family == "ema":
            return 0
        if self.family == "tokens":
            return self.shape[0] * self.shape[1] * self.shape[-1]
        if self.family == "correlation":
            return self.shape[1] ** 2
        if self.op == "byol_loss":
            return self.shape[0] * self.shape[1]
        first = self.shape[0]
        return {"nt_xent": 4 * first * first, "clip_loss": first * first, SIGMOID: first * first}.get(
            self.op, first * self.shape[1]
        )

    def targets_for(self, dtype: str, device: str) -> tuple[Target, ...]:
        return tuple(target for target in self.targets if (target.dtype, target.device) == (dtype, device))

    def inputs(self, dtype: torch.dtype, device: torch.device | str = "cpu", seed: int = 0) -> dict[str, Any]:
        """The tensors, by argument name, for an update in lists. What a training step differentiates by requires it."""
        generator = torch.Generator().manual_seed(seed)
        if self.family == "tokens":
            return self._tokens(dtype, device, generator)
        if self.family == "ema":
            shapes = architecture(*self.shape)
            targets = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
            # apart as after a first epoch, so that an update is far above the rounding
            sources = [t + torch.randn(t.shape, generator=generator).to(device) for t in targets]
            return {"targets": targets, "sources": [s.to(dtype) for s in sources]}
        n, d = self.shape[0], self.shape[-1]

        def rows(count: int) -> Tensor:
            return torch.randn(count, d, generator=generator)

        def ready(x: Tensor, grad: bool) -> Tensor:
            return x.to(device=device, dtype=dtype).requires_grad_(grad)

        anchors = rows(n)
        related = anchors + rows(n)  # as two views are: alike, not equal
        if self.op == "nt_xent" or self.family == "correlation":
            return {"z0": ready(anchors, True), "z1": ready(related, True)}
        if self.op == "info_nce":
            queue = F.normalize(rows(self.shape[1]), dim=1)
            return {"query": ready(anchors, True), "key": ready(related, False), "negatives": ready(queue, False)}
        if self.op == "byol_loss":
            return {"prediction": ready(anchors, True), "target": ready(related, False)}
        if self.op in ("clip_loss", SIGMOID):
            scale = torch.tensor(LOGIT_SCALE, device=device, requires_grad=True)
            unit = (F.normalize(side, dim=1) for side in (anchors, related))
            image, text = (ready(side, True) for side in unit)
            return {"image": image, "text": text, "logit_scale": scale}
        unit = (F.normalize(side, dim=1) for side in (anchors, rows(self.shape[1])))
        x, y = (ready(side, True) for side in unit)
        return {"x": x, "y": y}

    def _tokens(self, dtype: torch.dtype, device: torch.device | str, generator: torch.Generator) -> dict[str, Tensor]:
        (batch, length), (kept, channels) = self.shape[:2], self.shape[-2:]
        sets = self.shape[2] if self.op == "apply_masks" else 1
        order = torch.rand(sets, batch, length, generator=generator).argsort(dim=2)
        index = order[:, :, :kept].contiguous().to(device)

        def tokens(count: int, grad: bool = True) -> Tensor:
            x = torch.randn(batch, count, channels, generator=generator)
            return x.to(device=device, dtype=dtype).requires_grad_(grad)

        if self.op == "gather_tokens":
            return {"x": tokens(length), "index": index[0]}
        if self.op == "apply_masks":
            return {"x": tokens(length), "masks": index}
        if self.op == "masked_mse":
            mask = torch.zeros(batch, length, device=device).scatter_(1, index[0], 1.0)
            return {"pred": tokens(length), "target": tokens(length, False), "mask": mask}
        token, pos = (torch.randn(count, channels, generator=generator).to(device) for count in (1, length))
        restore = order[0].argsort(dim=1).to(device)
        return {"visible": tokens(kept), "ids_restore": restore, "mask_token": token.requires_grad_(), "pos": pos}

    def cost(self, dtype: torch.dtype) -> Cost:
        """Fewest operations and bytes of one forward and one backward: nothing recomputed, exponentials not counted."""
        if self.family == "tokens":  # rows read and written forward, the same backward with all tokens on one side
            batch, length = self.shape[:2]
            sets = self.shape[2] if self.op == "apply_masks" else 1
            kept = sets * self.shape[-2]
            moved = {"restore_tokens": kept + length, "masked_mse": 2 * kept}.get(self.op, 2 * kept)
            back = {"masked_mse": 2 * kept + length}.get(self.op, kept + length)
            return Cost(0, 0, batch * (moved + back) * self.shape[-1] * dtype.itemsize)
        if self.family == "ema":  # both read and the target written; two products and a sum
            return Cost(3 * self.shape[1], 0, self.shape[1] * (2 * torch.float32.itemsize + dtype.itemsize))
        n, d = self.shape[0], self.shape[-1]
        if self.op == "nt_xent":  # half of the square forward, a whole product backward
            forward, backward, read, written = self.pairs * d, 2 * self.pairs * d, 2 * n, 2 * n
        elif self.op == "info_nce":  # one flash pass: logits, and their softmax times the queue
            forward, backward, read, written = 4 * self.pairs * d, 0, 2 * n + self.shape[1], n
        elif self.op == "byol_loss":  # a product and two squares, and both rows for the gradient
            forward, backward, read, written = 6 * self.pairs, 3 * self.pairs, 4 * n, n
        elif self.op in ("clip_loss", SIGMOID):
            forward, backward, read, written = 2 * self.pairs * d, 4 * self.pairs * d, 2 * n, 2 * n
        elif self.family == "correlation":  # two halves of symmetric products or one whole, and two whole ones backward
            forward, backward, read, written = 2 * n * d * min(n, d), 4 * n * d * min(n, d), 2 * n, 2 * n
        else:
            rows = n + self.shape[1]
            forward, backward, read, written = 2 * self.pairs * d, 4 * self.pairs * d, rows, rows
        return Cost(forward, backward, (read + written) * d * dtype.itemsize)


def _on_gpu(kind: Kind, value: float) -> tuple[Target, ...]:
    return tuple(Target(dtype, kind, value, "cuda") for dtype in DTYPES)


def _with(*stated: Target) -> tuple[Target, ...]:
    """The targets stated, and where none is: as fast as eager on the CPU, as it and torch.compile on a GPU."""
    least = [Target(dtype, "eager", 1.0) for dtype in DTYPES]
    least += [*_on_gpu("eager", 1.0), *_on_gpu("compile", 1.0)]
    known = {(target.dtype, target.kind, target.device) for target in stated}
    return (*(target for target in least if (target.dtype, target.kind, target.device) not in known), *stated)


def _clip(seconds: float) -> tuple[Target, ...]:
    """On an H200, in bfloat16; faster than both peers in the same run."""
    kinds: dict[Kind, float] = {"seconds": seconds, "bytes": 1.5e9, "memeff": 1.0, "siglip": 1.0}
    return _with(*(Target(_BF16, kind, value, "cuda") for kind, value in kinds.items()))


_MIB = 1 << 20
_F32, _BF16 = "float32", "bfloat16"
_TWICE = (Target(_F32, "lightly", 2.0), Target(_BF16, "lightly", 2.0))
_MOVED = _on_gpu("floor", 0.85)
_UPDATED = _on_gpu("floor", 0.9)
_SIZES = {name: size(shapes) for name, shapes in ARCHITECTURES.items()}

WORKLOADS = (
    Workload("nt_xent", (64, 128), "small", _with()),
    Workload("nt_xent", (256, 128), "small", _with(Target(_F32, "eager", 1.5))),
    Workload("nt_xent", (2048, 128), "small", _with(Target(_F32, "eager", 4.5))),
    Workload(
        "nt_xent",
        (4096, 128),
        "small",
        _with(
            Target(_F32, "eager", 4.8),
            Target(_F32, "lightly", 11.0),
            Target(_BF16, "eager", 7.0),
            *_on_gpu("eager", 5.0),
            *_on_gpu("compile", 2.0),
        ),
    ),
    Workload("nt_xent", (4096, 512), "small", _with(Target(_F32, "eager", 2.5))),
    Workload("nt_xent", (2048, 2048), "small", _with()),
    Workload("nt_xent", (16384, 128), "small", (Target(_F32, "bytes", 96 * _MIB), Target(_BF16, "bytes", 96 * _MIB))),
    Workload("info_nce", (256, 65536, 128), "small", _with(Target(_F32, "eager", 3.0), Target(_F32, "lightly", 5.0))),
    Workload("clip_loss", (2048, 512), "small", _with()),
    Workload("clip_loss", (4096, 768), "small", _with(Target(_F32, "eager", 1.3), Target(_BF16, "eager", 2.0))),
    Workload("byol_loss", (64, 128), "small", _with()),
    Workload("byol_loss", (4096, 256), "small", _with()),
    Workload("barlow_twins", (128, 8192), "small", _with()),
    Workload("barlow_twins", (256, 8192), "small", _with(Target(_F32, "eager", 18.0), Target(_F32, "lightly", 30.0))),
    Workload("barlow_twins", (512, 4096), "small", _with(Target(_F32, "eager", 6.0))),
    Workload("barlow_twins", (2048, 512), "small", _with(*_TWICE)),
    Workload("barlow_twins", (512, 512), "small", _with(*_TWICE)),
    Workload("vicreg", (128, 8192), "small", _with()),
    Workload("vicreg", (256, 8192), "small", _with(Target(_F32, "eager", 20.0), Target(_F32, "lightly", 40.0))),
    Workload("vicreg", (512, 4096), "small", _with()),
    Workload("vicreg", (2048, 512), "small", _with(*_TWICE)),
    Workload("vicreg", (512, 512), "small", _with(*_TWICE)),
    Workload("gather_tokens", (64, 196, 49, 1024), "small", _with(Target(_F32, "eager", 2.0))),
    Workload("restore_tokens", (64, 196, 49, 512), "small", _with(Target(_F32, "eager", 8.0))),
    Workload("apply_masks", (32, 256, 4, 48, 1280), "small", _with()),
    Workload("masked_mse", (64, 196, 147, 768), "small", _with()),
    Workload("ema_update", _SIZES["ResNet-50"], "small", _with()),
    Workload("ema_update", _SIZES["ViT-B"], "small", _with(Target(_BF16, "eager", 2.5))),
    Workload("ema_update", (1000, 1000 * 1024), "small", _with(Target(_F32, "eager", 3.0))),
    Workload("ema_update", _SIZES["ViT-L"], "recipe", _with(*_UPDATED)),
    Workload("ema_update", _SIZES["ViT-g"], "recipe", _with(*_UPDATED)),
    Workload("gather_tokens", (256, 196, 49, 1024), "recipe", _with(*_MOVED)),
    Workload("restore_tokens", (256, 196, 49, 512), "recipe", _with(*_MOVED)),
    Workload("apply_masks", (24, 2048, 2, 640, 1408), "recipe", _with()),
    Workload("barlow_twins", (2048, 8192), "recipe", _with(*_on_gpu("eager", 3.0))),
    Workload("barlow_twins", (4096, 2048), "recipe", _with()),
    Workload("barlow_twins", (2048, 16384), "recipe", _with()),
    Workload("vicreg", (2048, 8192), "recipe", _with()),
    Workload("vicreg", (4096, 2048), "recipe", _with()),
    Workload("vicreg", (2048, 16384), "recipe", _with()),
    Workload("nt_xent", (4096, 256), "recipe", _with()),
    Workload("nt_xent", (65536, 256), "recipe", _with()),
    Workload("clip_loss", (32768, 512), "recipe", _with()),
    Workload("clip_loss", (32768, 768), "recipe", _with()),
    Workload("clip_loss", (32768, 1024), "recipe", _with()),
    Workload("clip_loss", (65536, 512), "recipe", _clip(0.032)),
    Workload("clip_loss", (65536, 768), "recipe", _clip(0.048)),
    Workload("clip_loss", (131072, 384), "recipe", _with()),
    *(Workload("nt_xent", (n, 128), "crossover") for n in (8, 16, 32, 64, 128, 256, 512)),
    *(Workload("clip_loss", (n, 512), "crossover") for n in (16, 32, 64, 128, 256, 512, 1024)),
    *(Workload(op, (64, d), "crossover") for op in FAMILIES["correlation"] for d in (64, 128, 256, 512, 1024, 2048)),
    Workload("nt_xent", (64, 32), "quick"),
    Workload("info_nce", (32, 512, 32), "quick"),
    Workload("clip_loss", (64, 32), "quick"),
    Workload("byol_loss", (64, 32), "quick"),
    Workload("barlow_twins", (32, 96), "quick"),
    Workload("vicreg", (96, 32), "quick"),
    Workload("gather_tokens", (2, 16, 4, 32), "quick"),
    Workload("restore_tokens", (2, 16, 4, 32), "quick"),
    Workload("apply_masks", (2, 16, 3, 4, 32), "quick"),
    Workload("masked_mse", (2, 16, 12, 32), "quick"),
    Workload("ema_update", (7, 1003), "quick"),
)

# The shapes above that are timed on a GPU too, beside those of its own.
_ALSO_RECIPE = (
    "nt_xent-4096x128",
    "nt_xent-16384x128",
    "info_nce-256x65536x128",
    "barlow_twins-256x8192",
    "vicreg-256x8192",
)


def select(what: str, preset: Preset, only: Iterable[str] = ()) -> list[Workload]:
    """Workloads of a family, of an op or "all" in a preset; with ``only``, those with one of the texts in the name."""
    ours = [w for w in WORKLOADS if what in ("all", w.family, w.op)]
    chosen = [w for w in ours if w.preset == preset or (preset == "recipe" and str(w) in _ALSO_RECIPE)]
    if not chosen:
        have = ", ".join(dict.fromkeys(w.preset for w in ours))
        raise ValueError(f"--preset is {preset!r}, in which {what} has no workload; it has some in {have}.")
    wanted = tuple(only)
    if not wanted:
        return chosen
    found = [w for w in chosen if any(text in str(w) for text in wanted)]
    if not found:
        names = ", ".join(map(str, chosen))
        raise ValueError(f"--only is {', '.join(wanted)!r}, which names no {preset} workload; there are {names}.")
    return found
