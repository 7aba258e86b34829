# SPDX-License-Identifier: Apache-2.0
"""List losses of features and of tokens: cosines, correlations, shapes of a batch, and errors of what was masked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import formulas
import torch
from listed_loss import LARGE, SMALL, Inputs, Loss, views
from torch import Tensor

import sslkernels.functional as SF


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


def _patches(rows: int, features: int) -> Inputs:
    x = torch.randn(2, rows, features, dtype=torch.float64) / 2
    return {"x": x, "target": x + torch.randn_like(x) / 4}


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


FEATURES: dict[str, Loss] = {
    "koleo": Loss(SF.koleo, views("x"), formulas.koleo, faint=(4 * LARGE, {})),
    "gram_loss": Loss(SF.gram_loss, _patches, formulas.gram_loss, constants=("target",), faint=(4 * LARGE, {})),
    "gram_loss of similarities above zero": Loss(
        SF.gram_loss,
        _patches,
        formulas.gram_loss,
        {"clip": "both", "normalize": False},
        constants=("target",),
        faint=(2.0**-6, {}),
    ),
    "negative_cosine_similarity": Loss(
        SF.negative_cosine_similarity, views("x0", "x1"), _cosine(1.0, 0.0, 1e-8), faint=(4 * LARGE, {})
    ),
    "byol_loss": Loss(SF.byol_loss, views("prediction", "target"), _cosine(2.0, 2.0, 1e-12), faint=(4 * LARGE, {})),
    "barlow_twins": Loss(SF.barlow_twins, views("z0", "z1"), _barlow, faint=(1.0, {"eps": 1e6})),
    "barlow_twins on the side of samples": Loss(
        SF.barlow_twins, views("z0", "z1"), _barlow, {"side": "samples"}, faint=(1.0, {"eps": 1e6})
    ),
    "barlow_twins of stable-pretraining": Loss(
        SF.barlow_twins,
        views("z0", "z1"),
        _barlow,
        {"convention": "stable-pretraining"},
        faint=(1.0, {"eps": 1e3}),
    ),
    "vicreg": Loss(SF.vicreg, views("z0", "z1"), _vicreg, faint=(1.0, {"sim": SMALL, "var": SMALL, "cov": SMALL})),
    "vicreg on the side of samples": Loss(
        SF.vicreg,
        views("z0", "z1"),
        _vicreg,
        {"side": "samples"},
        faint=(1.0, {"sim": SMALL, "var": SMALL, "cov": SMALL}),
    ),
    "vcreg": Loss(
        SF.vcreg,
        views("z", size=0.7),
        lambda z, var=25.0, cov=1.0: formulas.vcreg(z, var, cov, 1e-4),
        faint=(1.0, {"var": SMALL, "cov": SMALL}),
    ),
    "vibcreg": Loss(
        SF.vibcreg,
        views("z0", "z1", size=0.7),
        lambda z0, z1, sim=25.0, var=25.0, cov=200.0: formulas.vibcreg(z0, z1, sim, var, cov, 1e-4),
        faint=(1.0, {"sim": SMALL, "var": SMALL, "cov": SMALL}),
    ),
    "variance_hinge": Loss(
        SF.variance_hinge,
        views("z", size=0.5),
        lambda z, eps=1e-4: formulas.variance_hinge(z, eps),
        faint=(SMALL, {"eps": 0.5}),
    ),
    "covariance_penalty": Loss(
        SF.covariance_penalty, views("z"), formulas.covariance_penalty, faint=(2.0**-5, {})
    ),
    "frossl": Loss(
        SF.frossl,
        views("view0", "view1", "view2"),
        lambda **views: formulas.frossl(list(views.values()), 1.0),
        faint=(4 * LARGE, {}),
    ),
    "tico": Loss(
        SF.tico,
        lambda rows, features: {
            **views("z0", "z1")(rows, features),
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
