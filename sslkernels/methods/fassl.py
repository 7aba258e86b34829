# SPDX-License-Identifier: Apache-2.0
"""FASSL: prototypes whose shares follow a long tail, and more weight for samples whose prototypes are rare."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_number, check_temperature, check_weights, check_widths
from sslkernels.distributed import GroupLike, Shard, shard_of, summed
from sslkernels.functional import mean_entropy, prototype_cross_entropy, topk_similarity
from sslkernels.methods.method import Method
from sslkernels.methods.prototyped import usage
from sslkernels.models import ProjectionHead
from sslkernels.modules import Remembering
from sslkernels.ops.prototypes import PROTOTYPES
from sslkernels.prototypes import Prototypes

# A prototype that was hardly ever the nearest counts as if it had this part of an even share: its first sample would
# otherwise outweigh the batch.
RAREST = 0.01


class FASSL(Method):
    """Frequency-Aware Self-Supervised Long-Tailed Learning. Lin, Chen and Wang, ICCV Workshops 2023.

    In data of which some classes are rare, assignments that are spread evenly, as SwAV's are, tear frequent classes
    apart and join rare ones. With unit rows z of the views and prototypes W of length 1: the weighted mean over the
    first two views u, over all other views v, and over samples of

        -sum_k Q_k log softmax(z_v W^T / temperature)_k,   Q = softmax(z_u W^T / epsilon)

    plus ``prior * sum_k q_k log(q_k / m_k)`` with the mean m of all softmaxes and ``q_k ~ (k + 1) ** -tail``. A sample
    weighs ``f_c ** -rebalance``, where f_c is how often its own, the nearest prototype c was the nearest of late.

    The abstract says that prototypes reflect the long-tailed distribution, and that the scheme then focuses on samples
    of rare classes. All else is ours: the prior q is that of PMSN (Assran et al. 2023), which keeps all rows from one
    prototype; so are the weights, the running shares, and that both happen in one stage.

    Args:
        backbone: images of every size that views have to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        prototypes: number of prototypes.
        hidden_dim, projection_dim: widths of the projector.
        temperature: temperature of the predictions.
        epsilon: temperature of the assignments.
        tail: how fast the shares fall that prototypes should have; 0 for all alike.
        prior: weight of the regulariser. With 1, as in PMSN, nearly all rows had one prototype after 20 steps on
            clothes: a prediction that is sure then gains more than the regulariser takes.
        rebalance: power of the weights; 0 for all alike.
        share_momentum: what a step keeps of the running shares.
        backend, group: see `Method`. Shares are those of the rows of all ranks.

    `forward` takes two views or more, and gives besides how the first view uses the prototypes, which a run logs.

    >>> import torch
    >>> from sslkernels.methods import FASSL
    >>> from sslkernels.models import resnet_small
    >>> method = FASSL(resnet_small(), feature_dim=128, prototypes=64, hidden_dim=64, projection_dim=32)
    >>> views = torch.rand(8, 1, 16, 16), torch.rand(8, 1, 16, 16), torch.rand(8, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Lin, Chen and Wang 2023"
    arxiv = "2309.04723"
    seeds = (97,)
    after_abstract = True
    family = PROTOTYPES
    views = None
    whole_views = True
    small = {
        "epochs": 20, "batch_size": 64, "lr": 2e-3, "prototypes": 64, "hidden_dim": 256, "projection_dim": 128,
    }  # fmt: skip
    # These are SwAV's: nobody here could look the paper's up.
    paper_options = {"epochs": 400, "batch_size": 256, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        prototypes: int = 1000,
        hidden_dim: int = 2048,
        projection_dim: int = 128,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        tail: float = 0.25,
        prior: float = 5.0,
        rebalance: float = 0.5,
        share_momentum: float = 0.99,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        _, hidden_dim, projection_dim = check_widths(
            "FASSL", feature_dim=feature_dim, hidden_dim=hidden_dim, projection_dim=projection_dim
        )
        prototypes = check_count("FASSL", "prototypes", prototypes, projection_dim)
        self.temperature = check_temperature("FASSL", temperature)
        self.epsilon = check_number("FASSL", "epsilon", epsilon, above=0)
        tail, self.prior, self.rebalance = check_weights("FASSL", tail=tail, prior=prior, rebalance=rebalance)
        share_momentum = check_number("FASSL", "share_momentum", share_momentum, least=0, most=1)
        self.projector = ProjectionHead(feature_dim, hidden_dim, projection_dim)
        self.prototypes = Prototypes(projection_dim, prototypes, kind="sphere")
        wanted = torch.arange(1.0, prototypes + 1) ** -tail
        self.register_buffer("wanted", wanted / wanted.sum(), persistent=False)
        self.frequencies = Frequencies(prototypes, share_momentum)

    wanted: Tensor

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        features = torch.cat(self.features_of(self.any_views(views)))
        rows = F.normalize(self.projector(features), dim=1).chunk(len(views))
        if self.training:
            self.frequencies.collect(self.nearest(torch.cat(rows[:2])))
        used = usage(rows[0], self.prototypes.weight, self.epsilon, None)
        return {"loss": self.loss(*rows), "embeddings": rows, **used}

    def loss(self, *embeddings: Tensor) -> Tensor:
        self.frequencies.agree(self.group)
        shard = shard_of(self.group, "FASSL", embeddings[0])
        losses = [self._predicted(embeddings, place, shard) for place in (0, 1)]
        together = torch.cat(embeddings)
        options = {"temperature": self.temperature, "prior": self.wanted, "normalize": False}
        apart = mean_entropy(together, self.prototypes.weight, **options, group=self.group, backend=self.backend)  # type: ignore[arg-type]
        return (losses[0] + losses[1]) / 2 + self.prior * apart

    def _predicted(self, rows: Sequence[Tensor], place: int, shard: Shard) -> Tensor:
        """Compute how well the other views predict the prototypes of view ``place``."""
        others, target = [*rows[:place], *rows[place + 1 :]], rows[place].detach()
        shares = self.frequencies.shares[0]
        weight = shares.clamp(min=RAREST / len(shares))[self.nearest(target)] ** -self.rebalance
        weight = weight * (shard.ranks / len(others) / summed(weight.sum(), shard))
        return prototype_cross_entropy(
            torch.stack(others),
            self.prototypes.weight,
            target,
            temperature=self.temperature,
            teacher_temperature=self.epsilon,
            row_weight=weight.expand(len(others), -1),
            backend=self.backend,
        )

    @torch.no_grad()
    def nearest(self, rows: Tensor) -> Tensor:
        """Find the nearest prototype of each of rows ``(N, projection_dim)``."""
        return topk_similarity(rows.detach(), self.prototypes.weight.detach(), 1, backend=self.backend)[1][:, 0]

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        self.prototypes.normalize()
        self.frequencies.update(self.group)


class Frequencies(Remembering):
    """The running share of rows that have each prototype as their nearest, ``(1, K)``; all alike at first."""

    shares: Tensor
    remembered = ("shares",)

    def __init__(self, prototypes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        with torch.inference_mode(False):  # tensors made in inference mode cannot be written outside it
            self.shares = torch.full((1, prototypes), 1 / prototypes)
        self._found: list[Tensor] = []

    def collect(self, nearest: Tensor) -> None:
        """Keep the nearest prototypes ``(N,)`` of rows until the next `update`."""
        self._found.append(nearest)

    @torch.no_grad()
    def update(self, group: GroupLike) -> None:
        """Move the shares by what was collected on all ranks; without any they stay."""
        if not self._found:
            return
        self.agree(group)
        found = torch.cat(self._found)
        count = torch.bincount(found, minlength=self.shares.shape[1]).to(self.shares.dtype)
        shard = shard_of(group, "FASSL, shares", found[:, None], momentum=self.momentum)
        self.shares.lerp_(summed(count, shard) / shard.total(len(found)), 1 - self.momentum)
        self._found.clear()
