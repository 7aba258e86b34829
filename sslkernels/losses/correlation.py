# SPDX-License-Identifier: Apache-2.0
"""BarlowTwinsLoss and VICRegLoss as in lightly, and in the conventions of the other libraries."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import check_choice, check_pair, check_tensor, check_weights, shape_of
from sslkernels.distributed import check_gathered
from sslkernels.functional.correlation import barlow_twins, vicreg
from sslkernels.modules import Module

CONVENTIONS = ("lightly", "official", "solo-learn", "stable-pretraining")
SOLO_SCALE = 0.025


class BarlowTwinsLoss(Module):
    """Barlow Twins with lightly's arguments: ``from sslkernels.losses import BarlowTwinsLoss`` is the whole change.

    Args:
        lambda_param: weight of the numbers off the diagonal; it is ``lambd`` of `sslkernels.functional.barlow_twins`.
        gather_distributed: correlate the rows of every rank.
        convention: the library whose loss it is. "lightly" standardises columns with each rank's own mean and variance,
            "official" with those of all rows, as SyncBatchNorm does. "solo-learn" is lightly's times 0.025 (its
            ``scale_loss``). "stable-pretraining" divides columns by (unbiased standard deviation + 1e-5); the others
            divide by sqrt(biased variance + 1e-5).

    ``forward(z_a, z_b)`` with ``(N, D)`` each, ``N >= 2``, gives a 0-dim loss: float32, or float64 for float64 rows.

    >>> import torch
    >>> from sslkernels.losses import BarlowTwinsLoss
    >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> BarlowTwinsLoss()(z, z.flip(1))
    tensor(2.0100)
    """

    def __init__(
        self, lambda_param: float = 5e-3, gather_distributed: bool = False, *, convention: str = "lightly"
    ) -> None:
        super().__init__()
        check_choice("BarlowTwinsLoss", "convention", convention, CONVENTIONS)
        (self.lambda_param,) = check_weights("BarlowTwinsLoss", lambda_param=lambda_param)
        self.gather_distributed = check_gathered("BarlowTwinsLoss", gather_distributed)
        self.convention = convention

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        check_pair("BarlowTwinsLoss", {"z_a": z_a, "z_b": z_b}, self.gather_distributed, least=2)
        loss = barlow_twins(
            z_a,
            z_b,
            lambd=self.lambda_param,
            statistics="global" if self.convention == "official" else "local",
            convention="stable-pretraining" if self.convention == "stable-pretraining" else "official",
            group="world" if self.gather_distributed else None,
        )
        return SOLO_SCALE * loss if self.convention == "solo-learn" else loss


class VICRegLoss(Module):
    """VICReg with lightly's arguments: ``from sslkernels.losses import VICRegLoss`` is the whole change.

    Args:
        lambda_param, mu_param, nu_param: weights of invariance, variance and covariance, which are ``sim``, ``var`` and
            ``cov`` of `sslkernels.functional.vicreg`.
        gather_distributed: take means and covariances over the rows of every rank.
        eps: number added to the variances under the root.
        convention: "lightly", "official" and "stable-pretraining" are the same; "solo-learn" does not halve the
            variance term.

    ``forward(z_a, z_b)`` with ``(N, ..., D)`` each, ``N >= 2``, gives a 0-dim loss: float32, or float64 for float64
    rows. With more than two dimensions it is the mean over positions; their losses are computed one after another.

    >>> import torch
    >>> from sslkernels.losses import VICRegLoss
    >>> VICRegLoss()(torch.eye(4), torch.eye(4).roll(1, 0))
    tensor(25.0392)
    """

    def __init__(
        self,
        lambda_param: float = 25.0,
        mu_param: float = 25.0,
        nu_param: float = 1.0,
        gather_distributed: bool = False,
        eps: float = 1e-4,
        *,
        convention: str = "lightly",
    ) -> None:
        super().__init__()
        check_choice("VICRegLoss", "convention", convention, CONVENTIONS)
        self.lambda_param, self.mu_param, self.nu_param, self.eps = check_weights(
            "VICRegLoss", lambda_param=lambda_param, mu_param=mu_param, nu_param=nu_param, eps=eps
        )
        self.gather_distributed = check_gathered("VICRegLoss", gather_distributed)
        self.convention = convention

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        for name, z in (("z_a", z_a), ("z_b", z_b)):
            check_tensor("VICRegLoss", name, z, "(N, ..., D)")
        pairs = [(z_a, z_b)]
        if z_a.dim() > 2:
            if z_a.shape != z_b.shape or z_a.numel() == 0:
                raise ValueError(
                    f"VICRegLoss: z_a has shape {shape_of(z_a)} and z_b {shape_of(z_b)}; "
                    "both need the same shape (N, ..., D) with at least one position and one feature."
                )
            pairs = list(zip(z_a.flatten(1, -2).unbind(1), z_b.flatten(1, -2).unbind(1), strict=True))
        check_pair("VICRegLoss", dict(zip(("z_a", "z_b"), pairs[0], strict=True)), self.gather_distributed, least=2)
        losses = [
            vicreg(
                a,
                b,
                sim=self.lambda_param,
                var=2 * self.mu_param if self.convention == "solo-learn" else self.mu_param,
                cov=self.nu_param,
                eps=self.eps,
                group="world" if self.gather_distributed else None,
            )
            for a, b in pairs
        ]
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()
