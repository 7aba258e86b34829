# SPDX-License-Identifier: Apache-2.0
"""Prototype losses in float64, one pair of rows at a time, and Sinkhorn-Knopp as SwAV's authors wrote it.

They share no code with the library. Gradients come by plain autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cross_entropy(
    student: Tensor,
    weight: Tensor,
    teacher: Tensor,
    teacher_weight: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.1,
    teacher_temperature: float | Tensor = 0.04,
    bias: Tensor | None = None,
    row_weight: Tensor | None = None,
    teacher_index: Tensor | None = None,
) -> Tensor:
    """Sum weight times cross-entropy over pairs, or average it where there are no weights."""
    targets = weight if teacher_weight is None else teacher_weight
    followed = {}
    for j, row in enumerate(teacher.detach().double()):
        logits = targets.detach().double() @ row / teacher_temperature
        logits = logits if bias is None else logits + bias.double()
        followed[j] = torch.exp(logits - logits.max()) / torch.exp(logits - logits.max()).sum()
    rows, pairs = student.double().flatten(0, -2), []
    for i, row in enumerate(rows):
        own = [i % len(teacher)] if teacher_index is None else [j for j in teacher_index[i].tolist() if j >= 0]
        factor = 1.0 if row_weight is None else row_weight.double().flatten()[i]
        if row_weight is not None and factor == 0:
            continue
        logits = weight.double() @ row / temperature
        logs = logits - logits.detach().max() - torch.log(torch.exp(logits - logits.detach().max()).sum())
        pairs += [-factor * (followed[j] * logs).sum() for j in own]
    if not pairs:
        return 0 * (weight.double().sum() + rows.nan_to_num().sum()) * temperature
    return torch.stack(pairs).sum() / (len(pairs) if row_weight is None else 1)


def sinkhorn(logits: Tensor, iterations: int) -> Tensor:
    """Return the assignments (N, K) of rows to prototypes by the official code, in float64."""
    q = torch.exp(logits.double() - logits.double().max()).T
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(1, keepdim=True)
        q /= q.shape[0]
        q /= q.sum(0, keepdim=True)
        q /= q.shape[1]
    return (q * q.shape[1]).T
