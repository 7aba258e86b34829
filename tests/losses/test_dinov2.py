# SPDX-License-Identifier: Apache-2.0
"""Losses with the names of DINOv2 and DINOv3 beside their formulas, written as the authors' loops are, in float64."""

from __future__ import annotations

from typing import Any

import formulas
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.losses import IBOTPatchLoss, dinov2, dinov3

K = 5


def sinkhorn(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Scale rows and columns of the exponentials in turn, as the authors do."""
    q = torch.exp(logits / temperature).T
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(1, keepdim=True) / len(q)
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def cross_entropy(student: Tensor, targets: Tensor) -> Tensor:
    return -(targets * F.log_softmax(student / 0.1, -1)).sum(-1)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("iterations", [1, 3])
def test_targets_are_those_of_the_authors_loop(iterations: int) -> None:
    logits = normal(9, K)
    wanted = sinkhorn(logits, 0.07, iterations)
    torch.testing.assert_close(dinov2.DINOLoss(K).sinkhorn_knopp_teacher(logits, 0.07, iterations), wanted)
    count = torch.tensor([7])
    found = dinov2.iBOTPatchLoss(K).sinkhorn_knopp_teacher(logits, 0.07, count, iterations)
    torch.testing.assert_close(found[:7], sinkhorn(logits[:7], 0.07, iterations))  # the last rows are padding
    assert count == 7 and found.isfinite().all()
    padding = dinov2.iBOTPatchLoss(K).sinkhorn_knopp_teacher(logits, 0.07, 0, iterations)
    torch.testing.assert_close(padding.sum(1), torch.ones(9, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_large_logits_have_targets(dtype: torch.dtype) -> None:
    """exp(20 / 0.05) overflows in float32, where the authors' targets are NaN."""
    logits = 20 * torch.randn(9, K)
    assert sinkhorn(logits, 0.05).isnan().any()
    found = dinov2.DINOLoss(K).sinkhorn_knopp_teacher(logits.to(dtype), 0.05)
    assert found.dtype == torch.float32 and found.isfinite().all()
    torch.testing.assert_close(found.sum(1), torch.ones(9))


@pytest.mark.parametrize("loss", [dinov2.DINOLoss(K), dinov2.iBOTPatchLoss(K)], ids=["cls", "patches"])
def test_the_centre_moves_at_the_next_step(loss: Any) -> None:
    first, second, center = torch.randn(1, 6, K), torch.randn(1, 6, K), torch.zeros(K)
    if isinstance(loss, dinov2.DINOLoss):
        first, second = first[0], second[0]
    shape = loss.center.shape
    assert shape == ((1, K) if isinstance(loss, dinov2.DINOLoss) else (1, 1, K))
    torch.testing.assert_close(loss.softmax_center_teacher(first, 0.05), torch.softmax(first / 0.05, -1))
    loss.update_center(first)
    assert not loss.center.any()
    loss.softmax_center_teacher(second, 0.05, update_centers=False)
    assert not loss.center.any()
    center = 0.1 * first.reshape(-1, K).mean(0)
    torch.testing.assert_close(
        loss.softmax_center_teacher(second, 0.05), torch.softmax((second - center) / 0.05, -1), rtol=1e-4, atol=1e-6
    )
    loss.update_center(second)
    loss.update_center(first)  # gradients of two batches are accumulated
    center = 0.9 * center + 0.1 * torch.cat([first, second]).reshape(-1, K).mean(0)
    saved = loss.state_dict()["center"]
    torch.testing.assert_close(saved, center.view(shape))
    loss.update_center(second)
    loss.load_state_dict({"center": saved.clone()})
    loss.apply_center_update()
    assert torch.equal(loss.center, saved)


def test_the_loss_of_dinov2_is_the_sum_over_pairs() -> None:
    students = [normal(4, K).requires_grad_() for _ in range(3)]
    targets = torch.softmax(normal(2, 4, K), -1)
    value = dinov2.DINOLoss(K)(student_output_list=students, teacher_out_softmaxed_centered_list=targets)
    wanted = sum(cross_entropy(student, target).mean() for student in students for target in targets)
    torch.testing.assert_close(value, wanted)
    for mine, his in zip(torch.autograd.grad(value, students), torch.autograd.grad(wanted, students), strict=True):
        torch.testing.assert_close(mine, his)


@pytest.mark.parametrize("ignore", [False, True])
def test_the_loss_of_dinov3_is_the_mean_over_pairs(ignore: bool) -> None:
    students, targets = normal(3, 4, K).requires_grad_(), torch.softmax(normal(2, 4, K), -1)
    value = dinov3.DINOLoss(K)(student_logits=students, teacher_probs=targets, ignore_diagonal=ignore)
    pairs = [(s, t) for s in range(3) for t in range(2) if not (ignore and s == t)]
    wanted = sum(cross_entropy(students[s], targets[t]).sum() for s, t in pairs) / (4 * len(pairs))
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(torch.autograd.grad(value, students)[0], torch.autograd.grad(wanted, students)[0])


MASK = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]], dtype=torch.bool)


def test_patches_count_by_the_masked_ones_of_their_image() -> None:
    loss, student = dinov2.iBOTPatchLoss(K), normal(3, 3, K).requires_grad_()
    targets = torch.softmax(normal(3, 3, K), -1)
    losses = cross_entropy(student, targets)
    wanted = (losses[0, 0] / 2 + losses[0, 2] / 2 + losses[2].mean()) / 3
    torch.testing.assert_close(loss(student, targets, MASK), wanted)
    few, known = student[MASK], targets[MASK]
    torch.testing.assert_close(loss.forward_masked(few, known, MASK), wanted)
    padded = torch.cat([few, torch.full((2, K), torch.nan)])
    weight = torch.tensor([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3])
    value = loss.forward_masked(padded, known, student_masks_flat=MASK, n_masked_patches=5, masks_weight=weight)
    torch.testing.assert_close(value, wanted)
    assert torch.autograd.grad(value, student)[0].isfinite().all()


@pytest.mark.parametrize("name", ["class tokens", "patches", "patches of lightly"])
def test_losses_of_logits_compile_whole(name: str) -> None:
    student, targets = torch.randn(5, K, requires_grad=True), torch.softmax(torch.randn(5, K), -1)
    own, patches, of_lightly = dinov2.DINOLoss(K), dinov2.iBOTPatchLoss(K), IBOTPatchLoss(K).eval()
    call = {
        "class tokens": lambda student: own([student], [own.sinkhorn_knopp_teacher(targets, 0.07)]),
        "patches": lambda student: patches.forward_masked(student, targets, MASK),
        "patches of lightly": lambda student: of_lightly(targets, student, MASK[None]),
    }[name]
    torch._dynamo.reset()
    value, wanted = torch.compile(call, fullgraph=True, backend="eager")(student), call(student)
    torch._dynamo.reset()
    torch.testing.assert_close(value, wanted)


def test_a_batch_without_masked_patches_has_loss_zero() -> None:
    loss, student = dinov2.iBOTPatchLoss(K), torch.zeros(0, K, requires_grad=True)
    targets = loss.sinkhorn_knopp_teacher(torch.zeros(0, K), 0.07, torch.tensor([0]))
    loss.update_center(torch.zeros(1, 0, K))
    loss.apply_center_update()
    value = loss.forward_masked(student, targets, MASK & False)
    value.backward()
    assert value == 0 and student.grad is not None and not loss.center.any()


def test_koleo_of_dinov2() -> None:
    x = normal(7, 4)
    torch.testing.assert_close(dinov2.KoLeoLoss()(x, eps=0.01), formulas.koleo(x, 0.01).mean())
    groups = dinov3.KoLeoLossDistributed(loss_group_size=3)
    torch.testing.assert_close(groups(x[:6]), formulas.koleo(x[:6], group_size=3).mean())


def test_gram_of_dinov3() -> None:
    x, y = normal(2, 3, 4), normal(2, 3, 4)
    torch.testing.assert_close(dinov3.GramLoss()(x, y), formulas.gram_loss(x, y, clip="both").mean())
    every = formulas.gram_loss(x.view(1, 6, 4), y.view(1, 6, 4), normalize=False, clip="teacher").mean()
    loss = dinov3.GramLoss(apply_norm=False, remove_neg=False, remove_only_teacher_neg=True)
    torch.testing.assert_close(loss(x, y.flatten(0, 1), img_level=False), every)


def test_targets_of_inference_mode_are_taken() -> None:
    loss, student = dinov2.DINOLoss(K), torch.randn(4, K, requires_grad=True)
    with torch.inference_mode():
        targets = loss.sinkhorn_knopp_teacher(torch.randn(4, K), 0.07)
        loss.update_center(torch.randn(4, K))
        loss.softmax_center_teacher(torch.randn(4, K), 0.07)
    loss([student], [targets]).backward()
    loss.update_center(torch.randn(4, K))
    loss.apply_center_update()
    assert student.grad is not None and not loss.center.is_inference()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: dinov2.DINOLoss(0), "out_dim is 0"),
        (lambda: dinov2.iBOTPatchLoss(K, student_temp=0.0), "student_temp is 0.0"),
        (lambda: dinov2.DINOLoss(K)([], torch.ones(1, 2, K)), r"student_output_list has views of \[\] rows"),
        (lambda: dinov2.DINOLoss(K)([torch.ones(2, 4)], torch.ones(1, 2, K)), r"has shape \(2, 4\) and the center"),
        (lambda: dinov3.DINOLoss(K)(*torch.ones(2, 1, 2, K), True), "pairs of unlike views"),
        (lambda: dinov2.DINOLoss(K).sinkhorn_knopp_teacher(torch.ones(2, K), 0.0), "teacher_temp is 0.0"),
        (lambda: dinov2.iBOTPatchLoss(K).forward_masked(*torch.ones(2, 4, K), MASK), "there are 5 masked patches"),
        (lambda: dinov2.iBOTPatchLoss(K)(*torch.ones(2, 3, 3, K), MASK.float()), "student_masks_flat has shape"),
        (lambda: dinov2.KoLeoLoss()(torch.ones(1, 3)), "student_output has one row in all"),
        (lambda: dinov3.KoLeoLossDistributed(topk=2), "topk is 2"),
        (lambda: dinov3.GramLoss(remove_only_teacher_neg=True), "are both True"),
        (lambda: dinov3.GramLoss()(torch.ones(2, 3, 4), torch.ones(2, 2, 4)), "pass the same patches"),
    ],
)
def test_a_wrong_argument_gets_a_sentence(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
