# SPDX-License-Identifier: Apache-2.0
"""HaLP: besides its own key, a query is pulled to positives that are made up between the key and prototypes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_number, check_size, check_weights
from sslkernels.distributed import GroupLike, shard_of, summed
from sslkernels.functional import topk_similarity
from sslkernels.methods.moco_v2 import MoCoV2
from sslkernels.ops.dtypes import wide
from sslkernels.ops.rows import row_dot, unit_rows
from sslkernels.ops.similarity import SIMILARITY
from sslkernels.state import MemoryBank

ROUNDS = 10  # of k-means


class HaLP(MoCoV2):
    """Hallucinating Latent Positives for Skeleton-based Self-Supervised Learning. Shah et al., CVPR 2023.

    MoCo v2's loss less ``mu * mean <q, z> / temperature`` over hallucinated positives z. For a key k with the nearest
    prototype p0, another prototype p is drawn; z lies on the arc from k to p, at the share ``t = (1 - u) * t_max`` of
    it with u uniform from 0 to ``hardness``. At ``t_max`` z would be as close to p as to p0. A z whose nearest
    prototype is not p0 (a third one is) does not count.

    Args:
        backbone: samples to features ``(N, feature_dim)``; the paper has a recurrent network of skeletons.
        feature_dim: features of the backbone, and width of the projection's hidden layer.
        projection_dim, queue_size, temperature, momentum: as in `MoCoV2`.
        prototypes: number of prototypes, two or more, of spherical k-means over the newest keys of the queue.
        newest: number of these keys.
        every: optimizer steps from one k-means to the next.
        generated: positives that are drawn for each key.
        mu: weight of the positives.
        hardness: how far from ``t_max`` positives may lie, from 0 (the hardest) to 1.
        warm_up: optimizer steps before the first k-means; until then the loss is MoCo's. The paper goes on from 200
            epochs of MoCo.
        backend, group: see `Method`. All ranks have the same queue, and make the same prototypes of it.

    Cost: no z is ever made. It is a sum of k and p, so that its products with prototypes are those of k and p, and the
    sum over z is one of k and of prototypes: ``O(N * generated * prototypes)`` operations and memory.

    The prototypes are means of unit rows, made unit rows again, where the authors take the mean on the sphere. An angle
    beyond a right one is found by atan2; the authors' atan makes ``t_max`` negative there.

    >>> import torch
    >>> from sslkernels.methods import HaLP
    >>> from sslkernels.models import resnet_small
    >>> method = HaLP(resnet_small(), feature_dim=128, queue_size=256)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Shah et al. 2023"
    arxiv = "2304.00387"
    seeds = (113,)
    family = SIMILARITY
    small = {**MoCoV2.small, "epochs": 25, "prototypes": 20, "warm_up": 50}
    paper_options = {"epochs": 450, "batch_size": 64, "lr": 1e-3}

    made: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        projection_dim: int = 128,
        queue_size: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.999,
        prototypes: int = 20,
        newest: int = 256,
        every: int = 10,
        generated: int = 100,
        mu: float = 2.0,
        hardness: float = 0.8,
        warm_up: int = 125000,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(
            backbone,
            feature_dim=feature_dim,
            projection_dim=projection_dim,
            queue_size=queue_size,
            temperature=temperature,
            momentum=momentum,
            backend=backend,
            group=group,
        )
        prototypes = check_size("HaLP", "prototypes", prototypes, least=2)
        self.newest = min(check_size("HaLP", "newest", newest), queue_size)
        if self.newest < prototypes:
            raise ValueError(
                f"HaLP: prototypes is {prototypes} and k-means has {self.newest} keys; pass a larger newest and "
                "queue_size, or fewer prototypes."
            )
        self.every = check_size("HaLP", "every", every)
        self.generated = check_size("HaLP", "generated", generated)
        (self.mu,) = check_weights("HaLP", mu=mu)
        self.hardness = check_number("HaLP", "hardness", hardness, least=0, most=1)
        self.warm_up = check_size("HaLP", "warm_up", warm_up, least=0)
        # With a momentum of 0 a bank holds what it was given last.
        self.prototypes = MemoryBank(prototypes, projection_dim, momentum=0.0)
        self.register_buffer("made", torch.zeros(()))  # 1 when k-means has made prototypes

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        query, key = self.query_and_key(views)
        with torch.autocast(key.device.type, enabled=False):  # angles need more than its 8 bits
            positive = self.made * self.hallucinated(key.to(wide(key.dtype)))
        embeddings = query, key, positive
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def loss(self, query: Tensor, key: Tensor, positive: Tensor) -> Tensor:  # type: ignore[override]
        query_rows = unit_rows(query, backend=self.backend).to(positive.dtype)
        pulled = row_dot(query_rows, positive, backend=self.backend).sum()
        return super().loss(query, key) - self.mu / self.temperature * pulled

    @torch.no_grad()
    def hallucinated(self, key: Tensor) -> Tensor:
        """Sum the positives of each key ``(N, projection_dim)``, over the number of all that count."""
        self.prototypes.agree(self.group)
        rows = self.prototypes.rows.to(key.dtype)
        count = len(rows)
        cosines, between = key @ rows.T, rows @ rows.T  # (N, P), (P, P)
        nearest = cosines.argmax(1, keepdim=True)
        other = torch.randint(1, count, (len(key), self.generated), device=key.device)
        other = (nearest + other) % count
        to_nearest, to_other = cosines.gather(1, nearest), cosines.gather(1, other).clamp(-0.9999, 0.9999)
        angle = to_other.acos()
        closer = to_nearest - to_other
        # Where z is as close to p as to p0: sin((1 - t) angle) <k, p0 - p> = sin(t angle) (1 - <p, p0>).
        most = torch.atan2(closer * angle.sin(), 1 - between[nearest, other] + closer * angle.cos())
        turned = most * (1 - self.hardness * torch.rand_like(most))
        of_key, of_other = (part.sin() / angle.sin() for part in (angle - turned, turned))
        products = of_key[..., None] * cosines[:, None] + of_other[..., None] * between[other]  # (N, generated, P)
        counts = (products.argmax(2) == nearest).to(key.dtype)
        shard = shard_of(self.group, "HaLP", key)
        total = summed(counts.sum(), shard).clamp_min(1) / shard.ranks
        shares = (F.one_hot(other, count) * (counts * of_other)[..., None]).sum(1)  # of each prototype in the sum
        return ((counts * of_key).sum(1, keepdim=True) * key + shares @ rows) / total

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        if step >= self.warm_up and (step - self.warm_up) % self.every == 0:
            self._make_prototypes(step)

    @torch.no_grad()
    def _make_prototypes(self, step: int) -> None:
        keys = self.queue.keys
        places = (self.queue.position - 1 - torch.arange(self.newest, device=keys.device)) % len(keys)
        rows, count = keys[places], len(self.prototypes.rows)
        # Every rank draws the same rows to begin with, and so does a run that was resumed.
        first = torch.randperm(len(rows), generator=torch.Generator().manual_seed(step))[:count]
        centres = rows[first.to(rows.device)]
        for _ in range(ROUNDS):
            assigned = topk_similarity(rows, centres, 1, backend=self.backend)[1]
            sums = F.one_hot(assigned[:, 0], count).to(rows.dtype).T @ rows
            centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, F.normalize(sums, dim=1), centres)
        self.prototypes.update(torch.arange(count, device=rows.device), centres)
        self.made.fill_(1)
