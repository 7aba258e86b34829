# SPDX-License-Identifier: Apache-2.0
"""Watches the layers of an encoder: how views differ at each, and how strongly a loss pulls at its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_list, check_module
from sslkernels.data import Inputs
from sslkernels.evaluation.features import encoded
from sslkernels.evaluation.layers import Layers, pooled
from sslkernels.evaluation.views import AugmentationCovariance, augmentation_covariance


def layer_covariances(
    encoder: nn.Module,
    views: Sequence[Inputs],
    layers: Sequence[str] | None = None,
    *,
    pool: Callable[[Any], Tensor] = pooled,
) -> dict[str, AugmentationCovariance]:
    """Compare at every layer how samples differ with how their views do (Tian et al. 2020): where is noise removed?

    For layer l with the pooled output ``f_l``: the eigenvalues of ``Cov_x[E_view f_l]`` and of ``E_x[Cov_view f_l]``,
    and the ratio of their traces, as `augmentation_covariance` has them. Hooks read the outputs in a forward pass.

    Args:
        encoder: takes a batch of a view; it is run in evaluation mode, and left as it was.
        views: two views or more of the same samples in the same order.
        layers, pool: as in `per_layer`.

    Returns:
        An `AugmentationCovariance` by the name of each layer, from the first to the last.

    Raises:
        ValueError, TypeError: less than two views, views of different lengths, a layer that is not there, does not run
            or does not pool to ``(N, C)``.

    Cost: a forward pass over all views, ``q * N * sum_l C_l`` numbers, and two decompositions for each layer.

    >>> import torch
    >>> from torch import nn
    >>> from sslkernels.evaluation import layer_covariances
    >>> first = nn.Linear(2, 2, bias=False)
    >>> _ = nn.init.eye_(first.weight)
    >>> last = nn.Linear(2, 1, bias=False)  # keeps the direction of samples, and drops that of views
    >>> _ = last.weight.data.copy_(torch.tensor([[1.0, 0.0]]))
    >>> views = [torch.tensor([[3.0, x], [-3.0, x]]) for x in (1.0, -1.0)]
    >>> {name: found.ratio for name, found in layer_covariances(nn.Sequential(first, last), views).items()}
    {'0': 9.0, '1': inf}
    """
    function = "layer_covariances"
    runner = Layers(function, encoder, layers, pool)
    views = check_list(function, "views", views, "a list of views")
    if len(views) < 2:
        raise ValueError(f"{function}: views has length {len(views)}; pass two views or more of each sample.")
    rows = [encoded(function, runner, "views", view) for view in views]
    if len({len(some) for some in rows}) > 1:
        raise ValueError(f"{function}: views have {[len(some) for some in rows]} samples; pass views of the same ones.")
    parts = torch.stack(rows, 1).split(runner.widths, 2)
    return {name: augmentation_covariance(part) for name, part in zip(runner.layers, parts, strict=True)}


def gradient_norms(module: nn.Module) -> dict[str, float]:
    """Measure how strongly the last ``backward`` pulls at each layer: a monitor for the loop of training.

    ``sqrt(sum |dL/dw|^2)`` over the parameters of a layer itself, those of its children left out.

    Args:
        module: a network after ``loss.backward()``, and before gradients are set to zero.

    Returns:
        Norms by the name of each layer that has a parameter with a gradient, in the order of the network. Layers that
        the loss does not reach are not there; a gradient that is not finite gives NaN or infinity.

    Cost: a pass over the gradients. They are summed in float64, so no square leaves its range.

    >>> import torch
    >>> from torch import nn
    >>> from sslkernels.evaluation import gradient_norms
    >>> net = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(3, 1))
    >>> net[0](torch.tensor([[2.0, 2.0]])).sum().backward()
    >>> {name: round(norm, 4) for name, norm in gradient_norms(net).items()}  # of 2, 2 and the bias's 1
    {'0': 3.0}
    """
    check_module("gradient_norms", "module", module)
    found = {}
    for name, layer in module.named_modules():
        gradients = [each.grad for each in layer.parameters(recurse=False) if each.grad is not None]
        if gradients:
            sums = [_norm(grad) for grad in gradients]
            found[name] = float(torch.linalg.vector_norm(torch.stack(sums)))
    return found


def _norm(gradient: Tensor) -> Tensor:
    # A sparse gradient of an embedding holds a row for each time it was looked up; those of one place add up.
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return torch.linalg.vector_norm(values.abs() if values.is_complex() else values, dtype=torch.float64)
