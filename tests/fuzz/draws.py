# SPDX-License-Identifier: Apache-2.0
"""A random call, and what it is drawn from. One number draws a whole call, so that the number alone repeats it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64)
SIZES = (1, 2, 3, 3, 5, 7, 16, 17, 33, 64)


@dataclass
class Call:
    """One call: ``ours(*tensors, backend)`` should give what ``exact(*tensors)`` gives, and so should gradients."""

    tensors: Sequence[Tensor | None]
    ours: Callable[..., Any]
    exact: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    # Some gradient is a sum of terms otherwise than the formula: infinity times zero in one may turn infinity into NaN.
    split: bool = False
    # A further error of the value that a docstring allows, given the tensors.
    slack: Callable[[Sequence[Any]], float] = lambda tensors: 0.0
    # A number's gradient may be the difference of two sums of this size.
    cancels: float = 0.0
    # Terms of a gradient, of this size, may cancel to nothing: to the gradient of a teacher that is sure.
    vanishes: float = 0.0
    # Gradients of this size are rounded to the dtype of the call before they are added.
    added: float = 0.0


class Draw:
    """The random numbers of one case."""

    def __init__(
        self, number: int, poisoned: bool, dtypes: Sequence[torch.dtype], others: torch.dtype | None = None
    ) -> None:
        """``others`` is the dtype of all tensors after the first, if it is another one."""
        self.dtypes = dtypes
        self.random, self.generator = random.Random(number), torch.Generator().manual_seed(number)
        self.poisoned, self.dtype, self.others, self.first = poisoned, self.random.choice(dtypes), others, True
        # Infinite entries make weights of zero count, so all of them must be zero, or none, in every dtype.
        self.scales = (1.0,) if poisoned else (1.0, 1.0, 1.0, 1e-3, 20.0, 0.0)

    def one_of(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def size(self, least: int = 1) -> int:
        return max(least, self.random.choice(SIZES))

    def rows(self, least: int = 1) -> int:
        """Draw a number of rows as `size` does, and now and then more than a kernel takes at once."""
        return 210 if self.random.random() < 0.04 else self.size(least)

    def tensor(self, *shape: int, grad: bool = True, dtype: torch.dtype | None = None, wild: bool = True) -> Tensor:
        """Draw normal numbers. If ``wild``, they are transposed, expanded, unaligned or have gaps."""
        layout = self.one_of("plain", "plain", "transposed", "gaps", "beside", "expanded") if wild else "plain"
        full = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        full = full * self.one_of(*self.scales) if wild else full
        if layout == "expanded":
            full = full[:1].expand(shape).clone()
        if self.poisoned and wild and full.numel() and self.random.random() < 0.7:
            for _ in range(self.one_of(1, 1, 2, 3)):
                place = tuple(self.random.randrange(size) for size in shape)
                full[place] = self.one_of(torch.inf, torch.inf, -torch.inf, torch.nan)
        drawn = self.dtype if self.first or self.others is None else self.others
        full, self.first = full.to(dtype or drawn), False
        if layout == "transposed":
            full = full.transpose(-1, -2).contiguous().transpose(-1, -2)
        elif layout == "gaps":
            full = torch.stack([full, torch.full_like(full, torch.nan)], -1).flatten(-2)[..., ::2]
        elif layout == "beside":
            full = torch.cat([full.new_zeros(1), full.flatten()])[1:].view(shape)
        elif layout == "expanded" and not self.poisoned:
            full = full[:1].expand(shape)
        return full.requires_grad_(grad)

    def scalar(self, *values: float) -> float | Tensor:
        """Draw a number, or a tensor that gets its gradient."""
        value = self.one_of(*values)
        if self.random.random() < 0.5:
            return value
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        return torch.full(self.one_of((), (1,)), value, dtype=wide, requires_grad=True)

    def index(self, *shape: int, high: int) -> Tensor:
        return torch.randint(0, high, shape, generator=self.generator).to(self.one_of(torch.int64, torch.int32))

    def permutations(self, batch: int, length: int) -> Tensor:
        return torch.rand(batch, length, generator=self.generator).argsort(1)


def reduced(losses: Tensor, reduction: str) -> Tensor:
    return {"mean": losses.mean, "sum": losses.sum, "none": lambda: losses}[reduction]()


def temperatures(draw: Draw, normalize: bool) -> tuple[float, ...]:
    """Draw temperatures, mild ones for rows that are not normalised. Their products reach thousands, where float32 is
    off by 1e-4 in a logit, and as much in its exponential.
    """
    if draw.poisoned:
        return 0.5, 2.0, -1.0
    return (0.1, 0.5, 2.0, -0.3, 0.02, 100.0) if normalize else (50.0, 200.0, -100.0)


def size(scalar: float | Tensor) -> float:
    return abs(float(scalar.detach() if isinstance(scalar, Tensor) else scalar))


def longest(rows: Tensor) -> float:
    """The largest norm of a row that is a number; 0 of none."""
    norms = rows.detach().double().norm(dim=1)
    return float(norms[norms.isfinite()].amax()) if norms.isfinite().any() else 0.0


def pair(draw: Draw, least: int = 1, few: int = 1) -> tuple[Tensor, Tensor]:
    n, d = draw.rows(least), draw.size(few)
    return draw.tensor(n, d), draw.tensor(n, d, grad=draw.one_of(True, True, False))
