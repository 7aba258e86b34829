# SPDX-License-Identifier: Apache-2.0
"""Trains a copy of a backbone, all of it, with few labels."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_number, check_size
from sslkernels.data import Inputs
from sslkernels.evaluation.features import calibrate_batchnorm, encode, encoded
from sslkernels.evaluation.labelled import check_classes, draws_of, labelled_rows


def fine_tune(
    backbone: nn.Module,
    inputs: Inputs,
    labels: Tensor,
    test_inputs: Inputs,
    test_labels: Tensor,
    *,
    shots: int | None = 10,
    draws: int = 5,
    epochs: int = 30,
    lr: float = 1e-3,
    batch_size: int = 64,
) -> float | None:
    """Train a backbone and a linear layer with ``shots`` labels per class; the mean accuracy over ``draws`` choices.

    All weights move, by AdamW with its usual weight decay and a cosine schedule of the rate, and BatchNorm sees
    batches. The backbone itself stays as it is: each choice begins with a copy.

    Args:
        backbone: samples to features ``(N, D)``.
        inputs, labels, test_inputs, test_labels: samples by rows, int64 labels from 0, and those of other samples.
        shots: labelled samples of each class; None for all, which are one choice.
        draws: choices of these.
        epochs: passes over the labelled samples.
        lr: the largest rate.
        batch_size: labelled samples of a step; the last step of an epoch takes up to half as many more.

    Returns:
        The accuracy; None if a class has fewer samples than ``shots``.

    Raises:
        ValueError, TypeError: unlike shapes, one class alone, features that are not finite.

    Cost: ``draws * epochs`` passes over the labelled samples, and a copy of the backbone. The random state of torch is
    left as it was.

    >>> import torch
    >>> from torch import nn
    >>> from sslkernels.evaluation import fine_tune
    >>> rows, labels = torch.eye(2).repeat(8, 1), torch.tensor([0, 1]).repeat(8)
    >>> fine_tune(nn.Linear(2, 4), rows, labels, rows, labels, shots=8, draws=1, lr=0.1)
    1.0
    """
    function = "fine_tune"
    shots = None if shots is None else check_size(function, "shots", shots)
    draws, epochs = check_size(function, "draws", draws), check_size(function, "epochs", epochs)
    lr = check_number(function, "lr", lr, above=0)
    batch_size = check_size(function, "batch_size", batch_size)
    # One pass checks backbone, samples and labels before anything is trained.
    rows = encoded(function, backbone, "inputs", inputs)
    test_rows = encoded(function, backbone, "test_inputs", test_inputs)
    labelled_rows(function, rows, labels, test_rows, test_labels)
    check_classes(function, labels)
    labels, test_labels = labels.cpu(), test_labels.cpu()
    choices = [torch.arange(len(labels))] if shots is None else list(draws_of(labels, shots, draws))
    classes, places = labels.unique(return_inverse=True)
    scores = []
    for seed, chosen in enumerate(choices):
        with torch.random.fork_rng(_gpus(backbone)):
            torch.manual_seed(seed)
            tuned, head = _trained(backbone, inputs, places, chosen, len(classes), epochs, lr, batch_size)
        with torch.no_grad():
            predicted = classes[head.cpu()(encode(tuned, test_inputs)).argmax(1)]
        scores.append(float((predicted == test_labels).double().mean()))
    return sum(scores) / len(scores) if scores else None


def _gpus(backbone: nn.Module) -> list[torch.device]:
    return list({parameter.device for parameter in backbone.parameters() if parameter.device.type == "cuda"})


def _trained(
    backbone: nn.Module, inputs: Inputs, places: Tensor, chosen: Tensor, classes: int, epochs: int, lr: float, size: int
) -> tuple[nn.Module, nn.Linear]:
    tuned = copy.deepcopy(backbone).requires_grad_(True)
    first = next(tuned.parameters(), None)
    device = torch.device("cpu") if first is None else first.device
    features = encode(tuned, inputs[chosen[:1]]).shape[1]
    head = nn.Linear(features, classes).to(device)
    nn.init.zeros_(head.weight)
    # Batches are alike in size, since BatchNorm fails on one sample.
    steps = max(1, round(len(chosen) / size))
    optimizer = torch.optim.AdamW([*tuned.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    tuned.train()
    with torch.enable_grad():
        for _ in range(epochs):
            for rows in chosen[torch.randperm(len(chosen))].tensor_split(steps):
                logits = head(tuned(inputs[rows].to(device)).float())
                optimizer.zero_grad()
                F.cross_entropy(logits, places[rows].to(device)).backward()
                optimizer.step()
                schedule.step()
    calibrate_batchnorm(tuned, inputs[chosen])  # after few steps its averages are those of earlier weights
    return tuned, head
