# SPDX-License-Identifier: Apache-2.0
"""PIRL against its paper's formula, and its bank against the images that it has seen."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.methods import PIRL
from sslkernels.models import ResNet

SAMPLES = 9


def pirl(**options) -> PIRL:
    arguments = {"samples": SAMPLES, "projection_dim": 5, "patches": 4, **options}
    return PIRL(ResNet(1, (6,), (1,)), feature_dim=6, **arguments).double()


def drawn(rows: int = 4) -> list[Tensor]:
    return [torch.rand(rows, 1, 6, 6, dtype=torch.float64) for _ in range(2)]


def formula(method: PIRL, image: Tensor, patches: Tensor, index: Tensor, draw: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for weight, embedded in ((1 - method.jigsaw, image), (method.jigsaw, patches)):
        for row, sample in zip(embedded, index.tolist(), strict=True):
            others = [other for other in draw.tolist() if other != sample]
            logits = method.bank.rows[[sample, *others]] @ (row / row.norm()) / method.temperature
            total = total + weight * (logits.logsumexp(0) - logits[0]) / len(index)
    return total


@pytest.mark.parametrize("negatives", [5, 100])
def test_loss_and_gradients_are_those_of_the_formula(negatives: int, backend: str) -> None:
    method, index = pirl(negatives=negatives, jigsaw=0.3, backend=backend), torch.tensor([7, 0, 3, 4])
    out = method(drawn(), index=index)
    image, patches, seen, draw = out["embeddings"]
    assert torch.equal(seen, index) and len(draw.unique()) == len(draw) == min(negatives, SAMPLES)
    exact = formula(method, *out["embeddings"])
    torch.testing.assert_close(out["loss"], exact)
    weights = list(method.parameters())
    found = torch.autograd.grad(out["loss"], weights, retain_graph=True)
    for one, other in zip(found, torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(one, other)
    assert all(gradient.any() for gradient in found if gradient.dim() > 1)


def test_an_image_that_matches_its_row_has_no_loss_among_opposite_rows() -> None:
    method = pirl(samples=3, projection_dim=2, temperature=0.05)
    method.bank.rows.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]))
    row, sample = torch.tensor([[2.0, 0.0]]).double(), torch.tensor([0])
    assert method.loss(row, row, sample, torch.arange(3)) < 1e-12
    assert method.loss(row, row, sample, torch.tensor([0])) == 0  # nothing is left beside its own row


def test_patches_are_the_image_s_and_their_order_is_random() -> None:
    method, images = pirl().eval(), drawn(1)[0]
    corners = [images[:, :, top : top + 3, left : left + 3] for top in (0, 3) for left in (0, 3)]
    rows = [method.patch_projector(method.backbone(corner)) for corner in corners]
    orders = [torch.cat([rows[place] for place in order], 1) for order in torch.cartesian_prod(*[torch.arange(4)] * 4)]
    joined = torch.cat([method.join(order) for order in orders if len({id(part) for part in order}) == len(order)])
    found = {int((joined - method.embed_patches(images)).abs().sum(1).argmin()) for _ in range(40)}
    assert len(found) > 5
    assert (joined - method.embed_patches(images)).abs().sum(1).min() < 1e-12


def test_the_bank_learns_the_images_after_a_step_and_in_training_alone() -> None:
    method = pirl(memory_momentum=0.25)
    start, index = method.bank.rows.clone(), torch.tensor([2, 8, 5])
    out = method(drawn(3), index=index)
    more = method(drawn(3), index=torch.tensor([2, 1, 0]))  # a second batch of the same step
    assert torch.equal(method.bank.rows, start)
    method.after_step(0, 10)
    expected = start.clone()
    rows = dict(zip([2, 8, 5], out["embeddings"][0], strict=True)) | dict(
        zip([2, 1, 0], more["embeddings"][0], strict=True)
    )
    for sample, row in rows.items():
        expected[sample] = F.normalize(0.25 * start[sample] + 0.75 * F.normalize(row.detach(), dim=0), dim=0)
    torch.testing.assert_close(method.bank.rows, expected)
    method.eval()(drawn(3), index=index)
    method.after_step(1, 10)
    torch.testing.assert_close(method.bank.rows, expected)


def test_wrong_arguments_get_a_sentence() -> None:
    with pytest.raises(ValueError, match="PIRL: patches is 8; pass a square number, such as 4"):
        pirl(patches=8)
    with pytest.raises(ValueError, match="PIRL: images have 1 x 6 pixels; pass at least 2 a side"):
        pirl().check_views([torch.rand(2, 1, 6, 6), torch.rand(2, 1, 1, 6)])
    with pytest.raises(ValueError, match=r"PIRL: images has shape \(2, 3, 9\); expected images \(N, C, H, W\)"):
        pirl().check_views([torch.rand(2, 3, 9)] * 2)
    with pytest.raises(ValueError, match="PIRL: index of each sample is missing"):
        pirl()(drawn())
    with pytest.raises(IndexError, match="index holds 9; samples run from 0 to 8"):
        pirl()(drawn(), index=torch.tensor([0, 1, 2, 9]))
