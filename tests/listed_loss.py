# SPDX-License-Identifier: Apache-2.0
"""Say what a public loss is to the tests: how it is called, the inputs that get a gradient, and its formula.

Lists of them are in contrastive_losses.py, target_losses.py and feature_losses.py; every_loss.py joins these.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Tensor]
ROWS, FEATURES = 12, 7
# These inputs stay in the dtype of the sums.
SCALARS = ("temperature", "logit_scale", "logit_bias", "teacher_logit_scale", "mask", "scale", "bias", "prior")
# These keep their size where rows are made larger. With a larger bank a teacher's sharp targets would not be those that
# rows rounded to float16 have.
SIZED = ("mask", "slices", "covariance", "weight", "bank")
LARGE, SMALL = 2.0**10, 2.0**-12
FAINT_ROWS = LARGE, {"temperature": 100.0}


@dataclass(frozen=True)
class Loss:
    """One loss in one of its forms. ``formula`` takes what the call takes, in float64."""

    function: Callable[..., Any]
    draw: Callable[[int, int], Inputs]  # float64 inputs of so many rows and features
    formula: Callable[..., Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[str, ...] = ()  # inputs that get no gradient
    # Rows of this size, and these inputs and options, make a gradient that float16 loses unless it is scaled up first.
    faint: tuple[float, Mapping[str, float]] = (1.0, {})

    def __call__(self, inputs: Inputs, **options: Any) -> Tensor:
        given: dict[str, Any] = dict(inputs)
        if views := [given.pop(name) for name in inputs if name.startswith("view")]:
            given["views"] = views
        value = self.function(**given, **{**self.options, **options})
        return value[0] if isinstance(value, tuple) else value

    def exact(self, inputs: Inputs, **options: Any) -> tuple[Tensor, Inputs]:
        """Compute the value in float64, and the gradient of every input that requires one."""
        leaves = {
            name: x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x
            for name, x in inputs.items()
        }
        reduction = options.pop("reduction", "mean")
        losses = self.formula(**leaves, **{**self.options, **options})
        value = losses.sum() if reduction == "sum" else losses.mean()
        wanted = [name for name, leaf in leaves.items() if leaf.requires_grad]
        slopes = torch.autograd.grad(
            value, [leaves[name] for name in wanted], allow_unused=True, materialize_grads=True
        )
        return value.detach(), dict(zip(wanted, slopes, strict=True))

    def spread(self, inputs: Inputs, exact: Tensor, slopes: Inputs) -> dict[str, float]:
        """Measure how far the exact value and gradients move where inputs do by a rounding, many times.

        A clamp may switch and terms may cancel. A kernel rounds rows and the weights that multiply them, so it may be
        twice as far off.
        """
        moved = {name: 0.0 for name in ("value", *slopes)}
        for _ in range(8):
            near = {
                name: x.detach().double() * (1 + torch.finfo(x.dtype).eps * (2 * torch.rand(x.shape) - 1).double())
                if x.is_floating_point()
                else x
                for name, x in inputs.items()
            }
            value, found = self.exact({name: x.requires_grad_(inputs[name].requires_grad) for name, x in near.items()})
            for name, x, wanted in [("value", value, exact), *((name, found[name], slopes[name]) for name in slopes)]:
                moved[name] = max(moved[name], (x - wanted).abs().max().item())
        return moved

    def inputs(self, dtype: torch.dtype = torch.float32, rows: int = ROWS, features: int = FEATURES) -> Inputs:
        return self._leaves(self.draw(rows, features), dtype)

    def faint_inputs(self, dtype: torch.dtype) -> tuple[Inputs, dict[str, float]]:
        """Return inputs and options with which the gradient is faint."""
        size, changed = self.faint
        drawn = self.draw(64, 16)
        for name, x in drawn.items():
            if name in changed:
                drawn[name] = torch.full_like(x, changed[name])
            elif x.dim() > 1 and x.is_floating_point() and name not in SIZED:
                drawn[name] = x * size
        return self._leaves(drawn, dtype), {name: value for name, value in changed.items() if name not in drawn}

    def takes(self, argument: str) -> bool:
        return argument in inspect.signature(self.function).parameters

    def reductions(self) -> tuple[str, ...]:
        return ("mean", "sum") if self.takes("reduction") else ("mean",)

    def _leaves(self, drawn: Inputs, dtype: torch.dtype) -> Inputs:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return {
            name: x.to(wide if name in SCALARS else dtype).requires_grad_(name not in self.constants)
            if x.is_floating_point()
            else x
            for name, x in drawn.items()
        }


def gradients(value: Tensor, inputs: Inputs, *grad: Tensor, **options: Any) -> Inputs:
    """Differentiate the value with respect to every input that requires a gradient."""
    wanted = [name for name, x in inputs.items() if x.requires_grad]
    found = torch.autograd.grad(value, [inputs[name] for name in wanted], *grad, **options)
    return dict(zip(wanted, found, strict=True))


def copied(inputs: Inputs) -> Inputs:
    return {name: x.detach().clone().requires_grad_(x.requires_grad) for name, x in inputs.items()}


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def views(*names: str, size: float = 1.0, **numbers: float) -> Callable[[int, int], Inputs]:
    """Draw views of the same rows, each with noise of its own, beside numbers."""

    def draw(rows: int, features: int) -> Inputs:
        common = torch.randn(rows, features, dtype=torch.float64)
        views = {name: size * (common + 0.5 * torch.randn_like(common)) for name in names}
        return {**views, **{name: number(value) for name, value in numbers.items()}}

    return draw
