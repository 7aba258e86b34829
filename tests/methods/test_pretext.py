# SPDX-License-Identifier: Apache-2.0
"""Pretext is the weighted sum of its tasks' cross-entropies, and Auxiliary a method plus a weighted term."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sslkernels.methods import MAE, Auxiliary, Pretext, SimCLR
from sslkernels.models import Conv1dNet, ResNet, ViT
from sslkernels.terms import TASKS, ActionMatch, Agreement, Jigsaw, Labels, Places, Rotation, Trajectory


def seeded(call):
    torch.manual_seed(5)
    return call()


def test_chained_tasks_share_a_pass_and_the_others_have_their_own():
    names = ("reversal", "odd_one_out", "warp")
    method = Pretext(Conv1dNet(2, (8,)), feature_dim=8, tasks=names, weights=(1.0, 0.5, 2.0)).double()
    series = torch.randn(6, 2, 40, dtype=torch.float64)
    loss = seeded(lambda: method([series])["loss"])

    def formula() -> torch.Tensor:
        reversal, odd, warp = (method.tasks[name] for name in names)
        changed, backwards = reversal.draw(series)
        clips, answer = odd.draw(series)
        changed, warped = warp.draw(changed)
        rows = method.backbone(changed)
        total = F.cross_entropy(reversal.head(rows), backwards) + 2 * F.cross_entropy(warp.head(rows), warped)
        sides = torch.cat([method.backbone(clips[place::6]) for place in range(6)], 1)
        return total + 0.5 * F.cross_entropy(odd.head(sides), answer)

    method.eval()  # so that passes of fewer rows have the same statistics
    loss = seeded(lambda: method([series])["loss"])
    torch.testing.assert_close(loss, seeded(formula))


def test_labels_are_told_from_samples_as_they_are():
    inner = Pretext(ResNet(1, (8,), (1,)), feature_dim=8, tasks=("rotation",), weights=(0.5,))
    method = Auxiliary(inner, Labels(8, 3), weight=2.0).double()
    images, label = torch.rand(9, 1, 8, 8, dtype=torch.float64), torch.arange(9) % 3
    loss = seeded(lambda: method([images], label=label)["loss"])

    def formula() -> torch.Tensor:
        changed, quarters = inner.tasks["rotation"].draw(images)
        turned = F.cross_entropy(inner.tasks["rotation"].head(inner.backbone(changed)), quarters)
        return turned / 2 + 2 * F.cross_entropy(method.term.head(inner.backbone(images)), label)

    torch.testing.assert_close(loss, seeded(formula))


def test_accuracies_count_right_answers():
    class Corner(nn.Module):
        """Knows the quarter from the corner that is white."""

        def forward(self, images):
            return torch.stack(
                [images[:, 0, 0, 0], images[:, 0, -1, 0], images[:, 0, -1, -1], images[:, 0, 0, -1]], 1
            ).clone()

    method = Pretext(Corner(), feature_dim=4)
    head = method.tasks["rotation"].head
    head.weight.data, head.bias.data = torch.eye(4), torch.zeros(4)
    images = torch.zeros(600, 1, 4, 4)
    images[:, 0, 0, 0] = 1
    assert method.scores(images, None) == {"rotation_accuracy": 1.0}
    images[::2] = 0  # these look alike, and every quarter counts as none
    assert 0.5 + 0.05 < method.scores(images, None)["rotation_accuracy"] < 0.75


def test_accuracies_of_a_term_stand_beside_those_of_the_method():
    method = Auxiliary(Pretext(nn.Flatten(), feature_dim=16), Labels(16, 3))
    method.term.head.weight.data, method.term.head.bias.data = torch.eye(3, 16), torch.zeros(3)
    labels = torch.randint(3, (700,))
    images = F.one_hot(labels, 16).float().view(-1, 1, 4, 4)
    found = method.scores(images, labels)
    assert found["label_accuracy"] == 1.0 and set(found) == {"rotation_accuracy", "label_accuracy"}
    assert set(method.scores(images, None)) == {"rotation_accuracy"}
    labels[::2] = (labels[::2] + 1) % 3
    assert method.scores(images, labels)["label_accuracy"] == 0.5
    jigsaw = Auxiliary(SimCLR(nn.Flatten(), feature_dim=16), Jigsaw(16, grid=2, permutations=3))
    assert set(jigsaw.scores(images, labels)) == {"jigsaw_accuracy"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": ("spin",)}, "Pretext: tasks is 'spin'; accepted are"),
        ({"tasks": ("rotation", "rotation")}, "pass each task once"),
        ({"weights": (1.0, 2.0)}, "a weight for each"),
        ({"weights": (-1.0,)}, "weights is -1"),
        ({"tasks": ()}, "pass a task such as rotation"),
        ({"tasks": ("rotation",), "weights": ()}, r"tasks is .rotation. and weights \(\); pass each task once"),
        ({"tasks": ("jigsaw",), "grid": 2, "permutations": 24}, "4 tiles have 23 others"),
    ],
)
def test_wrong_settings_are_one_sentence(options, words):
    with pytest.raises(ValueError, match=words):
        Pretext(ResNet(1, (8,), (1,)), feature_dim=8, **options)
    assert set(TASKS) == {"context", "jigsaw", "odd_one_out", "permutation", "reversal", "rotation", "warp"}


class Counting(nn.Module):
    """Flattens images, and counts how often it does."""

    calls = 0

    def forward(self, images):
        self.calls += 1
        return images.flatten(1)


TERMS = [
    (Labels(64, 3), {"label": torch.arange(6) % 3}, 2),
    (Places(64, torch.rand(12, 2), cells=3), {"place": torch.rand(6, 2)}, 2),
    (ActionMatch(64, 2), {"action": torch.randn(6, 2)}, 2),
    (Agreement(64), {}, 2),
    (Trajectory(64), {}, 3),
    (Rotation(64), {}, 3),
    (Jigsaw(64, grid=2, permutations=5), {}, 3),
]


@pytest.mark.parametrize(("term", "given", "passes"), TERMS, ids=lambda value: type(value).__name__)
def test_a_term_is_added_and_no_view_passes_twice(term, given, passes):
    inner = SimCLR(Counting(), feature_dim=64)
    method = Auxiliary(inner, term, weight=0.25).double()
    given = {name: values.double() if values.is_floating_point() else values for name, values in given.items()}
    views = [torch.rand(6, 1, 8, 8, dtype=torch.float64) for _ in range(method.views)]
    assert method.views == max(2, term.views) and method.needs == term.needs and method.backbone is inner.backbone
    out = seeded(lambda: method(views, **given))
    assert inner.backbone.calls == passes
    expected = inner(views[:2])["loss"] + 0.25 * seeded(lambda: term(inner.backbone, views, **given))
    torch.testing.assert_close(out["loss"], expected)
    torch.testing.assert_close(method.loss(*out["embeddings"]), out["loss"])
    for name in term.needs:
        with pytest.raises(ValueError, match=f"Auxiliary: {name} of each sample is missing"):
            method(views)
    with pytest.raises(ValueError, match=f"Auxiliary: 1 views came; pass {method.views} views"):
        method(views[:1], **given)


def test_two_terms_share_the_features_of_a_view():
    inner = SimCLR(Counting(), feature_dim=64).double()
    terms = Trajectory(64), ActionMatch(64, 2).double()
    method = Auxiliary(Auxiliary(inner, terms[0], weight=0.5), terms[1], weight=2.0)
    views = [torch.rand(6, 1, 8, 8, dtype=torch.float64) for _ in range(3)]
    action = torch.randn(6, 2, dtype=torch.float64)
    loss = method(views, action=action)["loss"]
    assert inner.backbone.calls == 3 and method.views == 3
    added = 0.5 * terms[0](inner.backbone, views) + 2 * terms[1](inner.backbone, views, action=action)
    torch.testing.assert_close(loss, inner(views[:2])["loss"] + added)


def test_the_loss_of_the_method_is_computed_once():
    class Loss(SimCLR):
        calls = 0

        def loss(self, *embeddings):
            self.calls += 1
            return super().loss(*embeddings)

    inner = Loss(Counting(), feature_dim=64)
    Auxiliary(inner, Rotation(64))([torch.rand(6, 1, 8, 8)] * 2)
    assert inner.calls == 1


def test_a_term_of_another_width_or_on_tokens_is_refused():
    with pytest.raises(ValueError, match="Auxiliary: term has feature_dim 16 and method 64; pass both"):
        Auxiliary(SimCLR(Counting(), feature_dim=64), Rotation(16))
    with pytest.raises(ValueError, match="Auxiliary: method is MAE, whose backbone gives tokens; pass one on features"):
        Auxiliary(MAE(ViT((8, 8), 2, 1, width=8, depth=1, heads=1)), Rotation(8))


@pytest.mark.parametrize(
    ("term", "views", "given", "words"),
    [
        (
            ActionMatch(64, 2),
            2,
            {},
            "action of each sample is missing; call term.features, views, action=",
        ),
        (ActionMatch(64, 2), 2, {"action": torch.rand(6)}, r"ActionMatch: action has shape \(6,\); pass \(6, 2\), one"),
        (Agreement(64), 1, {}, "Agreement: 1 views came; pass 2 or more views"),
        (ActionMatch(64, 2), 1, {"action": torch.rand(6, 2)}, "ActionMatch: 1 views came; pass 2 or more views"),
        (Places(64, torch.rand(12, 2), cells=3), 1, {"place": torch.rand(6, 3)}, r"place has shape \(6, 3\); pass"),
        (Labels(64, 3), 1, {"label": torch.zeros(5).long()}, r"Labels: label has shape \(5,\); pass \(6,\)"),
        (Labels(64, 3), 1, {"label": [1, 2]}, "Labels: label is a list; pass a torch.Tensor"),
        (Trajectory(64), 2, {}, "Trajectory: 2 views came; pass 3 or more views"),
        (Rotation(64), 0, {}, "Rotation: 0 views came; pass 1 or more views"),
    ],
)
def test_a_term_says_what_it_lacks(term, views, given, words):
    with pytest.raises((ValueError, TypeError), match=words):
        term(Counting(), [torch.rand(6, 1, 8, 8)] * views, **given)


def test_a_state_holds_the_backbone_once():
    method = Auxiliary(SimCLR(ResNet(1, (4,), (1,)), feature_dim=4), Rotation(4))
    names = list(method.state_dict())
    assert all(name.startswith(("method.", "term.")) for name in names)
    assert len([name for name in names if name.endswith("stem.0.weight")]) == 1
