# SPDX-License-Identifier: Apache-2.0
"""VICReg's kin: VCRegLoss of stable-pretraining, VIbCRegLoss of solo-learn, FroSSLLoss and TiCoLoss of lightly."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sslkernels.arguments import (
    check_flag,
    check_number,
    check_pair,
    check_rows,
    check_views,
    check_weights,
    shape_of,
)
from sslkernels.distributed import GroupLike, check_gathered
from sslkernels.functional.covariance import frossl, tico, vcreg, vibcreg
from sslkernels.modules import Module, Remembering
from sslkernels.ops.dtypes import wide


class VCRegLoss(Module):
    """`sslkernels.functional.vcreg` with stable-pretraining's arguments: ``forward(z_i)``, one embedding ``(N, D)``.

    As there, rows of every rank count unless ``gather_distributed`` is False.

    >>> import torch
    >>> from sslkernels.losses import VCRegLoss
    >>> VCRegLoss()(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    tensor(4.)
    """

    def __init__(
        self, std_coeff: float = 25.0, cov_coeff: float = 1.0, epsilon: float = 1e-4, gather_distributed: bool = True
    ) -> None:
        super().__init__()
        self.std_coeff, self.cov_coeff, self.epsilon = check_weights(
            "VCRegLoss", std_coeff=std_coeff, cov_coeff=cov_coeff, epsilon=epsilon
        )
        self.gather_distributed = check_flag("VCRegLoss", "gather_distributed", gather_distributed)

    def forward(self, z_i: Tensor) -> Tensor:
        if check_rows("VCRegLoss", "z_i", z_i).shape[0] < 2 and not self.gather_distributed:
            raise ValueError(f"VCRegLoss: z_i has shape {shape_of(z_i)}; pass a batch of at least 2 rows.")
        group = "world" if self.gather_distributed else None
        return vcreg(z_i, var=self.std_coeff, cov=self.cov_coeff, eps=self.epsilon, group=group)


class VIbCRegLoss(Module):
    """`sslkernels.functional.vibcreg` with the arguments of solo-learn's function: ``forward(z1, z2)``.

    As there, rows of every rank count unless ``gather_distributed`` is False.

    >>> import torch
    >>> from sslkernels.losses import VIbCRegLoss
    >>> z = torch.tensor([[2.0, 2.0], [-2.0, -2.0]])
    >>> VIbCRegLoss()(z, z)
    tensor(200.)
    """

    def __init__(
        self,
        sim_loss_weight: float = 25.0,
        var_loss_weight: float = 25.0,
        cov_loss_weight: float = 200.0,
        gather_distributed: bool = True,
    ) -> None:
        super().__init__()
        self.sim_loss_weight, self.var_loss_weight, self.cov_loss_weight = check_weights(
            "VIbCRegLoss",
            sim_loss_weight=sim_loss_weight,
            var_loss_weight=var_loss_weight,
            cov_loss_weight=cov_loss_weight,
        )
        self.gather_distributed = check_flag("VIbCRegLoss", "gather_distributed", gather_distributed)

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        check_pair("VIbCRegLoss", {"z1": z1, "z2": z2}, self.gather_distributed, least=2)
        return vibcreg(
            z1,
            z2,
            sim=self.sim_loss_weight,
            var=self.var_loss_weight,
            cov=self.cov_loss_weight,
            group="world" if self.gather_distributed else None,
        )


class FroSSLLoss(Module):
    """`sslkernels.functional.frossl` with lightly's arguments: ``forward(z_views)``, a list of two ``(N, D)`` or more.

    ``gather_distributed`` is our addition: it takes the rows of every rank.

    >>> import torch
    >>> from sslkernels.losses import FroSSLLoss
    >>> FroSSLLoss()([torch.eye(4), torch.eye(4)])
    tensor(-2.7726)
    """

    def __init__(self, invariance_weight: float = 1.0, gather_distributed: bool = False) -> None:
        super().__init__()
        (self.invariance_weight,) = check_weights("FroSSLLoss", invariance_weight=invariance_weight)
        self.gather_distributed = check_gathered("FroSSLLoss", gather_distributed)

    def forward(self, z_views: Sequence[Tensor]) -> Tensor:
        z_views = check_views("FroSSLLoss", "z_views", z_views)
        group = "world" if self.gather_distributed else None
        return frossl(z_views, invariance_weight=self.invariance_weight, group=group)


class TiCoLoss(Remembering):
    """`sslkernels.functional.tico` with lightly's arguments, and the covariance remembered as ``C (D, D)``.

    Args:
        beta: share of the covariance that is kept at each step.
        rho: weight of the covariance term.
        gather_distributed: take the covariance of the rows of every rank. Otherwise each rank remembers its own, inside
            DistributedDataParallel too.

    ``forward(z_a, z_b, update_covariance_matrix=True)`` with ``(N, D)`` each gives a 0-dim loss. C is None until the
    first call, or until a checkpoint with a C is loaded. Then it moves, saves and resumes with the model.

    >>> import torch
    >>> from sslkernels.losses import TiCoLoss
    >>> TiCoLoss()(torch.eye(4), torch.eye(4))
    tensor(0.2000)
    """

    C: Tensor | None
    remembered = ("C",)

    def __init__(self, beta: float = 0.9, rho: float = 8.0, gather_distributed: bool = False) -> None:
        super().__init__()
        self.beta = check_number("TiCoLoss", "beta", beta, least=0, most=1)
        (self.rho,) = check_weights("TiCoLoss", rho=rho)
        self.gather_distributed = check_gathered("TiCoLoss", gather_distributed)
        self.C = None

    def forward(self, z_a: Tensor, z_b: Tensor, update_covariance_matrix: bool = True) -> Tensor:
        check_pair("TiCoLoss", {"z_a": z_a, "z_b": z_b}, self.gather_distributed)
        update_covariance_matrix = check_flag("TiCoLoss", "update_covariance_matrix", update_covariance_matrix)
        group: GroupLike = None
        if self.gather_distributed:
            group = "world"
            if self.C is None:  # if only one rank has read a checkpoint, it is None on the others
                self.C = z_a.new_zeros(z_a.shape[1], z_a.shape[1], dtype=wide(z_a.dtype))
            self.agree(group)
        loss, covariance = tico(z_a, z_b, self.C, beta=self.beta, rho=self.rho, group=group)
        if update_covariance_matrix:
            self.C = covariance
        return loss

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        saved = state_dict.get(f"{prefix}C")
        if saved is not None:
            if self.C is None:
                self.C = torch.empty_like(saved)
        elif self.C is not None:
            warnings.warn("the checkpoint holds no covariance (lightly saves none): it starts at zero.", stacklevel=2)
            self.C = None
        super()._load_from_state_dict(state_dict, prefix, *arguments)
