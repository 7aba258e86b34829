# SPDX-License-Identifier: Apache-2.0
"""List losses whose rows belong to classes, to prototypes, or to what a teacher is near to."""

from __future__ import annotations

from collections.abc import Callable

import formulas
import torch
from listed_loss import FAINT_ROWS, LARGE, Inputs, Loss, number, views

import sslkernels.functional as SF


def _labelled(rows: int, features: int) -> Inputs:
    """Draw rows of four classes, and one row that is alone in its own."""
    labels = torch.arange(rows) % 4
    labels[-1] = -7
    means = torch.randn(5, features, dtype=torch.float64)
    z = means[labels.clamp_min(0)] + torch.randn(rows, features, dtype=torch.float64)
    return {"z": z, "labels": labels, "temperature": number(0.3)}


def _classified(bias: bool, scale: float, classes: int = 9) -> Callable[[int, int], Inputs]:
    """Draw rows of some classes, one of them without a target, and nine rows of weights."""

    def draw(rows: int, features: int) -> Inputs:
        x, weight = torch.randn(rows, features, dtype=torch.float64), torch.randn(9, features, dtype=torch.float64)
        target = torch.randint(0, classes, (rows,))
        target[1] = -1
        inputs = {"x": (x + weight[target]) / 2, "weight": weight, "target": target, "scale": number(scale)}
        return {**inputs, "bias": torch.randn(9, dtype=torch.float64)} if bias else inputs

    return draw


def _prototypes(prior: bool) -> Callable[[int, int], Inputs]:
    """Draw rows of which most are near the first of nine prototypes."""

    def draw(rows: int, features: int) -> Inputs:
        weight = torch.randn(9, features, dtype=torch.float64)
        x = weight[torch.arange(rows) % 9 // 2] + torch.randn(rows, features, dtype=torch.float64)
        inputs = {"x": x, "weight": weight, "temperature": number(0.3)}
        return {**inputs, "prior": torch.rand(9, dtype=torch.float64).softmax(0)} if prior else inputs

    return draw


def _distilled(rows: int, features: int) -> Inputs:
    """Draw queries with keys of a teacher, and a bank in which some rows are near them."""
    inputs = views("query", "key", temperature=0.3)(rows, features)
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
        "temperature": number(0.3),
        "bias": number(-1.0),
    }


def _assigned(views: int, weighted: bool = False) -> Callable[[int, int], Inputs]:
    """Draw rows of a student near those of its teacher; with weights each follows two, or one, and some none."""

    def draw(rows: int, features: int) -> Inputs:
        teacher = torch.randn(rows, features, dtype=torch.float64)
        student = teacher + 0.5 * torch.randn(views, rows, features, dtype=torch.float64)
        inputs = {"student": student[0] if views == 1 else student, "teacher": teacher}
        inputs |= {"weight": torch.randn(9, features, dtype=torch.float64), "temperature": number(0.7)}
        if not weighted:
            return {**inputs, "bias": torch.randn(9, dtype=torch.float64)}
        index = (torch.arange(rows)[:, None] + torch.tensor([0, 1])) % rows
        index[0, 1], index[1] = -1, -1
        return {**inputs, "teacher_index": index, "row_weight": torch.rand(rows, dtype=torch.float64)}

    return draw


TARGETED: dict[str, Loss] = {
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
}  # fmt: skip
