# SPDX-License-Identifier: Apache-2.0
"""Masked siamese networks as in lightly: MSNLoss, PMSNLoss and PMSNCustomLoss.

A target is the softmax of cosines at a sharper temperature, balanced or not, and its cross-entropy with an anchor is
``lse_i - <x_i, c_i> / temperature`` with the mean prototype ``c_i = sum_k P_ik w_k``: no logits of anchors are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from sslkernels.arguments import (
    check_alike,
    check_callable,
    check_number,
    check_rows,
    check_size,
    shape_of,
)
from sslkernels.distributed import GroupLike, check_gathered
from sslkernels.functional.assignments import balanced
from sslkernels.functional.mean_entropy import (
    check_prior,
    divergence,
    log_mean_assignment,
    mean_entropy,
    power_law,
)
from sslkernels.functional.similarity import sharded
from sslkernels.modules import Module
from sslkernels.ops.dtypes import promoted, widened
from sslkernels.ops.rows import row_dot, unit_rows
from sslkernels.ops.similarity import logsumexp_similarity


class MSNLoss(Module):
    """MSN (Assran et al. 2022) with lightly's arguments: ``from sslkernels.losses import MSNLoss``.

    The mean over anchors of the cross-entropy with the target of their image, and ``regularization_weight`` times
    `sslkernels.functional.mean_entropy` of the anchors, which lets a batch use all prototypes.

    Args:
        temperature: of the anchors' softmax, a positive number.
        sinkhorn_iterations: in which targets are balanced; 0 leaves them as they are.
        regularization_weight: lambda, at least 0.
        gather_distributed: balance targets, and take the mean probabilities of anchors, over the rows of every rank:
            the mean over ranks is the loss of the concatenated batch. lightly's means stay those of each rank.

    ``forward(anchors, targets, prototypes, target_sharpen_temperature=0.25)``: anchors ``(V*N, D)``, V views of N
    images one after the other, targets ``(N, D)`` and prototypes ``(K, D)``, which are divided by their norms, give a
    0-dim loss. Targets get no gradient. All is computed in float32 (float64 for float64).

    lightly takes logarithms of probabilities to a power, which are infinite where float32 holds a probability as zero;
    ours never leave logarithms. Its targets are balanced from probabilities that have underflown, ours are not.

    >>> import torch
    >>> from sslkernels.losses import MSNLoss
    >>> MSNLoss(temperature=1.0)(torch.eye(3), torch.eye(3), torch.eye(3))
    tensor(0.5868)
    """

    _settings: ClassVar[tuple[str, ...]] = ("temperature", "sinkhorn_iterations", "regularization_weight")

    def __init__(
        self,
        temperature: float = 0.1,
        sinkhorn_iterations: int = 3,
        regularization_weight: float = 1.0,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        function = type(self).__name__
        self.temperature = check_number(function, "temperature", temperature, above=0.0)
        self.sinkhorn_iterations = check_size(function, "sinkhorn_iterations", sinkhorn_iterations, least=0)
        self.regularization_weight = check_number(function, "regularization_weight", regularization_weight, least=0.0)
        self.gather_distributed = check_gathered(function, gather_distributed)

    def forward(
        self, anchors: Tensor, targets: Tensor, prototypes: Tensor, target_sharpen_temperature: float = 0.25
    ) -> Tensor:
        function = type(self).__name__
        self._check(anchors, targets, prototypes)
        sharpen = check_number(function, "target_sharpen_temperature", target_sharpen_temperature, above=0.0)
        with torch.autocast(anchors.device.type, enabled=False):  # 16-bit logits over 0.025 are off by a tenth and more
            return self._loss(sharpen, *promoted(widened(anchors), widened(targets.detach()), widened(prototypes)))

    def _loss(self, sharpen: float, anchors: Tensor, targets: Tensor, prototypes: Tensor) -> Tensor:
        group: GroupLike = "world" if self.gather_distributed else None
        settings = {name: getattr(self, name) for name in self._settings}
        shard = sharded(group, type(self).__name__, targets, anchors, prototypes, sharpen=sharpen, **settings)
        anchors, targets, prototypes = unit_rows(anchors), unit_rows(targets), unit_rows(prototypes)
        scale, views = 1 / self.temperature, len(anchors) // len(targets)
        with torch.no_grad():
            logits = targets @ prototypes.T * (scale / sharpen)
            wanted = torch.softmax(logits, 1)
            if self.sinkhorn_iterations:
                wanted = balanced(logits, 1.0, self.sinkhorn_iterations, shard, -logits.logsumexp(1, keepdim=True))
        mean_prototypes = (wanted @ prototypes).repeat(views, 1)
        losses = logsumexp_similarity(anchors, prototypes, scale) - scale * row_dot(anchors, mean_prototypes)
        loss = losses.sum() * (shard.ranks / (views * shard.total(len(targets))))
        if self.regularization_weight:
            loss = loss + self.regularization_weight * self._regularization(anchors, prototypes, group)
        return loss

    def _regularization(self, anchors: Tensor, prototypes: Tensor, group: GroupLike) -> Tensor:
        """Compute the regulariser of unit rows."""
        return mean_entropy(anchors, prototypes, temperature=self.temperature, normalize=False, group=group)

    def _check(self, anchors: Tensor, targets: Tensor, prototypes: Tensor) -> None:
        function = type(self).__name__
        check_rows(function, "anchors", anchors)
        for name, rows in (("targets", targets), ("prototypes", prototypes)):
            check_alike(function, name, check_rows(function, name, rows), "anchors", anchors, rows=False)
        if not len(prototypes):
            raise ValueError(f"{function}: prototypes has shape {shape_of(prototypes)}; pass at least one.")
        if not len(targets) or not len(anchors) or len(anchors) % len(targets):
            raise ValueError(
                f"{function}: anchors has shape {shape_of(anchors)} and targets {shape_of(targets)}; "
                "pass one target for each image, and as many anchors of one image as of another."
            )


class PMSNLoss(MSNLoss):
    """PMSN (Assran et al. 2023) with lightly's arguments: prototypes are used as a power law says.

    Args:
        temperature, sinkhorn_iterations, regularization_weight, gather_distributed: as in `MSNLoss`.
        power_law_exponent: prototype k of the prior is as probable as ``k ** -power_law_exponent``, from k = 1.

    The regulariser is the divergence of the anchors' mean probabilities from the prior, as
    `sslkernels.functional.mean_entropy` has it. ``forward`` is that of `MSNLoss`.

    >>> import torch
    >>> from sslkernels.losses import PMSNLoss
    >>> PMSNLoss(temperature=1.0)(torch.eye(3), torch.eye(3), torch.eye(3))
    tensor(0.5933)
    """

    _settings = (*MSNLoss._settings, "power_law_exponent")

    def __init__(
        self,
        temperature: float = 0.1,
        sinkhorn_iterations: int = 3,
        regularization_weight: float = 1.0,
        power_law_exponent: float = 0.25,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__(temperature, sinkhorn_iterations, regularization_weight, gather_distributed)
        self.power_law_exponent = check_number("PMSNLoss", "power_law_exponent", power_law_exponent)

    def _regularization(self, anchors: Tensor, prototypes: Tensor, group: GroupLike) -> Tensor:
        prior = power_law(prototypes, self.power_law_exponent)
        return mean_entropy(
            anchors, prototypes, temperature=self.temperature, prior=prior, normalize=False, group=group
        )


class PMSNCustomLoss(MSNLoss):
    """PMSN (Assran et al. 2023) with lightly's arguments: prototypes are used as a function says.

    Args:
        target_distribution: gives the prior ``(K,)``, which sums to 1, for the mean probabilities ``(K,)`` of the
            anchors. Neither has a gradient here.
        temperature, sinkhorn_iterations, regularization_weight, gather_distributed: as in `MSNLoss`.

    The regulariser is the divergence from that prior, as in `PMSNLoss`. ``forward`` is that of `MSNLoss`.

    >>> import torch
    >>> from sslkernels.losses import PMSNCustomLoss
    >>> loss = PMSNCustomLoss(lambda mean: torch.tensor([0.5, 0.25, 0.25]), temperature=1.0)
    >>> loss(torch.eye(3), torch.eye(3), torch.eye(3))
    tensor(0.6457)
    """

    def __init__(
        self,
        target_distribution: Callable[[Tensor], Tensor],
        temperature: float = 0.1,
        sinkhorn_iterations: int = 3,
        regularization_weight: float = 1.0,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__(temperature, sinkhorn_iterations, regularization_weight, gather_distributed)
        self.target_distribution = check_callable("PMSNCustomLoss", "target_distribution", target_distribution)

    def _regularization(self, anchors: Tensor, prototypes: Tensor, group: GroupLike) -> Tensor:
        function = "PMSNCustomLoss"
        log_mean = log_mean_assignment(function, anchors, prototypes, self.temperature, normalize=False, group=group)
        prior = self.target_distribution(log_mean.detach().exp())
        return divergence(log_mean, check_prior(function, prior, prototypes, "what target_distribution gives"))
