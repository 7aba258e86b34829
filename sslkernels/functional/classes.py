# SPDX-License-Identifier: Apache-2.0
"""Classify rows among many classes, as codebooks, samples or speakers are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sslkernels.arguments import (
    REDUCTIONS,
    check_alike,
    check_choice,
    check_flag,
    check_number,
    check_rows,
    check_scalar,
    check_size,
    shape_of,
)
from sslkernels.functional.labelled import check_labels
from sslkernels.functional.similarity import computed
from sslkernels.ops.dtypes import compute_dtype, promoted, scale_tensor, wide
from sslkernels.ops.similarity import check_bias
from sslkernels.ops.similarity.linear import Classes, classify


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    scale: float | Tensor = 1.0,
    bias: Tensor | None = None,
    label_smoothing: float = 0.0,
    margin: float = 0.0,
    margin_kind: str = "arc",
    subcenters: int = 1,
    normalize: bool = False,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Compute the cross-entropy of a linear classifier without storing its logits ``(N, K)``.

    The logits are ``l_ik = scale * <x_i, w_k> + b_k``, and with y the target and e the label smoothing

        loss_i = log sum_k e^l_ik - (1 - e) * l_iy - e * mean_k l_ik

    With ``normalize`` rows and weights are divided by their norms, so that products are cosines: DIET's and HuBERT's
    heads. A ``margin`` then takes the target's logit down: to ``scale * cos(angle + margin)`` with ``"arc"`` (ArcFace
    of Deng et al. 2019, AAM-softmax), and ``scale * (cosine - margin)`` with ``"cos"`` (CosFace of Wang et al. 2018,
    AM-softmax). Where the angle and its margin exceed 180 degrees, ``"arc"`` goes on with ``cosine - margin *
    sin(margin)``, as ArcFace's authors do.

    With S ``subcenters`` a class has S rows of weights, and is as probable as all of them together:

        loss_i = log sum_r e^l_ir - log sum_(r of y) e^l_ir

    over the K*S rows r. A margin takes each of the target's logits down. This is the loss of sub-cluster AdaCos
    (Wilkinghoff 2021), and a smooth one of sub-center ArcFace (Deng et al. 2020), which takes the largest.

    Args:
        x: rows ``(N, D)``.
        weight: ``(K, D)``, one row for each class; or ``(K*S, D)``, of which class k has rows ``k*S`` to ``k*S + S-1``.
        target: int64 ``(N,)``, the class of each row; the loss of a row with -1 is 0, and a mean does not count it.
        scale: a number or one-element tensor, which receives its gradient.
        bias: one for each row of ``weight``, with a gradient; not with ``normalize``.
        label_smoothing: from 0 to 1; not with several subcenters.
        margin: at least 0, and below pi with ``"arc"``; needs ``normalize``.
        subcenters: S, at least 1.
        reduction: ``"none"`` gives ``(N,)``. A mean without any row that counts is 0.
        backend: see `logsumexp_similarity`.

    Returns:
        0-dim float32 (float64 for float64 rows), or ``(N,)``.

    Raises:
        IndexError: a target outside ``[-1, K)``, checked on the CPU.

    Cost: ``2*N*K*D`` operations for the value and ``8*N*K*D`` with the gradient (4 where the weights are frozen);
    ``O((N + K)*D)`` memory. With subcenters S times as much of each. The gradient comes with the value. Ranks have
    nothing to exchange.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.linear_cross_entropy(torch.eye(3), torch.eye(3), torch.arange(3))
    tensor(0.5514)
    """
    function = "linear_cross_entropy"
    check_rows(function, "x", x)
    check_alike(function, "weight", check_rows(function, "weight", weight), "x", x, rows=False)
    if weight.shape[0] == 0:
        raise ValueError(f"{function}: weight has shape {shape_of(weight)}; pass one row for each class, at least one.")
    subcenters = check_size(function, "subcenters", subcenters)
    classes, left = divmod(weight.shape[0], subcenters)
    if left:
        raise ValueError(
            f"{function}: weight has shape {shape_of(weight)} and subcenters is {subcenters}; "
            "pass so many rows for each class."
        )
    target = check_labels(function, "target", target, x)
    if target.device.type == "cpu" and not torch.compiler.is_compiling() and target.numel():
        low, high = (int(bound) for bound in target.aminmax())
        if low < -1 or high >= classes:
            raise IndexError(
                f"{function}: target holds {low if low < -1 else high}; classes run from 0 to {classes - 1}, "
                "and -1 stands for none."
            )
    scale = check_scalar(function, "scale", scale)
    smoothing = check_number(function, "label_smoothing", label_smoothing, least=0.0, most=1.0)
    margin = check_number(function, "margin", margin, least=0.0)
    check_choice(function, "margin_kind", margin_kind, ("arc", "cos"))
    normalize = check_flag(function, "normalize", normalize)
    check_choice(function, "reduction", reduction, REDUCTIONS)
    if margin and not normalize:
        raise ValueError(
            f"{function}: margin is {margin:g} without normalize; a margin is one of cosines, so pass both."
        )
    if margin_kind == "arc" and margin >= math.pi:
        raise ValueError(f"{function}: margin is {margin:g}; pass an angle below pi, such as 0.5.")
    if smoothing and subcenters > 1:
        raise ValueError(
            f"{function}: label_smoothing is {smoothing:g} with {subcenters} subcenters, and needs a logit of each "
            "class; drop one."
        )
    if bias is not None:
        if normalize:
            raise ValueError(f"{function}: bias came with normalize; logits are cosines then, so drop one.")
        bias = check_bias(function, bias, weight)
    x, weight = promoted(x, weight) if normalize else computed(x, weight)
    bias = None if bias is None else bias.to(wide(x.dtype))
    asked = Classes(smoothing, margin, margin_kind, subcenters, normalize, compute_dtype(x))
    return classify(asked, x, weight, target, scale_tensor(scale, x), bias, reduction, backend)
