# SPDX-License-Identifier: Apache-2.0
"""PMSN: MSN whose prototypes are used as often as a power law says, for data with few samples of most kinds."""

from __future__ import annotations

from torch import Tensor

from sslkernels.arguments import check_number
from sslkernels.distributed import GroupLike
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
        feature_dim: int,
        prototypes: int = 1024,
        hidden_dim: int = 2048,
        projection_dim: int = 256,
        temperature: float = 0.1,
        sharpen: float = 0.25,
        me_max: float = 1.0,
        mask_ratio: float = 0.15,
        sinkhorn: bool = True,
        momentum: float = 0.996,
        exponent: float = 0.25,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(
            backbone, feature_dim=feature_dim, prototypes=prototypes, hidden_dim=hidden_dim,
            projection_dim=projection_dim, temperature=temperature, sharpen=sharpen, me_max=me_max,
            mask_ratio=mask_ratio, sinkhorn=sinkhorn, momentum=momentum, backend=backend, group=group,
        )  # fmt: skip
        self.exponent = check_number("PMSN", "exponent", exponent)

    @property
    def prior(self) -> Tensor:
        return power_law(self.prototypes, self.exponent)
