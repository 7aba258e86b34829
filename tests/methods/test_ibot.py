# SPDX-License-Identifier: Apache-2.0
"""iBOT against its paper's formula, image by image, what is hidden, and its centres."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sslkernels.methods import IBOT
from sslkernels.methods.hidden_patches import blocks, hidden_patches
from sslkernels.models import DINOHead, ViT


def ibot(**options: Any) -> IBOT:
    vit = ViT((8, 8), 2, width=8, depth=1, heads=2, class_token=True, registers=1, mask_token=True, any_size=True)
    made = IBOT(vit, feature_dim=8, prototypes=7, hidden_dim=8, projection_dim=5, **options).double()
    for parameter in made.parameters():  # so that the teacher differs from its student, and the mask token from 0
        parameter.data += 0.1 * torch.randn_like(parameter)
    for center in (made.center, made.patch_center):
        center.center.copy_(0.1 * torch.randn_like(center.center))
    return made


def crops(small: int = 2, n: int = 5) -> list[Tensor]:
    return [torch.rand(n, 1, 8, 8, dtype=torch.float64) for _ in range(2)] + [
        torch.rand(n, 1, 4, 4, dtype=torch.float64) for _ in range(small)
    ]


def logits(head: DINOHead, x: Tensor) -> Tensor:
    v, g = head.last_layer.weight_v, head.last_layer.weight_g
    unit = head.mlp(x) / head.mlp(x).norm(dim=-1, keepdim=True)
    return unit @ (g * v / v.norm(dim=1, keepdim=True)).T


def spread(scores: Tensor) -> Tensor:
    """Sinkhorn-Knopp of the official DINOv2, over all rows."""
    q = torch.exp(scores).T / torch.exp(scores).sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / len(q)
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def formula(method: IBOT, views: list[Tensor], hidden: Tensor, sinkhorn: bool) -> Tensor:
    vit, (teacher, *heads) = method.backbone, method.teacher.module
    masks, n = hidden.chunk(2), len(views[0])
    tokens = [vit.tokens(view, hidden=mask) for view, mask in zip(views, masks, strict=False)]
    seen = [teacher.tokens(view).detach() for view in views[:2]]
    student = [logits(method.heads[0], x[:, 0]) for x in [*tokens, *map(vit.tokens, views[2:])]]
    scores = torch.cat([logits(heads[0], x[:, 0]) for x in seen]).detach()
    targets = spread(scores / 0.04) if sinkhorn else torch.softmax((scores - method.center.center) / 0.04, 1)
    classes = [
        -(t * torch.log_softmax(s / 0.1, 1)).sum(1).mean()
        for place, t in enumerate(targets.chunk(2)) for other, s in enumerate(student) if other != place
    ]  # fmt: skip
    patches = torch.cat(tokens)[:, 2:]
    scores = logits(heads[-1], torch.cat(seen)[:, 2:][hidden]).detach()
    targets = spread(scores / 0.04) if sinkhorn else torch.softmax((scores - method.patch_center.center) / 0.04, 1)
    terms = -(targets * torch.log_softmax(logits(method.heads[-1], patches[hidden]) / 0.1, 1)).sum(1)
    image = hidden.nonzero()[:, 0]
    means = [terms[image == one].mean() for one in range(2 * n) if (image == one).any()]
    return torch.stack(classes).mean() + torch.stack(means).sum() / (2 * n)


@pytest.mark.parametrize(
    ("small", "own", "centering"), [(2, None, "center"), (0, (), "center"), (0, (9,), "center"), (1, None, "sinkhorn")]
)
def test_loss_and_gradients_are_those_of_the_paper(
    backend: str, small: int, own: tuple[int, ...] | None, centering: str
) -> None:
    heads = {} if own is None else {"shared_head": False, "patch_head": own}
    method, views = ibot(backend=backend, centering=centering, **heads), crops(small)
    drawn = method.hide(10, torch.device("cpu"))
    method.hide = lambda *_: drawn  # type: ignore[method-assign]
    loss, exact = method(views)["loss"], formula(method, views, drawn[0], centering == "sinkhorn")
    torch.testing.assert_close(loss, exact)
    weights = {name: weight for name, weight in method.named_parameters() if weight.requires_grad}
    assert any(name.startswith("patch_projector.") for name in weights) == (own is not None)
    found, expected = (torch.autograd.grad(value, list(weights.values())) for value in (loss, exact))
    for name, first, second in zip(weights, found, expected, strict=True):
        torch.testing.assert_close(first, second, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("centering", ["center", "sinkhorn"])
def test_its_figures_are_of_the_targets_that_it_takes(centering: str) -> None:
    method, views = ibot(centering=centering, shared_head=False), crops(0)
    drawn = method.hide(10, torch.device("cpu"))
    method.hide = lambda *_: drawn  # type: ignore[method-assign]
    out, (vit, head, patch_head) = method(views), method.teacher.module
    tokens = vit.tokens(torch.cat(views)).detach()
    for prefix, of, rows, center in (
        ("", head, tokens[:, 0], method.center), ("patch_", patch_head, tokens[:, 2:][drawn[0]], method.patch_center),
    ):  # fmt: skip
        scores = logits(of, rows).detach()
        both = spread(scores / 0.04) if centering == "sinkhorn" else torch.softmax((scores - center.center) / 0.04, 1)
        seen = both if prefix else both[:5]  # those of the first view
        entropy = -(seen * seen.clamp_min(1e-30).log()).sum(1).mean()
        assert out[f"{prefix}teacher_entropy"].item() == pytest.approx(entropy.item(), rel=1e-4)
        assert out[f"{prefix}largest_share"].item() == pytest.approx(seen.mean(0).max().item(), rel=1e-4)
    scores = method.eval().scores(views[0], None)
    assert set(scores) == {"teacher_entropy", "largest_probability", "effective_prototypes", "largest_share"}


def test_as_many_images_hide_even_shares_of_their_patches() -> None:
    method = ibot(mask_ratio=(0.25, 0.75), mask_probability=0.5)
    seen = []
    for _ in range(3):
        hidden, places, weight = method.hide(8, torch.device("cpu"))
        counts = hidden.sum(1)
        assert sorted(counts.tolist()) == [0, 0, 0, 0, 5, 7, 9, 11]  # of 16, at 5, 7, 9 and 11 sixteenths
        assert torch.equal(places.sort().values, hidden.flatten().nonzero()[:, 0])
        torch.testing.assert_close(weight, 1 / (8 * counts[places // 16].double()))
        seen.append(hidden)
    assert not torch.equal(seen[0], seen[1])


def test_hidden_patches_lie_in_blocks() -> None:
    counts = torch.tensor([20, 40, 60, 80, 3])
    found = blocks(counts, (14, 14))
    covered = found.sum((1, 2))
    assert (covered <= counts).all() and covered.sum() >= 0.8 * counts.sum()
    drawn = hidden_patches(64, (14, 14), (0.3, 0.3), 1.0, "block", torch.device("cpu")).mask.view(-1, 14, 14)
    apart = hidden_patches(64, (14, 14), (0.3, 0.3), 1.0, "random", torch.device("cpu")).mask.view(-1, 14, 14)
    assert drawn.sum() == apart.sum() == 64 * 59

    def edges(mask: Tensor) -> int:
        """Count the neighbours of whom one is hidden and the other is not."""
        return int((mask[:, 1:] != mask[:, :-1]).sum() + (mask[:, :, 1:] != mask[:, :, :-1]).sum())

    assert edges(drawn) < 0.5 * edges(apart)


def test_each_center_moves_by_the_rows_that_it_is_taken_off() -> None:
    method, views = ibot(shared_head=False), crops()
    drawn = method.hide(10, torch.device("cpu"))
    method.hide = lambda *_: drawn  # type: ignore[method-assign]
    vit, head, patch_head = method.teacher.module
    tokens = vit.tokens(torch.cat(views[:2])).detach()
    expected = [
        0.9 * center.center + 0.1 * logits(of, rows).mean(0, keepdim=True).detach()
        for center, of, rows in (
            (method.center, head, tokens[:, 0]), (method.patch_center, patch_head, tokens[:, 2:][drawn[0]]),
        )
    ]  # fmt: skip
    method(views)
    method.eval()(crops())
    method.after_step(0, 10)
    for center, value in zip((method.center, method.patch_center), expected, strict=True):
        torch.testing.assert_close(center.center, value)


def test_a_backbone_without_the_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="^IBOT: backbone has no class token or no mask token"):
        IBOT(ViT((8, 8), 2, width=8, depth=1, heads=2, class_token=True), feature_dim=8)


def test_views_and_sizes_that_do_not_fit_are_one_sentence() -> None:
    method, large, small = ibot(), torch.rand(4, 1, 8, 8), torch.rand(4, 1, 4, 4)
    for views, place in (([large, small], 1), ([small, small, large], 0)):
        with pytest.raises(ValueError, match=rf"^IBOT: views\[{place}\] has shape \(4, 1, 4, 4\) .* images of 8x8;"):
            method([view.double() for view in views])
    with pytest.raises(ValueError, match=r"^IBOT: patch_head is .* and shared_head is True; leave it out"):
        ibot(patch_head=(9,))
    with pytest.raises(ValueError, match=r"^IBOT: patch_head is .* and it has more numbers than"):
        ibot(shared_head=False, patch_head=(9, 8, 7, 6))
