# SPDX-License-Identifier: Apache-2.0
"""ColloSSL: sensors that record one person at the same moment agree with each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_size, check_temperature, shape_of
from sslkernels.distributed import GroupLike, Shard, all_rows, gather_rows
from sslkernels.functional import logsumexp_similarity
from sslkernels.functional.similarity import sharded
from sslkernels.methods.method import Method
from sslkernels.ops.dtypes import widened
from sslkernels.ops.rows import row_dot, unit_rows
from sslkernels.ops.similarity import SIMILARITY
from sslkernels.ops.softplus import softplus

# Devices that an anchor is pushed from: those next to its positive one, if there are so many.
NEGATIVES = 2
EPS = 1e-8


class ColloSSL(Method):
    """ColloSSL: Collaborative Self-Supervised Learning for Human Activity Recognition. Jain et al., IMWUT 2022.

    Each device is the anchor in turn. The device p whose data are distributed most like the anchor's is its positive
    one, and the next two are its negatives. Of the anchor's sample i, with cosines over the temperature,

    ``loss_i = log(w_p e^s_ip + Σ_n w_n e^s_in) − log(w_p e^s_ip)``

    s_ip is with the sample of p at the same moment, and each s_in with a sample of a negative device at another moment.
    A device weighs one over its distance from the anchor, a maximum mean discrepancy.

    This follows the paper after the abstract and its loss. Ours are that all other samples of the batch are moments of
    a negative device, that every device is an anchor, and the discrepancy: it is that of the lengths of the devices'
    measurements over time, with a Gaussian kernel as wide as samples are apart.

    Args:
        backbone: series ``(N, C, T)`` to features ``(N, feature_dim)``, one part after the other for each device.
        feature_dim: features of the backbone, a multiple of ``sensors``.
        sensors: number of devices, at least 3. Each has equally many of the C channels, one after the other.
        temperature: temperature of the cosines.
        backend: see `Method`.
        group: ranks whose samples are negatives too; see `Method`.

    >>> import torch
    >>> from sslkernels.methods import ColloSSL
    >>> backbone = torch.nn.Sequential(torch.nn.AdaptiveAvgPool1d(8), torch.nn.Flatten())
    >>> method = ColloSSL(backbone, feature_dim=24, sensors=3)
    >>> method([torch.randn(16, 3, 100)])["loss"].shape
    torch.Size([])
    """

    paper = "Jain et al. 2022"
    arxiv = "2202.00758"
    seeds = (119,)
    after_abstract = True
    family = SIMILARITY
    views = 1
    # With the paper's temperature few_shot was below an untrained network's in each of three seeds.
    small = {"epochs": 15, "batch_size": 128, "lr": 2e-3, "sensors": 6, "temperature": 0.3}
    paper_options = {"epochs": 100, "batch_size": 512, "lr": 1e-4}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        sensors: int = 3,
        temperature: float = 2.0,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        self.sensors = check_size("ColloSSL", "sensors", sensors, least=3)
        if feature_dim % self.sensors:
            raise ValueError(
                f"ColloSSL: feature_dim is {feature_dim} and sensors {self.sensors}; pass a backbone with equally many "
                "features of each."
            )
        self.temperature = check_temperature("ColloSSL", temperature)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        view = self.one_view(views)
        embeddings = self.features(view), self.lengths(view)
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def check_views(self, views: Sequence[Tensor]) -> None:
        self.lengths(views[0])

    @torch.no_grad()
    def lengths(self, view: Tensor) -> Tensor:
        """Compute the lengths of the devices' measurements ``(N, devices · T)``, one device after the other."""
        if view.dim() != 3 or view.shape[1] % self.sensors:
            raise ValueError(
                f"ColloSSL: a view has shape {shape_of(view)}; pass series (N, C, T) with equally many channels of "
                f"each of the {self.sensors} sensors."
            )
        return widened(view).unflatten(1, (self.sensors, -1)).norm(dim=2).flatten(1)

    def loss(self, features: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        shard = sharded(self.group, "ColloSSL", features, sensors=self.sensors, temperature=self.temperature)
        with torch.autocast(lengths.device.type, enabled=False):
            away = discrepancies(all_rows(lengths, shard).chunk(self.sensors, 1), self.backend)
        order = away.argsort(1)[:, 1:]  # the nearest is the device itself
        parts = torch.stack([unit_rows(part, backend=self.backend) for part in features.chunk(self.sensors, 1)])
        everywhere = gather_rows(parts.transpose(0, 1), shard).transpose(0, 1)
        losses = [
            self._anchored(anchor, parts, everywhere, order[anchor], -away[anchor].log(), shard)
            for anchor in range(self.sensors)
        ]
        return torch.stack(losses).mean() * shard.ranks / shard.total(len(features))

    def _anchored(
        self, anchor: int, parts: Tensor, everywhere: Tensor, order: Tensor, weight: Tensor, shard: Shard
    ) -> Tensor:
        """Sum the loss of one device's samples. ``weight`` is the logarithm of that of each other device.

        Devices are chosen by tensors, since to read their order would wait for the device that computes it.
        """
        near, others = order[:1], order[1 : 1 + NEGATIVES]
        scale, count = 1 / self.temperature, everywhere.shape[1]
        own = shard.start + torch.arange(parts.shape[1], device=weight.device)
        moments = torch.stack([own + place * count for place in range(len(others))], 1)
        keys, bias = everywhere[others].flatten(0, 1), weight[others].repeat_interleave(count)
        rest = logsumexp_similarity(parts[anchor], keys, scale, bias=bias, exclude=moments, backend=self.backend)
        positive = scale * row_dot(parts[anchor], parts[near].squeeze(0), backend=self.backend) + weight[near]
        return softplus(rest - positive).sum()


@torch.no_grad()
def discrepancies(devices: Sequence[Tensor], backend: str | None = None) -> Tensor:
    """Compute the maximum mean discrepancy of all pairs of devices ``(N, T)``; that of a device and itself is 0.

    ``mean k(x, x') + mean k(y, y') − 2 mean k(x, y)`` with ``k = exp(−|x − y|² / b)``, b the mean of all squared
    distances. Sums of kernels are log-sum-exps of products, so that no pairs of samples are stored.
    """
    every = torch.cat(list(devices))
    middle = every.mean(0)
    wide = 2 * (every - middle).square().sum(1).mean().clamp_min(EPS)
    rows = [device - middle for device in devices]
    offsets = [-row.square().sum(1) / wide for row in rows]
    scale, count = 2 / wide, len(rows)
    alike = every.new_zeros(count, count)
    for i in range(count):
        for j in range(i, count):
            sums = logsumexp_similarity(rows[i], rows[j], scale, bias=offsets[j], backend=backend) + offsets[i]
            alike[i, j] = alike[j, i] = sums.exp().mean() / len(rows[j])
    own = alike.diagonal()
    return (own[:, None] + own - 2 * alike).clamp_min(EPS).fill_diagonal_(0)
