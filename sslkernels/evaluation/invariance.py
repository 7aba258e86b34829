# SPDX-License-Identifier: Apache-2.0
"""Tells how invariant the units of an encoder are: those that fire for a sample should fire for its transforms too."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.arguments import check_number, check_rows, check_size
from sslkernels.evaluation.labelled import check_finite

# Units whose activations are sorted at once.
UNITS = 256


class Invariance(NamedTuple):
    """The result of `invariance_scores`: the mean of the best units, and the score ``(D,)`` of each."""

    top: float
    units: Tensor


@torch.no_grad()
def invariance_scores(features: Tensor, top: int = 25, firing: float = 0.01) -> Invariance:
    """Measure by how much more often units fire for transforms of what they fire for (Goodfellow et al. 2009).

    A unit u fires above a threshold t_u, which is set so that it fires for a share ``firing`` of all inputs. Where
    ``s_n`` is the share of the transforms of sample n for which it fires, and G_u that of all inputs,

        ``L_u = sum_n s_n^2 / sum_n s_n``,  ``score_u = L_u / G_u``

    L_u is the mean of ``s_n`` over the inputs for which u fires. It is 1 where u fires for all transforms of a
    sample or for none, and near G_u where it takes no notice of the sample. Purushwalkam and Gupta 2020 compare
    contrastive encoders so, transformations being occlusion, viewpoint, illumination, or other samples of a class.

    Args:
        features: ``(T, N, D)``: D units for T transforms of N samples, such as
            ``torch.stack([encode(backbone, transform(images)) for transform in transforms])``.
        top: units that are averaged, the best ones; all if there are fewer.
        firing: share of all T * N inputs for which a unit fires, above 0 and up to 1; at least one input, and more
            where activations tie.

    Raises:
        ValueError, TypeError: unlike shapes, numbers that are not finite.

    Cost: a sort of the T * N activations of each unit, `UNITS` units at a time.

    >>> import torch
    >>> from sslkernels.evaluation import invariance_scores
    >>> sample = torch.randn(100, 1).expand(4, 100, 1)  # the same activation for all four transforms
    >>> round(invariance_scores(sample, firing=0.05).top, 3)
    20.0
    """
    function = "invariance_scores"
    check_rows(function, "features", features, "(T, N, D), transforms, samples and units", dims=3)
    if not features.numel():
        raise ValueError(f"{function}: features has shape {tuple(features.shape)}; pass at least one input.")
    check_finite(function, "features", features)
    top = check_size(function, "top", top)
    firing = check_number(function, "firing", firing, above=0, most=1)
    count = max(1, round(firing * features.shape[0] * features.shape[1]))
    scores = []
    for part in features.detach().float().split(UNITS, 2):
        flat = part.flatten(0, 1)
        least = flat.topk(count, 0).values[-1]
        shares = (part >= least).double().mean(0)
        scores.append(shares.square().sum(0) / shares.sum(0) / shares.mean(0))
    units = torch.cat(scores)
    return Invariance(float(units.topk(min(top, len(units))).values.mean()), units)
