# SPDX-License-Identifier: Apache-2.0
"""Contrast rows by their labels."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import (
    REDUCTIONS,
    check_choice,
    check_flag,
    check_rows,
    check_temperature,
    check_tensor,
    shape_of,
)
from sslkernels.distributed import GroupLike
from sslkernels.functional.similarity import inverse, sharded
from sslkernels.ops.similarity.labelled import contrast_classes


def sup_con(
    z: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    form: str = "out",
    empty: str = "skip",
    normalize: bool = True,
    reduction: str = "mean",
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Pull rows of one class together and push the others away (SupCon, Khosla et al. 2020, eqs. 2 and 3).

    With P_i the other rows of i's class and s the cosines over the temperature,

        out:  loss_i = log sum_(a != i) e^s_ia - mean_(p in P_i) s_ip
        in:   loss_i = log sum_(a != i) e^s_ia - log mean_(p in P_i) e^s_ip

    Args:
        z: rows ``(N, D)``, ``N >= 1``. Views of one sample are rows with one label: stack them, and repeat the labels.
        labels: int64 ``(N,)``, any numbers.
        temperature: as in `nt_xent`. The authors multiply the loss by it over a base of 0.07; we do not.
        form: ``"out"``, the authors' choice, or ``"in"``.
        empty: rows that are alone in their class have loss 0. ``"skip"`` takes the mean over the others, as
            pytorch-metric-learning does for the most part; ``"zero"`` over all, as the authors' code. Nobody paired
            gives 0.
        normalize, backend: as in `nt_xent`.
        reduction: ``"none"`` gives ``(N,)``.
        group: ranks whose rows and labels count too; else as in `nt_xent`.

    Cost: ``3*N^2*D`` operations for value and gradient, twice as many with ``"in"``; ``O(N*D)`` memory. Rows are
    multiplied in float32 (float64), in whatever dtype they come: in 16 bits the gradient of well-aligned classes would
    cancel.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.sup_con(torch.eye(4), torch.tensor([0, 0, 1, 1]), temperature=0.5)
    tensor(1.0986)
    """
    check_rows("sup_con", "z", z)
    labels = check_labels("sup_con", "labels", labels, z)
    temperature = check_temperature("sup_con", temperature)
    check_choice("sup_con", "form", form, ("out", "in"))
    check_choice("sup_con", "empty", empty, ("skip", "zero"))
    normalize = check_flag("sup_con", "normalize", normalize)
    check_choice("sup_con", "reduction", reduction, REDUCTIONS)
    scale = inverse(temperature, z)
    settings = {"temperature": temperature, "form": form, "empty": empty, "normalize": normalize}
    shard = sharded(group, "sup_con", z, scale, reduction=reduction, **settings)
    return contrast_classes(z, labels, scale, form, normalize, empty == "skip", reduction, shard, backend)


def check_labels(function: str, name: str, value: object, x: Tensor) -> Tensor:
    """Check int64 labels, one for each row of ``x``."""
    labels = check_tensor(function, name, value, "(N,), int64 labels, one for each row")
    if labels.dtype != torch.int64:
        raise TypeError(f"{function}: {name} has dtype {labels.dtype}; pass int64 labels.")
    if labels.shape != x.shape[:1]:
        raise ValueError(f"{function}: {name} has shape {shape_of(labels)}; expected ({x.shape[0]},), one each.")
    if labels.device != x.device:
        raise ValueError(f"{function}: {name} is on {labels.device} and the rows on {x.device}; move it there.")
    return labels
