# SPDX-License-Identifier: Apache-2.0
"""Probes every layer of an encoder, and a learned mixture of them all; `Layers` reads what layers give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_callable, check_list, check_module
from sslkernels.data import Inputs
from sslkernels.evaluation.features import encoded
from sslkernels.evaluation.labelled import labelled_rows
from sslkernels.evaluation.linear import probed

STEPS = 100


class PerLayer(NamedTuple):
    """The result of `per_layer`; ``mixed`` and ``weights`` are None where layers differ in width."""

    accuracy: dict[str, float]
    mixed: float | None
    weights: dict[str, float] | None


def pooled(output: Any) -> Tensor:
    """Average what a layer gives: tokens ``(N, L, C)`` over L, maps ``(N, C, ...)`` over all places; ``(N, C)`` stays.

    Of several results the first is taken. What is no tensor stays as it is.
    """
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.dim() < 3:
        return output
    return output.mean(1) if output.dim() == 3 else output.flatten(2).mean(2)


class Layers(nn.Module):
    """Runs an encoder and gives what its layers pooled to, one beside the other; ``function`` asks for it.

    Its ``layers`` are their names, by default those of the blocks, and ``widths`` the numbers of columns of each, once
    it ran.
    """

    def __init__(
        self, function: str, encoder: nn.Module, layers: Sequence[str] | None, pool: Callable[[Any], Tensor]
    ) -> None:
        super().__init__()
        check_module(function, "encoder", encoder)
        check_callable(function, "pool", pool)
        names = (
            _blocks(encoder) if layers is None else check_list(function, "layers", layers, "a list of names of modules")
        )
        known = dict(encoder.named_modules())
        for name in names:
            if name not in known:
                raise ValueError(f"{function}: layers has {name!r}, and the encoder has no such module; name others.")
        if not names:
            raise ValueError(f"{function}: layers is empty; name the modules to look into.")
        self.function, self.encoder, self.layers, self.pool = function, encoder, names, pool
        self.widths: list[int] = []

    def forward(self, inputs: Any) -> Tensor:
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, given: Any, output: Any) -> None:
                rows = self.pool(output)
                if not isinstance(rows, Tensor):
                    raise TypeError(
                        f"{self.function}: layers has {name!r}, which pools to a {type(rows).__name__}; leave it out, "
                        "or pass a pool that gives a tensor (N, C)."
                    )
                found[name] = rows.detach().float().clone()  # a later layer may change the output in its place

            return hook

        handles = [self.encoder.get_submodule(name).register_forward_hook(keep(name)) for name in self.layers]
        try:
            self.encoder(inputs)
        finally:
            for handle in handles:
                handle.remove()
        for name in self.layers:
            if name not in found or found[name].dim() != 2:
                came = "did not run" if name not in found else f"pools to shape {tuple(found[name].shape)}"
                raise ValueError(f"{self.function}: layers has {name!r}, which {came}; leave it out, or pass a pool.")
        self.widths = [found[name].shape[1] for name in self.layers]
        return torch.cat([found[name] for name in self.layers], 1)


def per_layer(
    encoder: nn.Module,
    inputs: Inputs,
    labels: Tensor,
    test_inputs: Inputs,
    test_labels: Tensor,
    layers: Sequence[str] | None = None,
    *,
    shots: int | None = None,
    draws: int = 10,
    pool: Callable[[Any], Tensor] = pooled,
) -> PerLayer:
    """Probe what every layer of a frozen encoder knows, and their softmax-weighted sum (SUPERB: Yang et al. 2021).

    Each layer's output is averaged over tokens or places, and probed by a logistic regression, as `linear_probe` does.
    For the sum, rows of each layer are standardised, and weights and regression are fit together:
    ``min_(a, W, b) sum_i CE(W sum_l softmax(a)_l x_il + b, y_i) + |W|^2 / 2``.

    Args:
        encoder: takes a batch of ``inputs``; it is run in evaluation mode.
        inputs, labels, test_inputs, test_labels: samples by rows, int64 labels from 0, and those of other samples.
        layers: names of modules, as `torch.nn.Module.named_modules` has them. By default those in the largest
            ``nn.Sequential`` or ``nn.ModuleList``: the blocks of a network.
        shots, draws: of the probes, as in `linear_probe`; None for all rows. The sum is fit to all rows.
        pool: output of a layer to ``(N, C)``. Of three dimensions the second counts as tokens; for the series
            ``(N, C, L)`` of a convolution pass ``lambda output: output.mean(2)``.

    Returns:
        Accuracies by layer, from the first to the last (NaN if a class has fewer rows than ``shots``); that of the sum,
        and the weight of each layer in it. These two are None where layers differ in width, or there is one.

    Raises:
        ValueError, TypeError: a layer that is not there, does not run or does not pool to ``(N, C)``.

    Cost: a forward pass over all samples, ``N * sum_l C_l`` numbers, and a fit for each layer.

    >>> import torch
    >>> from torch import nn
    >>> from sslkernels.evaluation import per_layer
    >>> encoder = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> rows, labels = torch.eye(4).repeat(5, 1), torch.arange(4).repeat(5)
    >>> list(per_layer(encoder, rows, labels, rows, labels).accuracy)
    ['0', '1', '2']
    """
    function = "per_layer"
    runner = Layers(function, encoder, layers, pool)
    names = runner.layers
    rows = encoded(function, runner, "inputs", inputs)
    test_rows = encoded(function, runner, "test_inputs", test_inputs)
    labelled_rows(function, rows, labels, test_rows, test_labels)
    labels, test_labels = labels.cpu(), test_labels.cpu()
    parts = list(zip(rows.split(runner.widths, 1), test_rows.split(runner.widths, 1), strict=True))
    accuracy = {}
    for name, (some, others) in zip(names, parts, strict=True):
        score = probed(function, "logistic", some, labels, others, test_labels, shots, draws, None)
        accuracy[name] = float("nan") if score is None else score
    if len(set(runner.widths)) > 1 or len(names) < 2:
        return PerLayer(accuracy, None, None)
    stacked, test_stacked = (torch.stack(each, 1) for each in zip(*parts, strict=True))
    mixed, weights = _mixed(stacked, test_stacked, labels, test_labels)
    return PerLayer(accuracy, mixed, dict(zip(names, weights.tolist(), strict=True)))


def _blocks(encoder: nn.Module) -> list[str]:
    """The children of the container that holds the most parameters; the whole encoder if it has none."""
    largest, most = "", -1
    for name, module in encoder.named_modules():
        if isinstance(module, (nn.Sequential, nn.ModuleList)):
            count = sum(parameter.numel() for parameter in module.parameters())
            if count > most:
                largest, most = name, count
    if most < 0:
        return [""]
    prefix = f"{largest}." if largest else ""
    return [f"{prefix}{name}" for name, _ in encoder.get_submodule(largest).named_children()]


def _mixed(rows: Tensor, test_rows: Tensor, labels: Tensor, test_labels: Tensor) -> tuple[float, Tensor]:
    """Fit weights of layers and a regression to ``rows (N, layers, C)``; the accuracy on others, and the weights."""
    mean, deviation = rows.mean(0), rows.std(0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    rows, test_rows = (rows - mean) / deviation, (test_rows - mean) / deviation
    classes, places = labels.unique(return_inverse=True)
    weight = torch.zeros(len(classes), rows.shape[2], requires_grad=True)
    bias = torch.zeros(len(classes), requires_grad=True)
    share = torch.zeros(rows.shape[1], requires_grad=True)

    def logits(some: Tensor) -> Tensor:
        return F.linear(torch.einsum("nlc,l->nc", some, share.softmax(0)), weight, bias)

    optimizer = torch.optim.LBFGS([weight, bias, share], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits(rows), places) + weight.square().sum() / (2 * len(rows))
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        right = classes[logits(test_rows).argmax(1)] == test_labels
        return float(right.double().mean()), share.softmax(0)
