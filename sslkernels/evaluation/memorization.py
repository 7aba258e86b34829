# SPDX-License-Identifier: Apache-2.0
"""Tells which samples an encoder knows by heart: their views are nearer to it than to encoders without them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_list, check_module, check_tensor, shape_of
from sslkernels.evaluation.features import encode

# Numbers that are compared at once.
AT_ONCE = 1 << 24


class Memorization(NamedTuple):
    """The result of `ssl_memorization`: the mean score of all samples, and the score ``(N,)`` of each."""

    mean: float
    scores: Tensor


def ssl_memorization(
    encoders_with: Sequence[nn.Module], encoders_without: Sequence[nn.Module], views: Sequence[Tensor]
) -> Memorization:
    """Score how much encoders have memorised samples (SSLMem: Wang et al. 2024).

        ``align(f, x) = mean_(v < w) |f(x_v) - f(x_w)|``,  ``m(x) = mean_g align(g, x) - mean_f align(f, x)``

    f were trained on the samples, g on others. Scores are divided by the largest absolute one, so that they lie from -1
    to 1: above 0 views of a sample are nearer to f than to g, which training on it explains.

    Args:
        encoders_with: the encoders f, at least one.
        encoders_without: the encoders g, trained alike on other samples of the same kind.
        views: two or more random views of the same N samples, each ``(N, ...)``; the paper draws 10.

    Returns:
        The mean score, and the scores float64 ``(N,)``. All are 0 if no encoder tells views apart.

    Raises:
        ValueError, TypeError: no encoder, fewer than two views, views of unlike shapes.

    Cost: a forward pass of each encoder over each view, and ``V^2 N D`` operations for its alignment.

    >>> import torch
    >>> from torch import nn
    >>> from sslkernels.evaluation import ssl_memorization
    >>> views = torch.zeros(3, 1), torch.ones(3, 1)
    >>> ssl_memorization([nn.Hardtanh(0, 0.5)], [nn.Identity()], views)
    Memorization(mean=1.0, scores=tensor([1., 1., 1.], dtype=torch.float64))
    """
    function = "ssl_memorization"
    shown = check_list(function, "views", views, "a list of two or more views of the same samples")
    if len(shown) < 2:
        raise ValueError(f"{function}: views has length {len(shown)}; pass at least two views of the same samples.")
    for place, view in enumerate(shown):
        check_tensor(function, f"views[{place}]", view, "(N, ...)")
        if view.dim() < 2 or not len(view):
            raise ValueError(f"{function}: views[{place}] has shape {shape_of(view)}; pass at least one sample.")
        if view.shape != shown[0].shape:
            raise ValueError(
                f"{function}: views[{place}] has shape {shape_of(view)} and views[0] {shape_of(shown[0])}; "
                "pass views of the same samples."
            )
    apart = [
        torch.stack([_alignment(each, shown) for each in _encoders(function, name, given)]).mean(0)
        for name, given in (("encoders_with", encoders_with), ("encoders_without", encoders_without))
    ]
    scores = apart[1] - apart[0]
    largest = scores.abs().max()
    if largest > 0:
        scores = scores / largest
    return Memorization(float(scores.mean()), scores)


def _alignment(encoder: nn.Module, views: Sequence[Tensor]) -> Tensor:
    """The mean distance between features of two views, of each sample."""
    features = torch.stack([encode(encoder, view).flatten(1) for view in views], 1)
    count = len(views)
    piece = max(1, AT_ONCE // features[0].numel())
    exact = "donot_use_mm_for_euclid_dist"
    sums = [
        torch.cdist(part, part, compute_mode=exact).double().sum((1, 2)) for part in features.split(piece)
    ]  # each pair twice, and zeros
    return torch.cat(sums) / (count * (count - 1))


def _encoders(function: str, name: str, given: Sequence[nn.Module]) -> list[nn.Module]:
    if isinstance(given, nn.Module) and not isinstance(given, nn.ModuleList):
        raise TypeError(f"{function}: {name} is a {type(given).__name__}; pass a list of encoders.")
    encoders = check_list(function, name, given, "a list of encoders")
    if not encoders:
        raise ValueError(f"{function}: {name} is empty; pass at least one encoder.")
    return [check_module(function, f"{name}[{place}]", encoder) for place, encoder in enumerate(encoders)]
