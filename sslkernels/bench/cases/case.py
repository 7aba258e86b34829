# SPDX-License-Identifier: Apache-2.0
"""`Case`: all that the benchmark knows of one op. Commands, gate, pages and tables read its fields.

To add an op's benchmark, write one `Case` in the file of its family, and add it to that file's ``CASES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from sslkernels import _C

Preset = Literal["small", "recipe", "crossover", "quick"]
Kind = Literal["eager", "compile", "lightly", "memeff", "siglip", "floor", "seconds", "bytes"]
Shape = tuple[int, ...]
# Tensors by argument name; an update has lists of them.
Inputs = Mapping[str, Any]
# A forward pass returns the loss, or the tokens that were moved, with its graph. An update returns nothing.
Step = Callable[[], Any]
# The textbook in the dtype of the inputs, with at most so many pairs in memory at once. An update's yields the targets.
Exact = Callable[[Inputs, int], Any]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
F32, BF16 = "float32", "bfloat16"


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
    """What forward and backward of ours have to reach on ``device``.

    ``value`` is a ratio to another provider or a share of the floor, both at least; or seconds or bytes above the
    inputs, both at most.
    """

    dtype: str
    kind: Kind
    value: float
    device: str = "cpu"


def on_gpu(kind: Kind, value: float) -> tuple[Target, ...]:
    """The same target on a GPU in every dtype."""
    return tuple(Target(dtype, kind, value, "cuda") for dtype in DTYPES)


def targets(*stated: Target) -> tuple[Target, ...]:
    """The targets stated, and where none is: as fast as eager on the CPU, as it and torch.compile on a GPU."""
    least = [Target(dtype, "eager", 1.0) for dtype in DTYPES]
    least += [*on_gpu("eager", 1.0), *on_gpu("compile", 1.0)]
    known = {(target.dtype, target.kind, target.device) for target in stated}
    return (*(target for target in least if (target.dtype, target.kind, target.device) not in known), *stated)


@dataclass(frozen=True)
class Size:
    """One shape that is timed, in which preset, and what ours has to reach there."""

    shape: Shape
    preset: Preset = "small"
    targets: tuple[Target, ...] = ()
    recipe_too: bool = False
    """Whether the recipe preset, the one for a GPU, has this shape as well."""


@dataclass(frozen=True)
class Draw:
    """Random tensors of one dtype on one device; the same generator gives the same."""

    dtype: torch.dtype
    device: torch.device | str
    generator: torch.Generator

    def normal(self, *shape: int) -> Tensor:
        """In float32 on the host."""
        return torch.randn(shape, generator=self.generator)

    def views(self, n: int, d: int) -> tuple[Tensor, Tensor]:
        """As two views of a sample are: alike, not equal."""
        anchors = self.normal(n, d)
        return anchors, anchors + self.normal(n, d)

    def ready(self, x: Tensor, *, grad: bool = True) -> Tensor:
        """The tensor as an input, which requires a gradient where a training step differentiates by it."""
        return x.to(device=self.device, dtype=self.dtype).requires_grad_(grad)


@dataclass(frozen=True)
class Peer:
    """How another library does the op, and what it is held against where that is not all of the op."""

    step: Callable[[Inputs], Step]
    note: str | None = None
    """A sentence on what it leaves out or does in the op's place."""
    inputs: Callable[[Inputs], Inputs] = lambda inputs: inputs
    exact: Exact | None = None
    """The truth of another objective; None where it is that of the op."""


@dataclass(frozen=True)
class Family:
    """Ops that share a file of results, a picture and a table."""

    name: str
    title: str
    intro: str
    """The sentence above its table in benchmarks/RESULTS.md."""
    columns: tuple[str, ...] = ("loss, N × D", "dtype")
    """The head of the cells that `Case.label` gives, and of the dtype."""


def _nothing(shape: Shape) -> None:
    return None


def _unnamed(shape: Shape) -> str:
    return ""


def _plain(shape: Shape) -> tuple[str, ...]:
    return tuple(map(str, shape))


@dataclass(frozen=True)
class Case:
    """One op of the benchmark. A ``shape`` has the sizes that ``dimensions`` names, in that order."""

    op: str
    """The name on the command line and in records; that of the function."""
    family: Family
    title: str
    """The name on pages and pictures."""
    dimensions: tuple[str, ...]
    inputs: Callable[[Shape, Draw], dict[str, Any]]
    """The tensors by argument name."""
    ours: Callable[..., Tensor | None]
    """The library's function on the inputs and ``backend``."""
    eager: Callable[..., Tensor | None]
    """The best plain PyTorch that anyone would write, on the inputs."""
    exact: Exact
    """The truth; it shares no code with the others."""
    cost: Callable[[Shape, torch.dtype], Cost]
    """Fewest operations and bytes of one forward and one backward; nothing is repeated, exponentials do not count."""
    path: Callable[[str, Shape, torch.dtype, torch.device], str]
    """How a backend computes it, in words for `explain`."""
    pairs: Callable[[Shape], int]
    """How many numbers a dense path stores: logits of rows, correlations of columns, numbers of tokens or rows."""
    stored: str = "logits"
    """The name of those numbers; nothing where there is no dense path."""
    sizes: tuple[Size, ...] = ()
    update: bool = False
    """Whether it changes its targets in place, and so has no backward."""
    dual: Callable[..., Tensor] | None = None
    """Plain PyTorch with the identity that our kernels use, for fewer rows than features."""
    peers: Mapping[str, Peer | str] = field(default_factory=dict)
    """How each other library does it, or the sentence why it does not."""
    workspace: Callable[[Shape, torch.dtype], str] | None = None
    """What the C++ forward leaves for the backward, in words."""
    not_compiled: Callable[[Shape], str | None] = _nothing
    """The sentence why torch.compile is not tried at this shape."""
    shape_note: str = ""
    """What the dimensions are, for the help of `explain`."""
    within: tuple[tuple[str, str], ...] = ()
    """Pairs of dimensions of which the first is at most the second."""
    wording: str = ""
    """Sizes and dtype in words, as a template over the dimensions, ``{named}`` and ``{dtype}``."""
    printed: Callable[[Shape], tuple[str, ...]] = _plain
    """Sizes as names of workloads have them."""
    named: Callable[[Shape], str] = _unnamed
    """What has this shape, such as a network; nothing where shapes have no names."""
    row: Callable[[Shape], tuple[str, ...]] | None = None
    """The first cells of its row in the table of results; by default title and shape."""
    work: Callable[[Shape], int] | None = None
    """By what pictures order sizes; by default the operations, or the bytes where there are none."""

    @property
    def phases(self) -> tuple[str, ...]:
        """What is timed of a step."""
        return ("fwd", "fwd+bwd") if self.update else ("fwd", "bwd", "fwd+bwd")

    def described(self, shape: Shape, dtype: str) -> str:
        """Sizes and dtype in words, such as ``N=64 per view, D=128, float32``."""
        template = self.wording or f"{', '.join(f'{name}={{{name}}}' for name in self.dimensions)}, {{dtype}}"
        sizes = dict(zip(self.dimensions, shape, strict=True))
        return template.format(**sizes, named=self.named(shape), dtype=dtype)

    def titled(self, shape: Shape) -> str:
        """The title, with the name of the shape where it has one."""
        return ", ".join(filter(None, (self.title, self.named(shape))))

    def label(self, shape: Shape) -> tuple[str, ...]:
        """The first cells of its row in the table of results."""
        return self.row(shape) if self.row else (f"{self.title} {' × '.join(map(str, shape))}",)

    def order(self, shape: Shape) -> int:
        """How much work the shape is, for the order in pictures."""
        if self.work is not None:
            return self.work(shape)
        cost = self.cost(shape, torch.float32)
        return cost.operations or cost.bytes


_ARITHMETIC = {
    torch.float32: "float32 multiply-adds",
    torch.float64: "float64 multiply-adds",
    torch.bfloat16: "float32 multiply-adds on widened rows",
    torch.float16: "float32 multiply-adds on widened rows",
}
_BF16_ARITHMETIC = {
    "avx512bf16": "bfloat16 pair products, summed in float32",
    "amx": "bfloat16 tiles, summed in float32",
}


def tiles(dtype: torch.dtype) -> str:
    """With which instructions the C++ kernels multiply."""
    isa = _C.isa()
    arithmetic = _BF16_ARITHMETIC.get(isa) if dtype == torch.bfloat16 else None
    return f"Tiles in {isa}: {arithmetic or _ARITHMETIC[dtype]}."


def bytes_in_words(count: int) -> str:
    """
    >>> bytes_in_words(3 << 20)
    '3 MiB'
    """
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"
