# SPDX-License-Identifier: Apache-2.0
"""DLG-LC: tell clusters from each other, and let no sample teach whose loss says that it is in the wrong one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_number, check_size
from sslkernels.distributed import GroupLike, all_rows, broadcast, shard_of
from sslkernels.functional import linear_cross_entropy, logsumexp_similarity, prototype_cross_entropy, topk_similarity
from sslkernels.functional.clustering import kmeans_of_shared
from sslkernels.functional.labelled import check_labels
from sslkernels.methods.margin_classifier import MOST
from sslkernels.methods.method import Method
from sslkernels.modules import Remembering
from sslkernels.ops.rows import unit_rows
from sslkernels.ops.similarity import SIMILARITY

VIEWS = 2
# A mixture of two needs a few losses, and ones that differ.
FEWEST = 4


class DLGLC(Method):
    """Self-Supervised Learning with Cluster-Aware-DINO for High-Performance Robust Speaker Verification. Han, Chen and
    Qian, 2023: its second stage, a dynamic loss gate with label correction.

    Give it the backbone of a `CADINO` that is trained, as ``sslkernels train dlg_lc --start RUN`` does. Every
    ``every`` epochs k-means clusters the features of all samples; a sample's cluster y is its label, and the centroids
    are the first centres c of a classifier of angles. A sample's loss is then

        ``l_i = mean over both views of AAM(f_i, y_i)``                 where l_i < gate
        ``- mean over both views of sum_k q_k log p_k``                  elsewhere, where max_k p'_k > confidence
        0                                                               elsewhere

    with ``p = softmax(scale * cos(f_i, c))``, the p' of the other view, which gets no gradient, and its sharper form
    ``q = softmax(scale * cos(f'_i, c) / sharpen)``. The gate is where two Gaussians meet that a mixture finds among the
    losses l of the epoch before, and open in the first epoch after a clustering. This follows the paper's abstract:
    that the other view corrects, ``sharpen``, ``confidence``, and centres that begin at the centroids are ours.

    Args:
        backbone: samples to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        samples: number of training samples; a run fills it.
        clusters: clusters of k-means, at least 2; as many as samples if those are fewer.
        every: epochs between two clusterings.
        margin: what AAM adds to the angle with the own centre, from 0 to 3.
        scale: what cosines are multiplied by.
        confidence: how probable the other view's class must be, from 0 to 1.
        sharpen: divides the logits of the other view.
        iterations: iterations of k-means.
        backend, group: see `Method`.

    The mixture is scikit-learn's. `forward` keeps the losses in training mode, and `after_step` writes them down for
    every rank. Until `before_epoch` was called no sample has a label, and the loss is 0.

    >>> import torch
    >>> from sslkernels.methods import DLGLC
    >>> from sslkernels.models import SpectrogramNet
    >>> method = DLGLC(SpectrogramNet((8, 16)), feature_dim=32, samples=40, clusters=5)
    >>> method.before_epoch(lambda: torch.randn(40, 32), 0, 2)
    >>> views = torch.randn(8, 1, 16, 30), torch.randn(8, 1, 16, 30)
    >>> method(views, index=torch.arange(8))["loss"].shape
    torch.Size([])
    """

    paper = "Han, Chen and Qian 2023"
    arxiv = "2304.05754"
    family = SIMILARITY
    after_abstract = True
    needs = ("index",)
    small = {"epochs": 30, "batch_size": 256, "lr": 1e-3, "clusters": 40, "every": 5}
    # Nobody here could look the paper's own up.
    paper_options = {"epochs": 100, "batch_size": 256, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        samples: int,
        clusters: int = 7500,
        every: int = 20,
        margin: float = 0.2,
        scale: float = 30.0,
        confidence: float = 0.5,
        sharpen: float = 0.5,
        iterations: int = 10,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        name, feature_dim = "DLGLC", self.check_feature_dim(feature_dim)
        samples = check_count(name, "samples", samples, feature_dim)
        clusters = min(samples, check_count(name, "clusters", clusters, feature_dim))
        self.every = check_size(name, "every", every)
        self.margin = check_number(name, "margin", margin, least=0.0, most=MOST)
        self.scale = check_number(name, "scale", scale, above=0.0)
        self.confidence = check_number(name, "confidence", confidence, least=0.0, most=1.0)
        self.sharpen = check_number(name, "sharpen", sharpen, above=0.0)
        self.iterations = check_size(name, "iterations", iterations)
        self.centers = nn.Parameter(torch.empty(clusters, feature_dim))
        nn.init.xavier_uniform_(self.centers)
        self.pseudo = PseudoLabels(samples)
        self._newest: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def before_epoch(self, embed: Callable[[], Tensor], epoch: int, epochs: int | None) -> None:
        self.pseudo.agree(self.group)
        if epoch % self.every:
            self.pseudo.move_gate(self.group)
            return
        options = {"metric": "cosine", "iterations": self.iterations, "group": self.group, "backend": self.backend}
        centroids, own = kmeans_of_shared(embed(), len(self.centers), **options)
        self.centers.copy_(centroids)
        self.pseudo.begin(own)

    def forward(self, views: Sequence[Tensor], **given: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        z0, z1 = self.features_of(self.two_views(views))
        index = check_labels("DLGLC", "index", self.needed(given)["index"], z0)
        loss, own, trusted = self.compared(z0, z1, index)
        if self.training:
            self._newest.append((index, own))
        return {"loss": loss, "embeddings": (z0, z1, index), "trusted_share": trusted.double().mean()}

    def loss(self, z0: Tensor, z1: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        return self.compared(z0, z1, index)[0]

    def compared(self, z0: Tensor, z1: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the loss, and of each sample its loss of the label and whether that passes the gate."""
        self.pseudo.agree(self.group)
        shard = shard_of(self.group, "DLGLC", z0, z1)
        rows, label = unit_rows(z0, z1, backend=self.backend), self.pseudo.label[index]
        told = linear_cross_entropy(
            rows, self.centers.to(rows.dtype), label.repeat(VIEWS), scale=self.scale, margin=self.margin,
            normalize=True, reduction="none", backend=self.backend,
        ).view(VIEWS, -1)  # fmt: skip
        own = told.detach().mean(0)
        trusted = own < self.pseudo.gate[0]
        centers = unit_rows(self.centers.to(rows.dtype), backend=self.backend)
        others = rows.detach().roll(len(z0), 0)
        corrected = (~trusted & (label >= 0)).repeat(VIEWS) & (self.surest(others, centers) > self.confidence)
        amount = prototype_cross_entropy(
            rows, centers, others, temperature=1 / self.scale, teacher_temperature=self.sharpen / self.scale,
            row_weight=corrected.to(own.dtype), backend=self.backend,
        )  # fmt: skip
        total = (told * trusted).sum() + amount
        # Its mean over ranks is that of all rows.
        return total * shard.ranks / (VIEWS * shard.total(len(index))), own, trusted

    @torch.no_grad()
    def surest(self, rows: Tensor, centers: Tensor) -> Tensor:
        """Compute the probability ``(N,)`` of the most probable class of each unit row."""
        cosine, _ = topk_similarity(rows, centers, 1, metric="dot", backend=self.backend)
        return (self.scale * cosine[:, 0] - logsumexp_similarity(rows, centers, self.scale, backend=self.backend)).exp()

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        if self._newest:
            self.pseudo.write(*(torch.cat(parts) for parts in zip(*self._newest, strict=True)), self.group)
            self._newest.clear()


class PseudoLabels(Remembering):
    """The cluster of each sample, -1 before there is one; its loss, NaN before there is one; and the gate of losses."""

    remembered = ("gate", "label", "losses")

    def __init__(self, samples: int) -> None:
        super().__init__()
        with torch.inference_mode(False):  # tensors made in inference mode cannot be written outside it
            self.label = torch.full((samples,), -1)
            self.losses = torch.full((samples,), math.nan)
            self.gate = torch.full((1, 1), math.inf)  # ranks compare tensors of two dimensions

    def begin(self, label: Tensor) -> None:
        """Take new labels, and forget the losses of the old ones."""
        self.label.copy_(label)
        self.losses.fill_(math.nan)
        self.gate.fill_(math.inf)

    @torch.no_grad()
    def write(self, index: Tensor, losses: Tensor, group: GroupLike) -> None:
        """Write the losses of every rank's samples; one that comes several times has its largest."""
        shard = shard_of(group, "DLGLC", losses[:, None])
        index, losses = all_rows(index, shard), all_rows(losses, shard).to(self.losses.dtype)
        self.losses[index] = -math.inf
        self.losses.scatter_reduce_(0, index, losses, "amax")

    def move_gate(self, group: GroupLike) -> None:
        """Put the gate where the two Gaussians among the losses meet, as the first rank finds them."""
        known = self.losses[self.losses.isfinite()]
        if len(known) >= FEWEST and known.min() < known.max():
            self.gate.fill_(meeting_point(known))
        shard = shard_of(group, "DLGLC", self.gate)
        self.gate.copy_(broadcast(self.gate, shard))


def meeting_point(losses: Tensor) -> float:
    """Fit a mixture of two Gaussians to losses ``(N,)``, and find where both weigh the same, between their means.

    With weight w, mean m and deviation s of each it solves ``log w - log s - (x - m)^2 / (2 s^2)`` for the same value
    of both, a quadratic equation. Where they do not meet there, one covers the other, and the gate is infinite.
    """
    from sklearn.mixture import GaussianMixture

    fitted = GaussianMixture(2, random_state=0).fit(losses.double().cpu().numpy()[:, None])
    parts = zip(fitted.means_[:, 0], fitted.covariances_[:, 0, 0], fitted.weights_, strict=True)
    (m, v, w), (n, u, t) = sorted(parts)
    a, b = 1 / u - 1 / v, 2 * (m / v - n / u)
    c = n * n / u - m * m / v + 2 * math.log(w / t) - math.log(v / u)
    # The stable form of both roots: neither is a small difference of large numbers, and a may be 0.
    root = -(b + math.copysign(math.sqrt(max(b * b - 4 * a * c, 0.0)), b)) / 2
    found = [x for over, under in ((root, a), (c, root)) if under for x in [over / under] if m < x < n]
    return float(min(found, default=math.inf))
