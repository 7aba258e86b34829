# SPDX-License-Identifier: Apache-2.0
"""CrIBo against its official code's formulas in float64, image by image and object by object."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslkernels.methods import CrIBo
from sslkernels.models import ResNet, ViT

K, CLUSTERS = 7, 9


def cribo(resnet: bool = False, **options: Any) -> CrIBo:
    """Make a method whose teacher, centres and queue have moved."""
    vit = ViT((8, 8), 2, width=8, depth=1, heads=2, class_token=True, any_size=True)
    sizes = {"prototypes": K, "hidden_dim": 8, "projection_dim": 5, "clusters": CLUSTERS, "queue_size": 90}
    made = CrIBo(ResNet(1, (8,), (1,)) if resnet else vit, feature_dim=8, **sizes, **options).double()
    for parameter in made.teacher.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    made(crops())
    made.after_step(3, 10)
    made.bootstraps = True
    return made


def crops(n: int = 6) -> list[Tensor]:
    return [torch.rand(n, 1, side, side, dtype=torch.float64) for side in (8, 8, 4)]


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def clusters(x: Tensor, first: Tensor) -> Tensor:
    """Cluster the tokens (2L, D) of an image with plain Sinkhorn-Knopp: the cluster of each."""
    x, marginal = unit(x), torch.ones(CLUSTERS).double() / CLUSTERS
    centroids = x[first]
    for _ in range(5):
        cost = -x @ centroids.T
        plan = torch.exp(-20 * (cost - cost.min()) / (cost.max() - cost.min()))
        for _ in range(5):
            plan = plan / plan.sum(1, keepdim=True) / len(x)
            plan = plan * marginal / plan.sum(0)
        found = plan.argmax(1)
        marginal = torch.bincount(found, minlength=CLUSTERS) + 1e-2
        marginal = marginal / marginal.sum()
        centroids = torch.stack(
            [unit(x[found == k].sum(0)) if (found == k).any() else 0 * x[0] for k in range(CLUSTERS)]
        )
    return found


def cross_entropy(method: CrIBo, teacher: Tensor, student: Tensor) -> Tensor:
    """H of teacher's objects and student's objects, (M, D) both."""
    _, head, layer = method.teacher.module
    center, temperature = method.object_center.center, method.teacher_temperature
    wanted = torch.softmax((head(teacher) @ layer.weight.T - center) / temperature, 1).detach()
    given = torch.log_softmax(method.projector(student) @ method.object_layer.weight.T / 0.1, 1)
    return -(wanted * given).sum(1)


def places(network: nn.Module, view: Tensor) -> Tensor:
    """The features of each place (N, L, D)."""
    return network.tokens(view)[:, 1:] if isinstance(network, ViT) else network.feature_grid(view).flatten(2).mT


def formula(method: CrIBo, views: list[Tensor], seed: int) -> tuple[Tensor, list[int]]:
    teacher, head, _ = method.teacher.module
    torch.manual_seed(seed)
    mine, theirs = ([places(network, view) for view in views[:2]] for network in (method.backbone, teacher))
    first = torch.rand(len(views[0]), 2 * mine[0].shape[1]).argsort(1)[:, :CLUSTERS]
    objects: list[list[Tensor]] = [[], [], [], []]  # the student's in both views, the teacher's in both views
    for image in range(len(views[0])):
        found = clusters(torch.cat([tokens[image] for tokens in theirs]).detach(), first[image]).chunk(2)
        for k in range(CLUSTERS):
            if all((each == k).any() for each in found):
                for place, tokens in enumerate((*mine, *theirs)):
                    objects[place].append(tokens[image][found[place % 2] == k].mean(0))
    s1, s2, t1, t2 = map(torch.stack, objects)
    loss = (cross_entropy(method, t1, s2).mean() + cross_entropy(method, t2, s1).mean()) / 2
    keys, counts = method.queue.keys.chunk(2, 1), []
    for view, (mine_there, there) in enumerate(((s2, (t1, t2)), (s1, (t2, t1)))):
        here, other = there
        near = (unit(here) @ unit(keys[view]).T).argmax(1)
        back = (unit(keys[1 - view][near]) @ unit(other).T).argmax(1) == torch.arange(len(here))
        loss = loss + cross_entropy(method, keys[view][near], mine_there)[back].mean() / 2
        counts.append(int(back.sum()))
    rows = [method.projector(method.backbone(view)) @ method.projector.weight.T / 0.1 for view in views]
    targets = [head(teacher(view)) @ head.weight.T for view in views[:2]]
    targets = [torch.softmax((t - method.center.center) / method.teacher_temperature, 1).detach() for t in targets]
    pairs = [(u, v) for u in range(2) for v in range(3) if u != v]
    dino = sum(-(targets[u] * rows[v].log_softmax(1)).sum(1).mean() for u, v in pairs) / len(pairs)
    return dino + loss, [*counts, len(s1)]


def test_loss_and_gradients_are_those_of_the_paper(backend: str) -> None:
    torch.manual_seed(1)
    method, views = cribo(backend=backend), crops()
    exact, (first, second, objects) = formula(method, views, 5)
    assert 0 < first < objects and 0 < second < objects < 6 * CLUSTERS  # all cases are there
    torch.manual_seed(5)
    out = method(views)
    torch.testing.assert_close(out["loss"], exact)
    assert out["objects"].item() == pytest.approx(objects / 6)
    assert out["bootstrapped"].item() == pytest.approx((first + second) / 2 / objects)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    found = torch.autograd.grad(out["loss"], weights, allow_unused=True)
    for mine, wanted in zip(found, torch.autograd.grad(exact, weights, allow_unused=True), strict=True):
        torch.testing.assert_close(mine, wanted)
        assert mine is not None


def test_the_places_of_a_resnet_are_its_patches() -> None:
    """In evaluation mode, where views do not meet in a BatchNorm."""
    torch.manual_seed(1)
    method, views = cribo(resnet=True, batch_norm=True).eval(), crops()
    exact, (first, second, _) = formula(method, views, 5)
    assert first and second
    torch.manual_seed(5)
    torch.testing.assert_close(method(views)["loss"], exact)


def test_objects_of_the_first_epoch_have_no_neighbours() -> None:
    method, views = cribo().eval(), crops()
    losses = []
    for epoch in (0, 1):
        method.before_epoch(lambda: torch.zeros(0), epoch, 2)
        torch.manual_seed(2)
        losses.append(method(views)["loss"].item())
    assert losses[0] < losses[1]


def test_its_queue_has_both_views_of_an_object_and_its_own_centre_moves() -> None:
    torch.manual_seed(1)
    method, views = cribo(), crops()
    kept = copy.deepcopy(method.state_dict())
    position = int(method.queue.position)
    out = method(views)
    for name, value in method.state_dict().items():
        if isinstance(value, Tensor):
            assert torch.equal(value, kept[name]), name  # nothing is written before the step is done
    method.after_step(4, 10)
    count = round(6 * out["objects"].item())
    assert int(method.queue.position) == (position + count) % 90
    new = method.queue.keys[position : position + 2]
    assert (new[:, :8] - new[:, 8:]).abs().max() > 1e-4 and torch.cosine_similarity(new[:, :8], new[:, 8:]).min() > 0
    assert not torch.equal(method.object_center.center, kept["object_center.center"])
    fresh = cribo()
    fresh.load_state_dict(method.state_dict())
    assert torch.equal(fresh.queue.keys, method.queue.keys) and torch.equal(fresh.object_weight, method.object_weight)


def test_prototypes_stand_still_at_the_begin() -> None:
    method = cribo(freeze=0.5)
    method(crops())["loss"].backward()
    method.before_step(4, 10)
    assert all(weight.grad is None for layer in method.last_layers for weight in layer.parameters())
    assert method.projector.mlp[0].weight.grad is not None


def test_a_backbone_without_a_class_token_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^CrIBo: backbone has no class token; make it with one\.$"):
        CrIBo(ViT((8, 8), 2, width=8, depth=1, heads=2), feature_dim=8, queue_size=8)
    with pytest.raises(TypeError, match=r"^CrIBo: backbone is .*; pass a sslkernels.models.ViT with class token, or"):
        CrIBo(nn.Flatten(), feature_dim=64, queue_size=8, prototypes=7)
    vit = ViT((8, 8), 2, width=8, depth=1, heads=2, class_token=True)
    with pytest.raises(ValueError, match=r"^CrIBo: clusters is 33 and two views have 32 patches; pass no more\.$"):
        CrIBo(vit, feature_dim=8, clusters=33, queue_size=8, prototypes=7)([view.float() for view in crops()[:2]])
