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
SCALARS = ("temperature", "logit_scale", "logit_bias", "teacher_logit_scale", "mask", "scale", "bias", "prior")
# These keep their size where rows are made larger. With a larger bank a teacher's sharp targets would not be those that
# rows rounded to float16 have.
SIZED = ("mask", "slices", "covariance", "weight", "bank")


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


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _views(*names: str, size: float = 1.0, **numbers: float) -> Callable[[int, int], Inputs]:
    """Draw views of the same rows, each with noise of its own, beside numbers."""

    def draw(rows: int, features: int) -> Inputs:
        common = torch.randn(rows, features, dtype=torch.float64)
        views = {name: size * (common + 0.5 * torch.randn_like(common)) for name in names}
        return {**views, **{name: _number(value) for name, value in numbers.items()}}

    return draw


def _taught(rows: int, features: int) -> Inputs:
    """Draw images and texts as a student and, in fewer features, a teacher see them.

    They have such a size that no teacher is sure: its gradient would be a difference of equal numbers.
    """
    size = min(0.5, 1.3 * features**-0.5)
    teacher = _views("teacher_image", "teacher_text", size=size, teacher_logit_scale=1.5)(rows, max(features - 2, 1))
    return {**_views("image", "text", size=size, logit_scale=2.0)(rows, features), **teacher}


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


def _patches(rows: int, features: int) -> Inputs:
    x = torch.randn(2, rows, features, dtype=torch.float64) / 2
    return {"x": x, "target": x + torch.randn_like(x) / 4}


def _prototypes(prior: bool) -> Callable[[int, int], Inputs]:
    """Draw rows of which most are near the first of nine prototypes."""

    def draw(rows: int, features: int) -> Inputs:
        weight = torch.randn(9, features, dtype=torch.float64)
        x = weight[torch.arange(rows) % 9 // 2] + torch.randn(rows, features, dtype=torch.float64)
        inputs = {"x": x, "weight": weight, "temperature": _number(0.3)}
        return {**inputs, "prior": torch.rand(9, dtype=torch.float64).softmax(0)} if prior else inputs

    return draw


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


def _sampled(rows: int, features: int) -> Inputs:
    """Draw negatives, of which a row lacks one, has one twice, and has its positive among them."""
    inputs = _views("query", "positive", temperature=0.3)(rows, features)
    pool = torch.randn(rows + 5, features, dtype=torch.float64)
    pool[0] = inputs["positive"][0]
    index = torch.randint(0, rows + 5, (rows, 6))
    index[0] = torch.tensor([0, 1, 1, -1, 2, 3])
    return {**inputs, "pool": pool, "index": index}


def _captions(rows: int, features: int) -> Inputs:
    """Draw clips with captions: three of their own, one of which the last two share, and one without the third."""
    inputs = _views("video", "text", size=0.5, temperature=0.7)(rows, features)
    text = inputs["text"].repeat_interleave(3, 0) + 0.3 * torch.randn(3 * rows, features, dtype=torch.float64)
    positive = torch.arange(3 * rows).view(rows, 3)
    positive[-1, 0], positive[0, 2] = positive[-2, 0], -1
    return {**inputs, "text": text, "positive": positive}


def _distilled(rows: int, features: int) -> Inputs:
    """Draw queries with keys of a teacher, and a bank in which some rows are near them."""
    inputs = _views("query", "key", temperature=0.3)(rows, features)
    bank = torch.cat([inputs["key"][: rows // 2], torch.randn(rows + 5, features, dtype=torch.float64)])
    return {**inputs, "bank": formulas.unit(bank)}


def _multi_label(rows: int, features: int) -> Inputs:
    """Draw queries with two positives each; a row lacks one, and one has the same twice."""
    query = torch.randn(rows, features, dtype=torch.float64)
    dictionary = formulas.unit(torch.cat([query + 0.3 * torch.randn_like(query), torch.randn_like(query)]))
    positive = torch.arange(rows)[:, None] + torch.tensor([0, rows])
    positive[0, 1], positive[1, 1] = -1, positive[1, 0]
    return {
        "query": query,
        "dictionary": dictionary,
        "positive": positive,
        "temperature": _number(0.3),
        "bias": _number(-1.0),
    }


def _assigned(views: int, weighted: bool = False) -> Callable[[int, int], Inputs]:
    """Draw rows of a student near those of its teacher; with weights each follows two, or one, and some none."""

    def draw(rows: int, features: int) -> Inputs:
        teacher = torch.randn(rows, features, dtype=torch.float64)
        student = teacher + 0.5 * torch.randn(views, rows, features, dtype=torch.float64)
        inputs = {"student": student[0] if views == 1 else student, "teacher": teacher}
        inputs |= {"weight": torch.randn(9, features, dtype=torch.float64), "temperature": _number(0.7)}
        if not weighted:
            return {**inputs, "bias": torch.randn(9, dtype=torch.float64)}
        index = (torch.arange(rows)[:, None] + torch.tensor([0, 1])) % rows
        index[0, 1], index[1] = -1, -1
        return {**inputs, "teacher_index": index, "row_weight": torch.rand(rows, dtype=torch.float64)}

    return draw


def _neighbours(weight: bool) -> Callable[[int, int], Inputs]:
    """Draw rows whose neighbours come one after another; one has the same twice, and one has fewer."""

    def draw(rows: int, features: int) -> Inputs:
        z = torch.randn(rows // 3, features, dtype=torch.float64).repeat_interleave(3, 0)[: rows // 3 * 3]
        z = torch.cat([z, torch.randn(rows - len(z), features, dtype=torch.float64)])
        positive = (torch.arange(rows)[:, None] + torch.tensor([1, 2, 5])) % rows
        positive[0, 1], positive[1, 2] = positive[0, 0], -1
        inputs = {"z": z + 0.5 * torch.randn_like(z), "positive": positive, "temperature": _number(0.3)}
        return {**inputs, "weight": torch.rand(rows, 3, dtype=torch.float64)} if weight else inputs

    return draw


def _labelled(rows: int, features: int) -> Inputs:
    """Draw rows of four classes, and one row that is alone in its own."""
    labels = torch.arange(rows) % 4
    labels[-1] = -7
    means = torch.randn(5, features, dtype=torch.float64)
    z = means[labels.clamp_min(0)] + torch.randn(rows, features, dtype=torch.float64)
    return {"z": z, "labels": labels, "temperature": _number(0.3)}


def _classified(bias: bool, scale: float, classes: int = 9) -> Callable[[int, int], Inputs]:
    """Draw rows of some classes, one of them without a target, and nine rows of weights."""

    def draw(rows: int, features: int) -> Inputs:
        x, weight = torch.randn(rows, features, dtype=torch.float64), torch.randn(9, features, dtype=torch.float64)
        target = torch.randint(0, classes, (rows,))
        target[1] = -1
        inputs = {"x": (x + weight[target]) / 2, "weight": weight, "target": target, "scale": _number(scale)}
        return {**inputs, "bias": torch.randn(9, dtype=torch.float64)} if bias else inputs

    return draw


def _info_nce(
    query: Tensor, key: Tensor, temperature: Tensor, negatives: Any = None, symmetric: Any = False, margin: float = 0.0
) -> Tensor:
    return formulas.info_nce(query, key, negatives, temperature, True, symmetric, margin)


LARGE, SMALL = 2.0**10, 2.0**-12
FAINT_ROWS = LARGE, {"temperature": 100.0}
# Where student and teacher are both unsure, the gradient is the small difference of two that are rounded before.
TAUGHT_FAINTLY = 2.0**-6, {"logit_scale": 1e-3, "teacher_logit_scale": 1e4}
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
    "info_nce with a margin": Loss(
        SF.info_nce, _views("query", "key", temperature=0.3), _info_nce, {"symmetric": True, "margin": 0.7},
        faint=FAINT_ROWS,
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
    "clip_distillation": Loss(
        SF.clip_distillation,
        _taught,
        formulas.clip_distillation,
        constants=("teacher_image", "teacher_text", "teacher_logit_scale"),
        faint=TAUGHT_FAINTLY,
    ),
    "clip_distillation with a teacher that learns": Loss(
        SF.clip_distillation,
        _taught,
        formulas.clip_distillation,
        constants=("teacher_logit_scale",),
        faint=TAUGHT_FAINTLY,
    ),
    "siglip_loss": Loss(
        SF.siglip_loss,
        _views("image", "text", size=0.5, logit_scale=2.0, logit_bias=-1.0),
        lambda image, text, logit_scale, logit_bias: formulas.siglip_loss(image, text, logit_scale, logit_bias),
        faint=(2.0**-6, {"logit_scale": 1e-3}),
    ),
    "dcl": Loss(SF.dcl, _views("z0", "z1", temperature=0.3), formulas.dcl, faint=FAINT_ROWS),
    "dclw": Loss(
        SF.dclw, _views("z0", "z1", temperature=0.3), formulas.dcl, {"sigma": 0.5}, faint=FAINT_ROWS
    ),
    "debiased_nt_xent": Loss(
        SF.debiased_nt_xent,
        _views("z0", "z1", temperature=0.3),
        formulas.debiased_nt_xent,
        faint=FAINT_ROWS,
    ),
    "debiased_nt_xent of hard negatives": Loss(
        SF.debiased_nt_xent,
        _views("z0", "z1", temperature=0.3),
        formulas.debiased_nt_xent,
        {"hardness": 1.0, "prior": 0.02},
        faint=FAINT_ROWS,
    ),
    "sup_con": Loss(SF.sup_con, _labelled, formulas.sup_con, constants=("labels",), faint=FAINT_ROWS),
    "sup_con, inner": Loss(
        SF.sup_con,
        _labelled,
        formulas.sup_con,
        {"form": "in", "empty": "zero"},
        constants=("labels",),
        faint=FAINT_ROWS,
    ),
    "linear_cross_entropy": Loss(
        SF.linear_cross_entropy,
        _classified(True, 0.7),
        formulas.linear_cross_entropy,
        constants=("target",),
        faint=(1.0, {"scale": 2.0**-19}),
    ),
    "linear_cross_entropy of cosines with a margin": Loss(
        SF.linear_cross_entropy,
        _classified(False, 5.0),
        formulas.linear_cross_entropy,
        {"normalize": True, "margin": 0.4, "label_smoothing": 0.2},
        constants=("target",),
        faint=(LARGE, {"scale": 0.1}),
    ),
    "linear_cross_entropy of subcenters": Loss(
        SF.linear_cross_entropy,
        _classified(True, 0.7, 3),
        formulas.linear_cross_entropy,
        {"subcenters": 3},
        constants=("target",),
        faint=(1.0, {"scale": 2.0**-19}),
    ),
    "linear_cross_entropy of subcenters with a margin": Loss(
        SF.linear_cross_entropy,
        _classified(False, 5.0, 3),
        formulas.linear_cross_entropy,
        {"normalize": True, "margin": 0.4, "margin_kind": "cos", "subcenters": 3},
        constants=("target",),
        faint=(LARGE, {"scale": 0.1}),
    ),
    "uniformity": Loss(SF.uniformity, _views("z", size=0.5), formulas.uniformity, faint=(2.0**-17, {})),
    "koleo": Loss(SF.koleo, _views("x"), formulas.koleo, faint=(4 * LARGE, {})),
    "gram_loss": Loss(SF.gram_loss, _patches, formulas.gram_loss, constants=("target",), faint=(4 * LARGE, {})),
    "gram_loss of similarities above zero": Loss(
        SF.gram_loss,
        _patches,
        formulas.gram_loss,
        {"clip": "both", "normalize": False},
        constants=("target",),
        faint=(2.0**-6, {}),
    ),
    "mean_entropy": Loss(
        SF.mean_entropy, _prototypes(False), formulas.mean_entropy, faint=(2.0**7, {"temperature": 10.0})
    ),
    "mean_entropy beside a prior": Loss(
        SF.mean_entropy,
        _prototypes(True),
        formulas.mean_entropy,
        constants=("prior",),
        faint=(2.0**7, {"temperature": 10.0}),
    ),
    "alignment": Loss(SF.alignment, _views("z0", "z1", size=0.5), formulas.alignment, faint=(2.0**-18, {})),
    "sampled_info_nce": Loss(
        SF.sampled_info_nce, _sampled, formulas.sampled_info_nce, constants=("index",), faint=FAINT_ROWS
    ),
    "mil_nce": Loss(
        SF.mil_nce, _captions, formulas.mil_nce, constants=("positive",), faint=(2.0**-3, {"temperature": 1e4})
    ),
    "graph_nt_xent": Loss(
        SF.graph_nt_xent, _neighbours(False), formulas.graph_nt_xent, constants=("positive",), faint=FAINT_ROWS
    ),
    "graph_nt_xent with weights": Loss(
        SF.graph_nt_xent, _neighbours(True), formulas.graph_nt_xent, constants=("positive",), faint=FAINT_ROWS
    ),
    # Teachers as sharp as those of the papers move with the rounding of a bfloat16 row.
    "similarity_distillation": Loss(
        SF.similarity_distillation,
        _distilled,
        formulas.similarity_distillation,
        {"target_temperature": 0.1},
        constants=("key", "bank"),
        faint=FAINT_ROWS,
    ),
    "similarity_distillation, mostly of the teacher": Loss(
        SF.similarity_distillation,
        _distilled,
        formulas.similarity_distillation,
        {"coefficient": 0.2, "target_temperature": 0.15},
        constants=("key", "bank"),
        faint=FAINT_ROWS,
    ),
    "ressl": Loss(
        SF.ressl, _distilled, formulas.ressl, {"target_temperature": 0.1}, constants=("key", "bank"), faint=FAINT_ROWS
    ),
    "multi_label_bce": Loss(
        SF.multi_label_bce, _multi_label, formulas.multi_label_bce, constants=("positive",), faint=FAINT_ROWS
    ),
    "prototype_cross_entropy": Loss(
        SF.prototype_cross_entropy,
        _assigned(1),
        formulas.prototype_cross_entropy,
        {"teacher_temperature": 0.5},
        constants=("teacher", "bias"),
        faint=(2.0**-3, {"temperature": 1e5}),
    ),
    "prototype_cross_entropy of views": Loss(
        SF.prototype_cross_entropy,
        _assigned(3),
        formulas.prototype_cross_entropy,
        {"teacher_temperature": 0.5},
        constants=("teacher", "bias"),
        faint=(2.0**-3, {"temperature": 1e5}),
    ),
    "prototype_cross_entropy by an index": Loss(
        SF.prototype_cross_entropy,
        _assigned(1, weighted=True),
        formulas.prototype_cross_entropy,
        {"teacher_temperature": 0.5},
        constants=("teacher", "row_weight"),
        faint=(2.0**-3, {"temperature": 1e6}),
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
