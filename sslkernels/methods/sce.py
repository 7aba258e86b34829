# SPDX-License-Identifier: Apache-2.0
"""SCE: find an image's own key in a queue, and be as similar to the others as that key is."""

from __future__ import annotations

from torch import Tensor, nn

from sslkernels.arguments import check_number, check_temperature
from sslkernels.distributed import GroupLike
from sslkernels.functional import similarity_distillation
from sslkernels.methods.moco_v2 import MoCoV2
from sslkernels.ops.attention import ATTENTION


class SCE(MoCoV2):
    """Similarity Contrastive Estimation for Self-Supervised Soft Contrastive Learning. Denize et al., WACV 2023.

    Args:
        backbone, feature_dim, projection_dim, queue_size, momentum, backend, group: as in `MoCoV2`, whose projector,
            teacher and queue these are.
        coefficient: weight of the image's own key in the target; the rest is the teacher's.
        temperature, target_temperature: of student and teacher; see
            `sslkernels.functional.similarity_distillation`.

    The paper's teacher sees images that are changed less than the student's; here both views are drawn alike.

    >>> import torch
    >>> from sslkernels.methods import SCE
    >>> from sslkernels.models import resnet_small
    >>> method = SCE(resnet_small(), feature_dim=128, queue_size=256)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Denize et al. 2023"
    arxiv = "2111.14585"
    family = ATTENTION
    # These temperatures are those of MoCo v2's few keys here; the paper's were not tried on the digits.
    small = {
        "epochs": 10, "batch_size": 128, "lr": 2e-3, "projection_dim": 128, "queue_size": 1024, "temperature": 0.2,
        "target_temperature": 0.1, "momentum": 0.97,
    }  # fmt: skip
    paper_options = {"epochs": 200, "batch_size": 512, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        projection_dim: int = 128,
        queue_size: int = 65536,
        coefficient: float = 0.5,
        temperature: float = 0.1,
        target_temperature: float = 0.07,
        momentum: float = 0.99,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(
            backbone, feature_dim=feature_dim, projection_dim=projection_dim, queue_size=queue_size,
            temperature=temperature, momentum=momentum, backend=backend, group=group,
        )  # fmt: skip
        self.coefficient = check_number("SCE", "coefficient", coefficient, least=0, most=1)
        self.target_temperature = check_temperature("SCE", target_temperature, "target_temperature")

    def loss(self, query: Tensor, key: Tensor) -> Tensor:  # type: ignore[override]
        self.queue.agree(self.group)
        return similarity_distillation(
            query,
            key,
            self.queue.keys,
            coefficient=self.coefficient,
            temperature=self.temperature,
            target_temperature=self.target_temperature,
            backend=self.backend,
        )
