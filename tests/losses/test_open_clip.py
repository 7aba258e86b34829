# SPDX-License-Identifier: Apache-2.0
"""DistillClipLoss and CoCaLoss give what open_clip's give, and what the plain formulas give."""

from __future__ import annotations

from typing import Any

import formulas
import pytest
import torch
import torch.nn.functional as F
from originals import open_clip_losses
from torch import Tensor

from sslkernels.losses import ClipLoss, CoCaLoss, DistillClipLoss

N, L, V = 7, 5, 11
WIDE = torch.float64


def features(d: int = 5, scale: float = 10.0, dtype: torch.dtype = WIDE) -> list[Tensor]:
    """Draw images and texts as unit rows, and a scale."""
    rows = [F.normalize(torch.randn(N, d, dtype=dtype), dim=1).requires_grad_() for _ in range(2)]
    return [*rows, torch.tensor(scale, dtype=dtype, requires_grad=True)]


def captions(pad: int = 0) -> tuple[Tensor, Tensor]:
    labels = torch.randint(1, V, (N, L))
    labels[0, 2:], labels[1] = pad, pad
    return torch.randn(N, L, V, dtype=WIDE, requires_grad=True), labels


def same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], leaves: list[Tensor]) -> None:
    """Compare values, and the gradients of a sum that gives each value another weight."""
    assert type(found) is type(expected) is tuple and len(found) == len(expected)
    slopes = []
    for values in (found, expected):
        total = sum(weight * value for weight, value in zip((1.0, 0.7), values, strict=True))
        slopes.append(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))
    for one, other in zip((*found, *slopes[0]), (*expected, *slopes[1]), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


class Margin:
    def get_logits(self, *given: Any, **named: Any) -> tuple[Tensor, Tensor]:
        return tuple(logits - 0.3 * torch.eye(N) for logits in super().get_logits(*given, **named))  # type: ignore[misc]


class Turned:
    def get_ground_truth(self, *given: Any) -> Tensor:
        return super().get_ground_truth(*given).roll(-1)  # type: ignore[misc]


class Squared:
    def dist_loss(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return (teacher_logits - student_logits).square().mean()


@pytest.mark.parametrize("change", [None, Margin, Turned, Squared], ids=lambda change: change and change.__name__)
def test_distillation_is_open_clips(change: type | None) -> None:
    kinds = [DistillClipLoss, open_clip_losses().DistillClipLoss]
    if change is not None:
        kinds = [type(change.__name__, (change, kind), {}) for kind in kinds]
    given = [*features(), *features(4, 3.0)]
    same(*(kind()(*given) for kind in kinds), given)
    named, expected = (kind()(*given, output_dict=True) for kind in kinds)
    assert list(named) == list(expected)
    same(tuple(named.values()), tuple(expected.values()), given)


def test_a_teacher_without_a_gradient_gets_none() -> None:
    student, teacher = features(), [x.detach() for x in features(4, 3.0)]
    same(*(kind()(*student, *teacher) for kind in (DistillClipLoss, open_clip_losses().DistillClipLoss)), student)


@pytest.mark.parametrize("dtype", [WIDE, torch.float32], ids=str)
def test_distillation_is_the_formula(dtype: torch.dtype) -> None:
    """Whatever dtype the teacher computes in."""
    given = [*features(), *(x.detach() for x in features(4, 3.0, dtype))]
    wide = [x.to(WIDE) for x in given]
    expected = formulas.clip_loss(*wide[:3]).mean(), formulas.clip_distillation(*wide).mean()
    same(DistillClipLoss()(*given), expected, given[:3])


def test_a_sure_teacher_leaves_the_contrastive_loss() -> None:
    """At the scale of CLIP, a difference of sums in float32 would lose 1e-5 here, which is more than the loss."""
    rows = torch.eye(N) * (1 + 1e-3 * torch.arange(N))[:, None]
    contrastive, distilled = DistillClipLoss()(rows, rows, 20.0, rows, rows, 100.0)
    exact = formulas.clip_distillation(rows.double(), rows.double(), 20.0, rows.double(), rows.double(), 100.0).mean()
    torch.testing.assert_close(distilled.double(), exact, rtol=1e-5, atol=0)
    assert 0 < exact < 1e-6 and torch.equal(contrastive, ClipLoss()(rows, rows, 20.0))


def test_no_matrix_of_logits_is_kept() -> None:
    many = [F.normalize(torch.randn(600, 8), dim=1).requires_grad_() for _ in range(4)]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        sum(DistillClipLoss()(many[0], many[1], 10.0, many[2], many[3], 10.0)).backward()
    assert 0 < max(kept) < 600 * 600


@pytest.mark.parametrize("pad", [0, 3, -100])
@pytest.mark.parametrize("weights", [(2.0, 1.0), (0.5, 0.0), (0.0, 3.0)], ids=str)
def test_captions_are_open_clips(weights: tuple[float, float], pad: int) -> None:
    logits, labels = captions(pad)
    image, text, scale = features()
    ours, theirs = (kind(*weights, pad_id=pad) for kind in (CoCaLoss, open_clip_losses().CoCaLoss))
    leaves = [image, text, scale, logits]
    same(ours(image, text, logits, labels, scale), theirs(image, text, logits, labels, scale), leaves)
    named, expected = (loss(image, text, logits, labels, scale, output_dict=True) for loss in (ours, theirs))
    assert list(named) == list(expected)
    same(tuple(named.values()), tuple(expected.values()), leaves)


def test_captions_are_the_formula() -> None:
    logits, labels = captions()
    given = features()
    scores = logits.log_softmax(2).gather(2, labels[..., None])[..., 0]
    expected = 3.0 * formulas.clip_loss(*given).mean(), -2.0 * scores[labels != 0].mean()
    same(CoCaLoss(2.0, 3.0)(given[0], given[1], logits, labels, given[2]), expected, [*given, logits])


def test_a_cross_entropy_that_was_put_in_place_counts() -> None:
    logits, labels = captions()
    losses = [kind(2.0, 0.0) for kind in (CoCaLoss, open_clip_losses().CoCaLoss)]
    for loss in losses:
        loss.caption_loss = torch.nn.CrossEntropyLoss(ignore_index=0, label_smoothing=0.1)
    given = features()
    same(*(loss(given[0], given[1], logits, labels, given[2]) for loss in losses), [logits])


@pytest.mark.parametrize(
    ("says", "labels"),
    [("labels has shape", torch.ones(N, L + 1).long()), ("dtype torch.int32", torch.ones(N, L).int()),
     ("labels is a list", [[1] * L] * N)],
    ids=["shape", "dtype", "list"],
)  # fmt: skip
def test_labels_of_other_tokens_are_refused(says: str, labels: Any) -> None:
    image, text, scale = features()
    with pytest.raises((TypeError, ValueError), match=f"CoCaLoss: .*{says}"):
        CoCaLoss(1.0, 1.0)(image, text, captions()[0], labels, scale)


def test_a_teacher_of_other_pairs_is_refused() -> None:
    student, teacher = features(), features(4)
    with pytest.raises(ValueError, match="DistillClipLoss: image_features has shape .* and dist_image_features"):
        DistillClipLoss()(*student, teacher[0][1:], teacher[1][1:], 1.0)
