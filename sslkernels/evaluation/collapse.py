# SPDX-License-Identifier: Apache-2.0
"""Tells whether features still keep images apart: how far they spread, and over how many directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.arguments import check_rows
from sslkernels.evaluation.moments import entropy_rank, singular_values

# Below one of these, features have collapsed. On the digits a collapsed ViT has a deviation of 0.006 to 0.012 and a
# rank of 1.2 to 1.3; a collapsing ResNet has 0.021 and 2.7 after twenty epochs. Early epochs of I-JEPA, whose features
# have a long common mean, have 0.027 and 1.6, and must not be warned of.
LEAST_STD, LEAST_RANK = 0.02, 1.5
# Features that keep less than this share of the first epoch's spread have collapsed too, however far they spread now.
LEAST_LEFT = 0.1
# A prototype that takes more than this share of the targets takes nearly all. Below so many nats of information on the
# sample, targets say the same of all samples: DINO on the digits has 1.0, and 0.0 where it learns nothing.
MOST_SHARE, LEAST_TOLD = 0.9, 0.05
TINY = torch.finfo(torch.float64).tiny


class Spread(NamedTuple):
    """The result of `feature_spread`."""

    feature_std: float
    effective_rank: float


def feature_spread(features: Tensor) -> Spread:
    """Measure how far features ``(N, D)`` spread over the sphere, and over how many directions.

    ``feature_std`` is 1 when the rows spread evenly over the sphere, and 0 when all are alike. To compute it, scale the
    rows to unit length, average the standard deviations of their columns, and multiply by sqrt(D) (Chen and He 2021,
    section 4.1). It misses features that spread along a few directions only, which ``effective_rank`` finds: the
    exponential of the entropy of the singular values, taken as shares of their sum, at most min(N, D) (Roy and Vetterli
    2007; Garrido et al. 2023 rank encoders by it). Rows are not centred, so that equal rows have rank 1, and zeros rank
    0; centring would leave a rounding error of any rank. Both are NaN if a feature is not finite.

    >>> import torch
    >>> from sslkernels.evaluation import feature_spread
    >>> feature_spread(torch.cat([torch.eye(4), -torch.eye(4)]))
    Spread(feature_std=1.0, effective_rank=4.0)
    >>> feature_spread(torch.ones(8, 4))
    Spread(feature_std=0.0, effective_rank=1.0)
    """
    rows = check_rows("feature_spread", "features", features).detach()
    if not len(rows):
        raise ValueError("feature_spread: features has no row; pass at least one.")
    if not rows.isfinite().all():
        return Spread(float("nan"), float("nan"))
    # Rows that were divided by their largest number have squares within the range of float64.
    scaled = rows.double() / rows.double().abs().amax(1, keepdim=True).clamp_min(TINY)
    std = F.normalize(scaled, dim=1, eps=TINY).std(0, correction=0).mean() * rows.shape[1] ** 0.5
    return Spread(round(float(std), 6), round(entropy_rank(singular_values(rows)), 6))


def collapse_warning(feature_std: Sequence[float | None], effective_rank: Sequence[float | None]) -> str | None:
    """Warn in a sentence if the values of the epochs end in a collapse; None if not. Unknown epochs have None."""
    stds, ranks = ([value for value in values if value is not None] for values in (feature_std, effective_rank))
    if not stds or not ranks:
        return None
    first_std, first_rank, std, rank = stds[0], ranks[0], stds[-1], ranks[-1]
    low_std = std < max(LEAST_STD, LEAST_LEFT * first_std)
    low_rank = rank < max(LEAST_RANK, LEAST_LEFT * first_rank)
    if not low_std and not low_rank:
        return None
    return (
        f"the features have collapsed, images look alike to them: their standard deviation went from {first_std:.3f} "
        f"to {std:.3f} and their effective rank from {first_rank:.1f} to {rank:.1f}; "
        "lower --lr, or go back to the preset."
    )


def targets_warning(figures: Mapping[str, float]) -> str | None:
    """Warn in a sentence if a teacher's targets teach nothing; None if they do, or if nothing is known of them.

    ``figures`` are those that methods with prototypes give besides their loss. The targets p_i of samples tell them
    apart by as much as the entropy of the mean of all p_i is above the mean of their entropies.
    """
    for prefix, whose in (("", "the teacher's targets"), ("patch_", "the teacher's targets of patches")):
        names = [prefix + name for name in ("largest_share", "effective_prototypes", "teacher_entropy")]
        if not set(names) <= set(figures):
            continue
        share, effective, entropy = (figures[name] for name in names)
        if share > MOST_SHARE:
            return (
                f"{whose} have collapsed, one prototype takes {share:.0%} of them; "
                "lower --lr, or raise the teacher's momentum."
            )
        if math.log(effective) - entropy < LEAST_TOLD:
            return (
                f"{whose} say the same of all samples, with {effective:.1f} prototypes at once; "
                "lower the teacher's temperature, or take fewer prototypes."
            )
    return None
