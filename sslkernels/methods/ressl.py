# SPDX-License-Identifier: Apache-2.0
"""ReSSL: be as similar to the images in a queue as the teacher is, from another view."""

from __future__ import annotations

from torch import Tensor, nn

from sslkernels.arguments import check_temperature
from sslkernels.distributed import GroupLike
from sslkernels.functional import ressl
from sslkernels.methods.moco_v2 import MoCoV2
from sslkernels.ops.attention import ATTENTION


class ReSSL(MoCoV2):
    """ReSSL: Relational Self-Supervised Learning with Weak Augmentation. Zheng et al., NeurIPS 2021.

    Args:
        backbone, feature_dim, projection_dim, queue_size, momentum, backend, group: as in `MoCoV2`, whose projector,
            teacher and queue these are.
        temperature, target_temperature: of student and teacher; see `sslkernels.functional.ressl`.

    The paper's teacher sees images that are changed less than the student's; here both views are drawn alike.

    >>> import torch
    >>> from sslkernels.methods import ReSSL
    >>> from sslkernels.models import resnet_small
    >>> method = ReSSL(resnet_small(), feature_dim=128, queue_size=256)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Zheng et al. 2021"
    arxiv = "2107.09282"
    family = ATTENTION
    small = {
        "epochs": 10, "batch_size": 128, "lr": 2e-3, "projection_dim": 128, "queue_size": 1024, "temperature": 0.1,
        "target_temperature": 0.04, "momentum": 0.97,
    }  # fmt: skip
    paper_options = {"epochs": 200, "batch_size": 256, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        projection_dim: int = 512,
        queue_size: int = 131072,
        temperature: float = 0.1,
        target_temperature: float = 0.04,
        momentum: float = 0.999,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(
            backbone, feature_dim=feature_dim, projection_dim=projection_dim, queue_size=queue_size,
            temperature=temperature, momentum=momentum, backend=backend, group=group,
        )  # fmt: skip
        self.target_temperature = check_temperature("ReSSL", target_temperature, "target_temperature")

    def loss(self, query: Tensor, key: Tensor) -> Tensor:  # type: ignore[override]
        self.queue.agree(self.group)
        return ressl(
            query,
            key,
            self.queue.keys,
            temperature=self.temperature,
            target_temperature=self.target_temperature,
            backend=self.backend,
        )
