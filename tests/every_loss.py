# SPDX-License-Identifier: Apache-2.0
"""List every public loss once: how it is called, the inputs that get a gradient, and its formula in plain PyTorch.

A contract that all losses keep is tested over `EVERY_LOSS`; a public loss that is not listed fails test_one_call.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import formulas
import torch
from torch import Tensor

import sslkernels.functional as SF

Inputs = dict[str, Tensor]
ROWS, FEATURES = 12, 7
# These inputs stay in the dtype of the sums.
SCALARS = ("temperature", "logit_scale", "logit_bias", "mask")


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
        leaves = {name: x.detach().double().requires_grad_(x.requires_grad) for name, x in inputs.items()}
        reduction = options.pop("reduction", "mean")
        losses = self.formula(**leaves, **{**self.options, **options})
        value = losses.sum() if reduction == "sum" else losses.mean()
        wanted = [name for name, leaf in leaves.items() if leaf.requires_grad]
        slopes = torch.autograd.grad(
            value, [leaves[name] for name in wanted], allow_unused=True, materialize_grads=True
        )
        return value.detach(), dict(zip(wanted, slopes, strict=True))

    def inputs(self, dtype: torch.dtype = torch.float32, rows: int = ROWS, features: int = FEATURES) -> Inputs:
        return self._leaves(self.draw(rows, features), dtype)

    def faint_inputs(self, dtype: torch.dtype) -> tuple[Inputs, dict[str, float]]:
        """Return inputs and options with which the gradient is faint."""
        size, changed = self.faint
        drawn = self.draw(64, 16)
        for name, x in drawn.items():
            if name in changed:
                drawn[name] = torch.full_like(x, changed[name])
            elif x.dim() > 1 and name not in ("mask", "slices", "covariance"):
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
            for name, x in drawn.items()
        }


def gradients(value: Tensor, inputs: Inputs, *grad: Tensor, **options: Any) -> Inputs:
    """Differentiate the value with respect to every input that requires a gradient."""
    wanted = [name for name, x in inputs.items() if x.requires_grad]
    found = torch.autograd.grad(value, [inputs[name] for name in wanted], *grad, **options)
    return dict(zip(wanted, found, strict=True))


def copied(inputs: Inputs) -> Inputs:
    return {name: x.detach().clone().requires_grad_(x.requires_grad) for name, x in inputs.items()}


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _views(*names: str, size: float = 1.0, **numbers: float) -> Callable[[int, int], Inputs]:
    """Draw views of the same rows, each with noise of its own, beside numbers."""

    def draw(rows: int, features: int) -> Inputs:
        common = torch.randn(rows, features, dtype=torch.float64)
        views = {name: size * (common + 0.5 * torch.randn_like(common)) for name in names}
        return {**views, **{name: _number(value) for name, value in numbers.items()}}

    return draw


def _queue(rows: int, features: int) -> Inputs:
    inputs = _views("query", "key", temperature=0.3)(rows, features)
    return {**inputs, "negatives": formulas.unit(torch.randn(rows + 5, features, dtype=torch.float64))}


def _slices(features: int) -> Tensor:
    return formulas.unit(torch.randn(5, features, dtype=torch.float64)).T.contiguous()


def _samples(rows: int, features: int) -> Inputs:
    return {"z": torch.randn(rows, features, dtype=torch.float64), "slices": _slices(features)}


def _crops(rows: int, features: int) -> Inputs:
    views = torch.randn(5, rows, features, dtype=torch.float64)
    return {"local_z": views[:3].clone(), "global_z": views[3:].clone(), "slices": _slices(features)}


def _tokens(rows: int, features: int) -> Inputs:
    pred, target = torch.randn(2, 2, rows, features, dtype=torch.float64)
    mask = (torch.rand(2, rows) < 0.6).double()
    mask[:, 0] = 1
    return {"pred": pred.clone(), "target": target.clone(), "mask": mask}


def _masked(norm: str, beta: float | None) -> Callable[..., Tensor]:
    def formula(pred: Tensor, target: Tensor, mask: Tensor, beta: float | None = beta, **_: Any) -> Tensor:
        return formulas.masked(pred.flatten(0, 1), target.flatten(0, 1), mask.flatten(), norm, beta)

    return formula


def _cosine(scale: float, shift: float, eps: float) -> Callable[..., Tensor]:
    return lambda **sides: shift - scale * formulas.cosine(*sides.values(), eps)


def _barlow(z0: Tensor, z1: Tensor, lambd: float = 5e-3, eps: float = 1e-5, **options: Any) -> Tensor:
    return formulas.barlow_twins(z0, z1, lambd, eps, options.get("convention", "official"))


def _vicreg(z0: Tensor, z1: Tensor, sim: float = 25.0, var: float = 25.0, cov: float = 1.0, **_: Any) -> Tensor:
    return formulas.vicreg(z0, z1, sim, var, cov, 1e-4)


def _info_nce(query: Tensor, key: Tensor, temperature: Tensor, negatives: Any = None, symmetric: Any = False) -> Tensor:
    return formulas.info_nce(query, key, negatives, temperature, True, symmetric)


LARGE, SMALL = 2.0**10, 2.0**-12
FAINT_ROWS = LARGE, {"temperature": 100.0}
EVERY_LOSS: dict[str, Loss] = {
    "nt_xent": Loss(
        SF.nt_xent,
        _views("z0", "z1", temperature=0.3),
        lambda z0, z1, temperature: formulas.nt_xent(z0, z1, temperature, True),
        faint=FAINT_ROWS,
    ),
    "nt_xent of rows as they are": Loss(
        SF.nt_xent,
        _views("z0", "z1", temperature=2.0),
        lambda z0, z1, temperature, normalize: formulas.nt_xent(z0, z1, temperature, normalize),
        {"normalize": False},
        faint=(2.0**-3, {"temperature": 1e4}),
    ),
    "info_nce": Loss(SF.info_nce, _views("query", "key", temperature=0.3), _info_nce, faint=FAINT_ROWS),
    "info_nce, symmetric": Loss(
        SF.info_nce, _views("query", "key", temperature=0.3), _info_nce, {"symmetric": True}, faint=FAINT_ROWS
    ),
    "info_nce with a queue": Loss(SF.info_nce, _queue, _info_nce, faint=FAINT_ROWS),
    "info_nce with a frozen queue": Loss(
        SF.info_nce, _queue, _info_nce, constants=("negatives",), faint=FAINT_ROWS
    ),
    "clip_loss": Loss(
        SF.clip_loss,
        _views("image", "text", size=0.5, logit_scale=2.0, logit_bias=-1.0),
        lambda image, text, logit_scale, logit_bias: formulas.clip_loss(image, text, logit_scale) + 0 * logit_bias,
        faint=(2.0**-6, {"logit_scale": 1e-3}),
    ),
    "negative_cosine_similarity": Loss(
        SF.negative_cosine_similarity, _views("x0", "x1"), _cosine(1.0, 0.0, 1e-8), faint=(4 * LARGE, {})
    ),
    "byol_loss": Loss(SF.byol_loss, _views("prediction", "target"), _cosine(2.0, 2.0, 1e-12), faint=(4 * LARGE, {})),
    "barlow_twins": Loss(SF.barlow_twins, _views("z0", "z1"), _barlow, faint=(1.0, {"eps": 1e6})),
    "barlow_twins on the side of samples": Loss(
        SF.barlow_twins, _views("z0", "z1"), _barlow, {"side": "samples"}, faint=(1.0, {"eps": 1e6})
    ),
    "barlow_twins of stable-pretraining": Loss(
        SF.barlow_twins,
        _views("z0", "z1"),
        _barlow,
        {"convention": "stable-pretraining"},
        faint=(1.0, {"eps": 1e3}),
    ),
    "vicreg": Loss(SF.vicreg, _views("z0", "z1"), _vicreg, faint=(1.0, {"sim": SMALL, "var": SMALL, "cov": SMALL})),
    "vicreg on the side of samples": Loss(
        SF.vicreg,
        _views("z0", "z1"),
        _vicreg,
        {"side": "samples"},
        faint=(1.0, {"sim": SMALL, "var": SMALL, "cov": SMALL}),
    ),
    "vcreg": Loss(
        SF.vcreg,
        _views("z", size=0.7),
        lambda z, var=25.0, cov=1.0: formulas.vcreg(z, var, cov, 1e-4),
        faint=(1.0, {"var": SMALL, "cov": SMALL}),
    ),
    "vibcreg": Loss(
        SF.vibcreg,
        _views("z0", "z1", size=0.7),
        lambda z0, z1, sim=25.0, var=25.0, cov=200.0: formulas.vibcreg(z0, z1, sim, var, cov, 1e-4),
        faint=(1.0, {"sim": SMALL, "var": SMALL, "cov": SMALL}),
    ),
    "variance_hinge": Loss(
        SF.variance_hinge,
        _views("z", size=0.5),
        lambda z, eps=1e-4: formulas.variance_hinge(z, eps),
        faint=(SMALL, {"eps": 0.5}),
    ),
    "covariance_penalty": Loss(
        SF.covariance_penalty, _views("z"), formulas.covariance_penalty, faint=(2.0**-5, {})
    ),
    "frossl": Loss(
        SF.frossl,
        _views("view0", "view1", "view2"),
        lambda **views: formulas.frossl(list(views.values()), 1.0),
        faint=(4 * LARGE, {}),
    ),
    "tico": Loss(
        SF.tico,
        lambda rows, features: {
            **_views("z0", "z1")(rows, features),
            "covariance": torch.eye(features, dtype=torch.float64),
        },
        lambda z0, z1, covariance, rho: formulas.tico(z0, z1, covariance, 0.9, rho)[0],
        {"rho": 0.5},
        constants=("covariance",),
        faint=(LARGE, {"rho": 0.125}),
    ),
    "sigreg": Loss(
        SF.sigreg,
        _samples,
        lambda z, slices, knots, t_max=3.0: formulas.sigreg(z, slices, knots, t_max),
        {"knots": 9},
        constants=("slices",),
        faint=(1.0, {"t_max": 0.02}),
    ),
    "lejepa": Loss(
        SF.lejepa,
        _crops,
        lambda local_z, global_z, slices, knots, weight, t_max=3.0: formulas.lejepa(
            local_z, global_z, slices, weight, knots, t_max
        ),
        {"knots": 9, "weight": 0.3},
        constants=("slices",),
        faint=(SMALL, {"t_max": 0.02}),
    ),
    "masked_mse": Loss(
        SF.masked_mse, _tokens, _masked("none", None), constants=("target", "mask"), faint=(SMALL, {})
    ),
    "masked_mse of normal targets": Loss(
        SF.masked_mse,
        _tokens,
        _masked("mae", None),
        {"normalize_target": True},
        constants=("target", "mask"),
        faint=(1.0, {"mask": 2.0**-18}),
    ),
    "masked_smooth_l1": Loss(
        SF.masked_smooth_l1, _tokens, _masked("none", 1.0), constants=("target", "mask"), faint=(1.0, {"beta": 4096.0})
    ),
    "masked_smooth_l1 of normal targets": Loss(
        SF.masked_smooth_l1,
        _tokens,
        _masked("layer", 1.0),
        {"normalize_target": True},
        constants=("target", "mask"),
        faint=(1.0, {"beta": 4096.0}),
    ),
}  # fmt: skip
