# SPDX-License-Identifier: Apache-2.0
"""PMSN: MSN whose prototypes are used as often as a power law says, for data with few samples of most kinds."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sslkernels.arguments import check_number
from sslkernels.functional.mean_entropy import power_law
from sslkernels.methods.msn import MSN
from sslkernels.models import ViT


class PMSN(MSN):
    """The Hidden Uniform Cluster Prior in Self-Supervised Learning. Assran et al., ICLR 2023.

    MSN's loss, whose regulariser is the divergence of the mean assignment m of all of the student's rows from a prior
    q over the K prototypes, in place of that from all alike:

    ``me_max * sum_k q_k log(q_k / m_k),   q_k = k ** -exponent / sum_j j ** -exponent``

    Args:
        backbone, feature_dim, prototypes, hidden_dim, projection_dim, temperature, sharpen, me_max: as in `MSN`.
        mask_ratio, momentum, backend, group: as in `MSN`.
        sinkhorn: as in `MSN`; targets that are spread over the prototypes evenly pull against the prior.
        exponent: how steeply the prior falls; 0 is MSN's.

    The divergence has the direction of lightly's ``PMSNLoss``; nobody here could look the paper's up.

    >>> import torch
    >>> from sslkernels.methods import PMSN
    >>> from sslkernels.models import ViT
    >>> vit = ViT((8, 8), patch_size=2, width=32, depth=1, class_token=True, any_size=True)
    >>> method = PMSN(vit, feature_dim=32, prototypes=64, hidden_dim=32, projection_dim=16)
    >>> views = torch.rand(8, 1, 8, 8), torch.rand(8, 1, 8, 8), torch.rand(8, 1, 4, 4)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Assran et al. 2023"
    arxiv = "2210.07277"
    small = MSN.small
    paper_options = MSN.paper_options

    def __init__(
        self,
        backbone: ViT,
        *,
        exponent: float = 0.25,
        **options: Any,
    ) -> None:
        super().__init__(backbone, **options)
        self.exponent = check_number("PMSN", "exponent", exponent)

    @property
    def prior(self) -> Tensor:
        return power_law(self.prototypes.weight, self.exponent)
