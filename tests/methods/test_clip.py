# SPDX-License-Identifier: Apache-2.0
"""CLIP's loss is the paper's over all pairs of forms, its scale is learned up to 100, and its recall is counted."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.methods import CLIP


class Flat(nn.Linear):
    """A linear map of flattened samples, with the width that an encoder names."""

    def __init__(self, features: int, feature_dim: int) -> None:
        super().__init__(features, feature_dim)
        self.feature_dim = feature_dim

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


def method(pairs: str = "all", **options) -> CLIP:
    torch.manual_seed(0)
    encoders = {"text": Flat(5, 6), "speech": Flat(8, 7)}
    return CLIP(Flat(12, 9), feature_dim=9, encoders=encoders, projection_dim=4, pairs=pairs, **options)


def samples(rows: int = 10) -> tuple[list[Tensor], dict[str, Tensor]]:
    torch.manual_seed(1)
    return [torch.randn(rows, 3, 4)], {"text": torch.randn(rows, 5), "speech": torch.randn(rows, 2, 4)}


def units(clip: CLIP, views: list[Tensor], given: dict[str, Tensor]) -> list[Tensor]:
    """Unit rows of the three forms in float64, by matrices alone."""
    forms = [(clip.backbone, clip.projector, views[0])]
    forms += [(clip.encoders[name], clip.projectors[name], given[name]) for name in ("text", "speech")]
    rows = [
        (x.double().flatten(1) @ encoder.weight.double().T + encoder.bias.double()) @ projector.weight.double().T
        for encoder, projector, x in forms
    ]
    return [x / x.norm(dim=1, keepdim=True) for x in rows]


@pytest.mark.parametrize("pairs", ["all", "first"])
def test_the_loss_is_the_mean_over_pairs_of_forms(pairs: str) -> None:
    clip = method(pairs, temperature=0.2)
    views, given = samples()
    rows, own = units(clip, views, given), torch.arange(10)
    compared = [pair for pair in combinations(range(3), 2) if pairs == "all" or 0 in pair]
    losses = []
    for a, b in compared:
        logits = clip.log_scale.double().exp() * rows[a] @ rows[b].T
        losses.append((F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2)
    wanted = sum(losses) / len(losses)
    assert len(losses) == (3 if pairs == "all" else 2)
    out = clip(views, **given)
    torch.testing.assert_close(out["loss"].double(), wanted, rtol=1e-5, atol=1e-6)
    weights = list(clip.parameters())
    for got, want in zip(torch.autograd.grad(out["loss"], weights), torch.autograd.grad(wanted, weights), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_the_scale_is_learned_and_stops_at_100() -> None:
    assert method(temperature=0.5).log_scale.exp().item() == pytest.approx(2)
    clip = method(temperature=1e-3)
    assert clip.log_scale.exp().item() == pytest.approx(100)
    with torch.no_grad():
        clip.log_scale.fill_(7.0)
    clip.after_step(0, 10)
    assert clip.log_scale.item() == pytest.approx(math.log(100))


def test_recall_counts_own_forms_among_the_nearest() -> None:
    clip = method().eval()
    views, given = samples(300)
    scores = clip.scores(views[0], None, **given)
    first, *others = units(clip, views, given)
    for name, rows in zip(("text", "speech"), others, strict=True):
        cosines = first @ rows.T
        ranks = [(c > c.diagonal()[:, None]).sum(1) for c in (cosines, cosines.T)]
        assert scores[f"{name}_recall_10"] == pytest.approx((torch.cat(ranks) < 10).double().mean().item())
    assert scores["chance_recall_10"] == pytest.approx(10 / 300)
    assert clip.scores(views[0], None) == {}


def test_what_cannot_be_a_form_is_refused() -> None:
    def build(encoders: object) -> CLIP:
        return CLIP(Flat(4, 3), feature_dim=3, encoders=encoders)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="^CLIP: encoders is empty; pass at least one module"):
        build({})
    with pytest.raises(TypeError, match="^CLIP: encoders is a list; "):
        build([Flat(4, 3)])
    with pytest.raises(ValueError, match=r"^CLIP: encoders\['text'\] is a Linear without feature_dim; "):
        build({"text": nn.Linear(4, 3)})
    with pytest.raises(ValueError, match="text of each sample is missing; call method"):
        method()(samples()[0], speech=samples()[1]["speech"])
