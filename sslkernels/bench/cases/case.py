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
Kind = Literal[
    "eager",
    "compile",
    "lightly",
    "memeff",
    "siglip",
    "liger",
    "flash_sinkhorn",
    "faiss",
    "sklearn",
    "pml",
    "st",
    "floor",
    "seconds",
    "host",
    "bytes",
]
Shape = tuple[int, ...]
# Tensors by argument name; an update has lists of them.
Inputs = Mapping[str, Any]
# A forward pass returns the loss, or the tokens that were moved, with its graph. An update returns nothing.
Step = Callable[[], Any]
# The textbook formula in the dtype of the inputs, with at most so many pairs in memory at once. An update's yields the
# targets one by one.
Exact = Callable[[Inputs, int], Any]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
F32, BF16 = "float32", "bfloat16"


@dataclass(frozen=True)
class Cost:
    """The work that nobody can avoid: operations on the pairs, and bytes of inputs read and gradients written."""

    forward: int
    backward: int
    bytes: int

    @property
    def operations(self) -> int:
        return self.forward + self.backward


@dataclass(frozen=True)
class Target:
    """A bound that forward and backward of ours have to keep on ``device``.

    ``value`` is the least ratio to another provider, the least share of the floor, the most seconds (on a GPU the
    device's own, or as the host sees them), or the most bytes above the inputs.
    """

    dtype: str
    kind: Kind
    value: float
    device: str = "cpu"


def in_both(kind: Kind, value: float) -> tuple[Target, ...]:
    """The same target on a CPU in every dtype."""
    return tuple(Target(dtype, kind, value) for dtype in DTYPES)


def on_gpu(kind: Kind, value: float) -> tuple[Target, ...]:
    """The same target on a GPU in every dtype."""
    return tuple(Target(dtype, kind, value, "cuda") for dtype in DTYPES)


def targets(*stated: Target) -> tuple[Target, ...]:
    """Add to the stated targets: ours is as fast as eager, and on a GPU as fast as torch.compile too.

    A stated target replaces the one of the same dtype, kind and device.
    """
    least = [*in_both("eager", 1.0), *on_gpu("eager", 1.0), *on_gpu("compile", 1.0)]
    known = {(target.dtype, target.kind, target.device) for target in stated}
    return (*(target for target in least if (target.dtype, target.kind, target.device) not in known), *stated)


@dataclass(frozen=True)
class Size:
    """One shape that is timed, the preset it belongs to, and what ours has to reach there."""

    shape: Shape
    preset: Preset = "small"
    targets: tuple[Target, ...] = ()
    recipe_too: bool = False
    """The preset for a GPU, recipe, has this shape as well."""


@dataclass(frozen=True)
class Draw:
    """Draws random tensors of one dtype for one device. Generators of the same seed and device draw the same."""

    dtype: torch.dtype
    device: torch.device | str
    generator: torch.Generator

    def normal(self, *shape: int) -> Tensor:
        """Draw from the standard normal, in float32, where the generator is."""
        return torch.randn(shape, generator=self.generator, device=self.generator.device)

    def uniform(self, *shape: int) -> Tensor:
        """Draw from between 0 and 1, in float32, where the generator is."""
        return torch.rand(shape, generator=self.generator, device=self.generator.device)

    def views(self, n: int, d: int) -> tuple[Tensor, Tensor]:
        """Draw N rows and their partners. They are alike but not equal, as two views of a sample are."""
        anchors = self.normal(n, d)
        return anchors, anchors + self.normal(n, d)

    def ready(self, x: Tensor, *, grad: bool = True) -> Tensor:
        """Make it an input. It requires a gradient where a training step would differentiate by it."""
        return x.to(device=self.device, dtype=self.dtype).requires_grad_(grad)


@dataclass(frozen=True)
class Peer:
    """How another library does the op. It may do less than the op, or something in its place."""

    step: Callable[[Inputs], Step]
    note: str | None = None
    """A sentence that says what it leaves out, or what it does in the op's place."""
    inputs: Callable[[Inputs], Inputs] = lambda inputs: inputs
    exact: Exact | None = None
    """The truth of what it does in the op's place. None where it does the op."""


@dataclass(frozen=True)
class Family:
    """Ops that share a file of results, a picture and a table."""

    name: str
    title: str
    intro: str
    """The sentence above its table in benchmarks/RESULTS.md."""
    columns: tuple[str, ...] = ("loss, N × D", "dtype")
    """Heads of the first columns: those of the cells that `Case.label` gives, and the dtype's."""


def _nothing(shape: Shape) -> None:
    return None


def _unnamed(shape: Shape) -> str:
    return ""


def _plain(shape: Shape) -> tuple[str, ...]:
    return tuple(map(str, shape))


@dataclass(frozen=True)
class Case:
    """One op of the benchmark. Every ``shape`` here has the sizes that ``dimensions`` names, in that order."""

    op: str
    """Its name on the command line and in records, which is that of the function."""
    family: Family
    title: str
    """Its name on pages and pictures."""
    dimensions: tuple[str, ...]
    inputs: Callable[[Shape, Draw], dict[str, Any]]
    """The tensors by argument name."""
    ours: Callable[..., Tensor | None]
    """The library's function. It takes the inputs and ``backend``."""
    eager: Callable[..., Tensor | None]
    """The best plain PyTorch that anyone would write. It takes the inputs."""
    exact: Exact
    """The truth for the gate. It shares no code with ours or eager."""
    cost: Callable[[Shape, torch.dtype], Cost]
    """The fewest operations and bytes of a forward and a backward. Nothing is repeated; exponentials do not count."""
    path: Callable[[str, Shape, torch.dtype, torch.device], str]
    """How a backend computes it, in words for `explain`."""
    pairs: Callable[[Shape], int]
    """How many numbers a dense path stores: logits, correlations of columns, numbers of tokens or rows."""
    stored: str = "logits"
    """The name of those numbers. It is empty where there is no dense path."""
    sizes: tuple[Size, ...] = ()
    update: bool = False
    """True where the op changes its targets in place, and so has no backward."""
    search: bool = False
    """True where the op has no gradient and changes nothing, so that its forward is all there is."""
    dual: Callable[..., Tensor] | None = None
    """Plain PyTorch with the identity that our kernels use for fewer rows than features."""
    peers: Mapping[str, Peer | str] = field(default_factory=dict)
    """How each other library does it, or a sentence that says why it does not."""
    workspace: Callable[[Shape, torch.dtype], str] | None = None
    """A sentence about the numbers that the C++ forward leaves for the backward."""
    not_compiled: Callable[[Shape], str | None] = _nothing
    """A sentence that says why torch.compile is not tried at this shape."""
    not_recorded: str | None = None
    """A sentence that says why its launches cannot be told without a GPU: the host reads the device's numbers."""
    shape_note: str = ""
    """A word on the dimensions, for the help of `explain`."""
    within: tuple[tuple[str, str], ...] = ()
    """Pairs of dimensions; the first is at most the second."""
    wording: str = ""
    """A template that puts sizes and dtype into words. It may name the dimensions, ``{named}`` and ``{dtype}``."""
    printed: Callable[[Shape], tuple[str, ...]] = _plain
    """The sizes as the names of workloads have them."""
    named: Callable[[Shape], str] = _unnamed
    """The name of a shape, such as that of a network. It is empty where shapes have none."""
    row: Callable[[Shape], tuple[str, ...]] | None = None
    """The first cells of its row in the table of results. They are title and shape unless it is given."""
    work: Callable[[Shape], int] | None = None
    """The work by which pictures order sizes. It is the cost in operations, or else in bytes, unless it is given."""

    @property
    def phases(self) -> tuple[str, ...]:
        """The parts of a step that are timed."""
        return ("fwd", "fwd+bwd") if self.update or self.search else ("fwd", "bwd", "fwd+bwd")

    def described(self, shape: Shape, dtype: str) -> str:
        """Put sizes and dtype into words, such as ``N=64 per view, D=128, float32``."""
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
        """How much work the shape is. Pictures order sizes by it."""
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
    """Say with which instructions the C++ kernels multiply."""
    isa = _C.isa()
    arithmetic = _BF16_ARITHMETIC.get(isa) if dtype == torch.bfloat16 else None
    return f"Tiles in {isa}: {arithmetic or _ARITHMETIC[dtype]}."


def bytes_in_words(count: int) -> str:
    """Write a number of bytes with its unit.

    >>> bytes_in_words(3 << 20)
    '3 MiB'
    """
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"
