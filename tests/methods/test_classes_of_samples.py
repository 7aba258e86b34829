# SPDX-License-Identifier: Apache-2.0
"""SupCon, DCL and DIET against their papers' formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sslkernels.methods import DCL, DIET, Method, SupCon
from sslkernels.models import ResNet

LABELS = torch.tensor([0, 2, 1, 0, 7])


def views(count: int = 2) -> list[torch.Tensor]:
    return [torch.rand(5, 1, 8, 8, dtype=torch.float64) for _ in range(count)]


def built(kind: type[Method], **options) -> Method:
    return kind(ResNet(1, (6,), (1,)), feature_dim=6, **options).double()


def assert_same(method: Method, loss: torch.Tensor, exact: torch.Tensor) -> None:
    """Check value and gradients, and that some gradient reaches every weight."""
    torch.testing.assert_close(loss, exact)
    weights = list(method.parameters())
    found, expected = (torch.autograd.grad(value, weights) for value in (loss, exact))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert all(gradient.any() for gradient in found)


def unit_rows_of(method: Method, both: list[torch.Tensor]) -> torch.Tensor:
    return F.normalize(torch.cat([method.projector(method.backbone(view)) for view in both]), dim=1)


def test_sup_con_is_equation_two_of_the_paper():
    method, both = built(SupCon, projection_dim=4, temperature=0.3), views()
    z, labels = unit_rows_of(method, both), torch.cat([LABELS, LABELS]).tolist()
    terms = []
    for i in range(10):
        others = [a for a in range(10) if a != i]
        below = sum(torch.exp(z[i] @ z[a] / 0.3) for a in others)
        positive = [p for p in others if labels[p] == labels[i]]
        terms.append(-sum(torch.log(torch.exp(z[i] @ z[p] / 0.3) / below) for p in positive) / len(positive))
    assert_same(method, method(both, label=LABELS)["loss"], torch.stack(terms).mean())


def test_dcl_leaves_the_positive_out_of_the_sum():
    method, both = built(DCL, projection_dim=4, temperature=0.3), views()
    z, terms = unit_rows_of(method, both), []
    for i in range(10):
        p = (i + 5) % 10
        below = sum(torch.exp(z[i] @ z[a] / 0.3) for a in range(10) if a not in (i, p))
        terms.append(torch.log(below) - z[i] @ z[p] / 0.3)
    assert_same(method, method(both)["loss"], torch.stack(terms).mean())


def test_diet_is_a_smoothed_cross_entropy_over_the_samples():
    method, (view,) = built(DIET, samples=9, label_smoothing=0.8), views(1)
    logits, index = method.backbone(view) @ method.head.weight.T, [8, 0, 3, 3, 5]
    assert method.head.bias is None and method.head.weight.shape == (9, 6)
    below = logits.exp().sum(1).log()
    own = torch.stack([logits[row, column] for row, column in enumerate(index)])
    exact = (below - 0.2 * own - 0.8 * logits.mean(1)).mean()
    assert_same(method, method([view], index=torch.tensor(index))["loss"], exact)


@pytest.mark.parametrize(
    ("method", "name"), [(lambda: built(SupCon), "label"), (lambda: built(DIET, samples=9), "index")]
)
def test_what_is_known_of_samples_must_fit(method, name):
    method = method()
    given = views(method.views)
    with pytest.raises(ValueError, match=f"{type(method).__name__}: {name} of each sample is missing"):
        method(given)
    with pytest.raises(ValueError, match=f"{type(method).__name__}: {name} has shape"):
        method(given, **{name: LABELS[:4]})
    with pytest.raises(TypeError, match=f"{type(method).__name__}: {name} has dtype"):
        method(given, **{name: LABELS.float()})


def test_diet_refuses_a_sample_that_it_has_no_class_for():
    with pytest.raises(IndexError, match="target holds 9; classes run from 0 to 8"):
        built(DIET, samples=9)(views(1), index=torch.tensor([0, 1, 2, 3, 9]))


def test_sup_con_is_simclr_where_no_two_samples_share_a_class():
    method, both = built(SupCon, projection_dim=4), views()
    alone = super(SupCon, method).loss(*method(both, label=torch.arange(5))["embeddings"][:2])
    torch.testing.assert_close(method(both, label=torch.arange(5))["loss"], alone)
    assert not torch.allclose(method(both, label=LABELS)["loss"], alone)
