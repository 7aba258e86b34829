# SPDX-License-Identifier: Apache-2.0
"""DeepClusterV2: its loss is the formula, its targets are clusters of its banks, and these are the last embeddings."""

from __future__ import annotations

from typing import Any

import clustering_oracle as oracle
import pytest
import torch
from torch import Tensor

from sslkernels.methods import DeepClusterV2
from sslkernels.models import ResNet

SAMPLES = 12


def deep_cluster(**options: Any) -> DeepClusterV2:
    sizes = {"samples": SAMPLES, "prototypes": 4, "projection_dim": 5, "hidden_dim": 7, **options}
    return DeepClusterV2(ResNet(1, (6,), (1,)), feature_dim=6, **sizes).double()


def prepared(method: DeepClusterV2, epoch: int = 0) -> Tensor:
    features = torch.randn(SAMPLES, 6, dtype=torch.float64)
    method.before_epoch(lambda: features, epoch, 9)
    return features


def views(rows: int) -> list[Tensor]:
    return list(torch.rand(2, rows, 1, 8, 8, dtype=torch.float64))


def formula(method: DeepClusterV2, seen: list[Tensor], index: Tensor) -> Tensor:
    losses = []
    for centroids, own in zip(method.clusters.prototypes, method.clusters.targets, strict=True):
        for view in seen:
            z = oracle.unit(method.projector(method.backbone(view)))
            logits = z @ centroids.T / method.temperature
            losses.append((logits.exp().sum(1).log() - logits[torch.arange(len(index)), own[index]]).mean())
    return torch.stack(losses).mean()


def test_loss_and_gradients_are_those_of_the_paper() -> None:
    method, index = deep_cluster(temperature=0.3), torch.tensor([3, 0, 11, 3, 7, 2])
    prepared(method)
    seen = views(6)
    loss, exact = method(seen, index=index)["loss"], formula(method, seen, index)
    torch.testing.assert_close(loss, exact)
    weights = list(method.parameters())
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)


def test_before_the_first_epoch_banks_hold_all_embeddings_and_their_clusters_are_targets() -> None:
    method = deep_cluster().eval()
    features = prepared(method)
    rows = oracle.unit(method.projector(features)).detach()
    assert method.clusters.targets.shape == (3, SAMPLES) and len(method.clusters.prototypes.unique(dim=0)) == 3
    for bank in method.banks:
        torch.testing.assert_close(bank.rows, rows)
    for centroids, own in zip(method.clusters.prototypes, method.clusters.targets, strict=True):
        again, places = oracle.kmeans(rows, centroids, "cosine", 1, "keep")
        torch.testing.assert_close(centroids, again)
        assert torch.equal(own, places)


def test_later_epochs_cluster_the_banks_in_turn() -> None:
    method = deep_cluster()
    prepared(method)
    for bank in method.banks:
        bank.rows.copy_(oracle.unit(torch.randn_like(bank.rows)))
    before = [bank.rows.clone() for bank in method.banks]
    prepared(method, epoch=1)
    for head, (centroids, own) in enumerate(zip(method.clusters.prototypes, method.clusters.targets, strict=True)):
        assert torch.equal(method.banks[head % 2].rows, before[head % 2])
        assert torch.equal(own, oracle.kmeans(before[head % 2], centroids, "cosine", 1, "keep")[1])


def test_after_a_step_banks_hold_the_last_embeddings_of_each_view() -> None:
    method, index = deep_cluster(), torch.tensor([3, 0, 3])
    prepared(method)
    before = [bank.rows.clone() for bank in method.banks]
    out = method(views(3), index=index)
    assert all(torch.equal(bank.rows, rows) for bank, rows in zip(method.banks, before, strict=True))
    method.after_step(0, 9)
    for bank, rows, z in zip(method.banks, before, out["embeddings"][:2], strict=True):
        rows[[0, 3]] = oracle.unit(z[[1, 2]]).detach()  # of a sample that came twice the last one stays
        torch.testing.assert_close(bank.rows, rows)
    kept = [bank.rows.clone() for bank in method.banks]
    method.eval()(views(3), index=index)
    method.after_step(1, 9)
    assert all(torch.equal(bank.rows, rows) for bank, rows in zip(method.banks, kept, strict=True))


def test_without_clusters_there_is_no_loss_and_all_state_is_saved() -> None:
    method, other = deep_cluster(prototypes=3000), deep_cluster(prototypes=3000)
    index = torch.arange(4)
    assert method(views(4), index=index)["loss"] == 0
    prepared(method)
    assert method.clusters.prototypes.shape == (3, SAMPLES, 5)  # no more clusters than samples
    other.load_state_dict(method.state_dict())
    seen = views(4)
    assert torch.equal(method.eval()(seen, index=index)["loss"], other.eval()(seen, index=index)["loss"])
    assert not any(name.startswith(("banks", "clusters")) for name, _ in method.named_parameters())
    with pytest.raises(IndexError, match="MemoryBank: index holds 12"):
        method(seen, index=torch.arange(9, 13))
