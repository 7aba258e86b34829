# SPDX-License-Identifier: Apache-2.0
"""List losses that compare rows of two views with each other, and with negatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import formulas
import torch
from listed_loss import FAINT_ROWS, Inputs, Loss, number, views
from torch import Tensor

import sslkernels.functional as SF


def _taught(rows: int, features: int) -> Inputs:
    """Draw images and texts as a student and, in fewer features, a teacher see them.

    They have such a size that no teacher is sure: its gradient would be a difference of equal numbers.
    """
    size = min(0.5, 1.3 * features**-0.5)
    teacher = views("teacher_image", "teacher_text", size=size, teacher_logit_scale=1.5)(rows, max(features - 2, 1))
    return {**views("image", "text", size=size, logit_scale=2.0)(rows, features), **teacher}


def _queue(rows: int, features: int) -> Inputs:
    inputs = views("query", "key", temperature=0.3)(rows, features)
    return {**inputs, "negatives": formulas.unit(torch.randn(rows + 5, features, dtype=torch.float64))}


def _sampled(rows: int, features: int) -> Inputs:
    """Draw negatives, of which a row lacks one, has one twice, and has its positive among them."""
    inputs = views("query", "positive", temperature=0.3)(rows, features)
    pool = torch.randn(rows + 5, features, dtype=torch.float64)
    pool[0] = inputs["positive"][0]
    index = torch.randint(0, rows + 5, (rows, 6))
    index[0] = torch.tensor([0, 1, 1, -1, 2, 3])
    return {**inputs, "pool": pool, "index": index}


def _captions(rows: int, features: int) -> Inputs:
    """Draw clips with captions: three of their own, one of which the last two share, and one without the third."""
    inputs = views("video", "text", size=0.5, temperature=0.7)(rows, features)
    text = inputs["text"].repeat_interleave(3, 0) + 0.3 * torch.randn(3 * rows, features, dtype=torch.float64)
    positive = torch.arange(3 * rows).view(rows, 3)
    positive[-1, 0], positive[0, 2] = positive[-2, 0], -1
    return {**inputs, "text": text, "positive": positive}


def _neighbours(weight: bool) -> Callable[[int, int], Inputs]:
    """Draw rows whose neighbours come one after another; one has the same twice, and one has fewer."""

    def draw(rows: int, features: int) -> Inputs:
        z = torch.randn(rows // 3, features, dtype=torch.float64).repeat_interleave(3, 0)[: rows // 3 * 3]
        z = torch.cat([z, torch.randn(rows - len(z), features, dtype=torch.float64)])
        positive = (torch.arange(rows)[:, None] + torch.tensor([1, 2, 5])) % rows
        positive[0, 1], positive[1, 2] = positive[0, 0], -1
        inputs = {"z": z + 0.5 * torch.randn_like(z), "positive": positive, "temperature": number(0.3)}
        return {**inputs, "weight": torch.rand(rows, 3, dtype=torch.float64)} if weight else inputs

    return draw


def _info_nce(
    query: Tensor, key: Tensor, temperature: Tensor, negatives: Any = None, symmetric: Any = False, margin: float = 0.0
) -> Tensor:
    return formulas.info_nce(query, key, negatives, temperature, True, symmetric, margin)


# Where student and teacher are both unsure, the gradient is the small difference of two that are rounded before.
TAUGHT_FAINTLY = 2.0**-6, {"logit_scale": 1e-3, "teacher_logit_scale": 1e4}
CONTRASTIVE: dict[str, Loss] = {
    "nt_xent": Loss(
        SF.nt_xent,
        views("z0", "z1", temperature=0.3),
        lambda z0, z1, temperature: formulas.nt_xent(z0, z1, temperature, True),
        faint=FAINT_ROWS,
    ),
    "nt_xent of rows as they are": Loss(
        SF.nt_xent,
        views("z0", "z1", temperature=2.0),
        lambda z0, z1, temperature, normalize: formulas.nt_xent(z0, z1, temperature, normalize),
        {"normalize": False},
        faint=(2.0**-3, {"temperature": 1e4}),
    ),
    "info_nce": Loss(SF.info_nce, views("query", "key", temperature=0.3), _info_nce, faint=FAINT_ROWS),
    "info_nce, symmetric": Loss(
        SF.info_nce, views("query", "key", temperature=0.3), _info_nce, {"symmetric": True}, faint=FAINT_ROWS
    ),
    "info_nce with a margin": Loss(
        SF.info_nce, views("query", "key", temperature=0.3), _info_nce, {"symmetric": True, "margin": 0.7},
        faint=FAINT_ROWS,
    ),
    "info_nce with a queue": Loss(SF.info_nce, _queue, _info_nce, faint=FAINT_ROWS),
    "info_nce with a frozen queue": Loss(
        SF.info_nce, _queue, _info_nce, constants=("negatives",), faint=FAINT_ROWS
    ),
    "clip_loss": Loss(
        SF.clip_loss,
        views("image", "text", size=0.5, logit_scale=2.0, logit_bias=-1.0),
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
        views("image", "text", size=0.5, logit_scale=2.0, logit_bias=-1.0),
        lambda image, text, logit_scale, logit_bias: formulas.siglip_loss(image, text, logit_scale, logit_bias),
        faint=(2.0**-6, {"logit_scale": 1e-3}),
    ),
    "dcl": Loss(SF.dcl, views("z0", "z1", temperature=0.3), formulas.dcl, faint=FAINT_ROWS),
    "dclw": Loss(
        SF.dclw, views("z0", "z1", temperature=0.3), formulas.dcl, {"sigma": 0.5}, faint=FAINT_ROWS
    ),
    "debiased_nt_xent": Loss(
        SF.debiased_nt_xent,
        views("z0", "z1", temperature=0.3),
        formulas.debiased_nt_xent,
        faint=FAINT_ROWS,
    ),
    "debiased_nt_xent of hard negatives": Loss(
        SF.debiased_nt_xent,
        views("z0", "z1", temperature=0.3),
        formulas.debiased_nt_xent,
        {"hardness": 1.0, "prior": 0.02},
        faint=FAINT_ROWS,
    ),
    "uniformity": Loss(SF.uniformity, views("z", size=0.5), formulas.uniformity, faint=(2.0**-17, {})),
    "alignment": Loss(SF.alignment, views("z0", "z1", size=0.5), formulas.alignment, faint=(2.0**-18, {})),
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
}  # fmt: skip
