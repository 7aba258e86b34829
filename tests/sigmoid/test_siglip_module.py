# SPDX-License-Identifier: Apache-2.0
"""SigLipLoss gives what open_clip's gives, whose file is read where it is installed."""

from __future__ import annotations

from typing import Any

import pytest
import sigmoid_oracle
import torch
import torch.nn.functional as F
from originals import open_clip_losses
from torch import Tensor

from sslkernels.losses import SigLipLoss


def features(n: int = 7, d: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    image, text = (F.normalize(torch.randn(n, d), dim=1).requires_grad_() for _ in range(2))
    return image, text, torch.tensor(10.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)


@pytest.mark.parametrize("dist_impl", [None, "bidir", "shift", "reduce", "gather"])
def test_beside_open_clip(dist_impl: str | None) -> None:
    theirs = open_clip_losses().SigLipLoss(dist_impl=dist_impl)
    ours = SigLipLoss(dist_impl=dist_impl)
    assert ours.dist_impl == theirs.dist_impl
    given = features()
    value, wanted = (loss(*given, output_dict=True)["contrastive_loss"] for loss in (ours, theirs))
    torch.testing.assert_close(value, wanted)
    slopes = (torch.autograd.grad(loss, given) for loss in (value, wanted))
    for found, exact in zip(*slopes, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)
    for negative_only in (False, True):
        labels = (
            loss.get_ground_truth(torch.device("cpu"), torch.float32, 3, negative_only) for loss in (ours, theirs)
        )
        assert torch.equal(*labels)
    torch.testing.assert_close(ours.get_logits(*given), theirs.get_logits(*given))


def test_as_open_clip_calls_it() -> None:
    image, text, scale, bias = features()
    value = SigLipLoss(cache_labels=True, rank=0, world_size=1, chunk_size=4)(
        image_features=image, text_features=text, logit_scale=scale, logit_bias=bias
    )
    value.backward()
    exact = sigmoid_oracle.exact(image, text, 10.0, -10.0, torch.full((7,), 1 / 7), paired=True)
    torch.testing.assert_close(value.double(), exact.sums.mean(), rtol=1e-6, atol=0)
    for leaf, wanted in ((image, exact.dx), (text, exact.dy), (scale, exact.dscale), (bias, exact.dbias)):
        torch.testing.assert_close(leaf.grad.double(), wanted, rtol=1e-5, atol=1e-6)


def test_a_subclass_with_logits_of_its_own() -> None:
    class Shifted(SigLipLoss):
        def get_logits(self, *given: Any, **named: Any) -> Tensor:
            return super().get_logits(*given, **named) + 1.0

    image, text, scale, _ = features()
    torch.testing.assert_close(Shifted()(image, text, scale, -3.0), SigLipLoss()(image, text, scale, -2.0))


def test_an_unknown_exchange_is_refused() -> None:
    with pytest.raises(ValueError, match="SigLipLoss: dist_impl is 'ring'; accepted are 'bidir', 'shift', 'reduce'"):
        SigLipLoss(dist_impl="ring")


def test_ranks_without_a_group_are_refused() -> None:
    with pytest.raises(ValueError, match="SigLipLoss: world_size is 2 and no process group is initialised; call"):
        SigLipLoss(world_size=2)(*features())
