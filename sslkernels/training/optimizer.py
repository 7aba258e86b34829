# SPDX-License-Identifier: Apache-2.0
"""The optimizer of every method, and its schedule."""

from __future__ import annotations

import math

import torch

from sslkernels.methods import Method
from sslkernels.schedules import check_step, check_total, share_done

# The warm-up is this share of all steps, or of UNKNOWN if nobody knows how many there will be.
WARMUP, UNKNOWN = 0.05, 10_000
WEIGHT_DECAY = 1e-4


def optimizer_and_schedule(
    method: Method, lr: float, weight_decay: float, total: float, fused: bool = True
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """Make AdamW for all that is trained, and `warmup_cosine` over ``total`` steps.

    ``fused`` makes one pass over all weights, in C++ or CUDA. Of 16-bit gradients it takes off their scale itself, so
    that nobody can clip them before.
    """
    weights = [parameter for parameter in method.parameters() if parameter.requires_grad]
    if not weights:
        raise ValueError(
            "LitMethod: method has no parameter that requires a gradient; pass one with something to train."
        )
    groups = [
        {"params": [weight for weight in weights if weight.dim() > 1], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, fused=fused)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, total))


def rising_cosine(step: int, total: float, first: float, last: float) -> float:
    """What goes from ``first`` to ``last`` in half a cosine, at ``step`` of ``total``, as DINO's weight decay does."""
    return last - (last - first) * 0.5 * (1 + math.cos(math.pi * share_done(step, total)))


def warmup_cosine(step: int, total: float) -> float:
    """The factor of the learning rate at ``step`` of ``total``. It rises in a line, falls to zero in half a cosine, and
    stays there. With no known end (``math.inf``) it stays up.
    """
    step, total = check_step("warmup_cosine", step), check_total("warmup_cosine", total, least=0)
    warmup = max(1, round(WARMUP * (UNKNOWN if total == math.inf else total)))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * share_done(step - warmup, total - warmup)))
