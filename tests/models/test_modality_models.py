# SPDX-License-Identifier: Apache-2.0
"""Encoders of every modality give features of the right shape, whatever must not matter to them."""

from __future__ import annotations

import pytest
import torch

from sslkernels.data import Graphs
from sslkernels.models import GIN, ColumnTransformer, Conv1dNet, SpectrogramNet, TokenTransformer


def graphs(count: int = 5) -> Graphs:
    sizes = torch.arange(1, count + 1)
    total = int(sizes.sum())
    edges = torch.randint(total, (2, 40))
    batch = torch.arange(count).repeat_interleave(sizes)
    edges = edges[:, batch[edges[0]] == batch[edges[1]]]
    return Graphs(torch.randn(total, 4), torch.cat([edges, edges.flip(0)], 1), batch, count)


CASES = [
    (Conv1dNet(3), torch.randn(6, 3, 50)),
    (SpectrogramNet(), torch.randn(6, 1, 20, 30)),
    (ColumnTransformer(7), torch.randn(6, 7)),
    (TokenTransformer(30, 12), torch.randint(1, 30, (6, 12))),
]


@pytest.mark.parametrize(("model", "batch"), CASES, ids=lambda value: type(value).__name__)
def test_features_have_their_width_and_every_weight_a_gradient(model, batch):
    model.train()
    features = model(batch)
    assert features.shape == (6, model.feature_dim)
    features.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())
    model.eval()
    with torch.no_grad():
        apart = torch.cat([model(batch[row : row + 1]) for row in range(6)])
        torch.testing.assert_close(apart, model(batch), atol=1e-5, rtol=1e-5)


def test_a_graph_is_the_same_in_any_order_and_any_company():
    model, many = GIN(4).eval(), graphs()
    with torch.no_grad():
        whole = model(many)
        assert whole.shape == (5, model.feature_dim)
        apart = torch.cat([model(many[[number]]) for number in range(5)])
        torch.testing.assert_close(apart, whole, atol=1e-5, rtol=1e-5)
        last = many[[4]]
        order = torch.randperm(len(last.x))
        back = order.argsort()
        shuffled = Graphs(
            last.x[order], back[last.edge_index][:, torch.randperm(last.edge_index.shape[1])], last.batch, 1
        )
        torch.testing.assert_close(model(shuffled), model(last), atol=1e-5, rtol=1e-5)
        empty = Graphs(torch.zeros(0, 4), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 2)
        assert torch.equal(model(empty), torch.zeros(2, model.feature_dim))


def test_a_layer_adds_the_neighbours():
    model = GIN(2, width=2, depth=1).eval()
    line = Graphs(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]),
                  torch.zeros(3, dtype=torch.int64), 1)  # fmt: skip
    x = model.embed(line.x)
    summed = torch.stack([x[0] + x[1], x[0] + x[1] + x[2], x[1] + x[2]])
    nodes = x + model.layers[0](summed)
    total = nodes.sum(0)
    expected = torch.cat([nodes.mean(0), total.sign() * total.abs().log1p()])[None]
    torch.testing.assert_close(model(line), expected)


def test_padding_plays_no_part():
    model = TokenTransformer(30, 12).eval()
    tokens = torch.randint(1, 30, (4, 5))
    padded = torch.cat([tokens, torch.zeros(4, 7, dtype=torch.int64)], 1)
    with torch.no_grad():
        torch.testing.assert_close(model(padded), model(tokens), atol=1e-5, rtol=1e-5)
        nothing = model(torch.zeros(2, 6, dtype=torch.int64))
    assert torch.equal(nothing, torch.zeros_like(nothing))


def test_padding_in_front_plays_no_part():
    model = TokenTransformer(30, 12).eval()
    tokens = torch.randint(1, 30, (4, 8))
    tokens[:, 0] = 0
    with torch.no_grad():
        before = model(tokens)
        model.pos[0] += torch.randn(model.feature_dim)  # only the padded place has this position
        torch.testing.assert_close(model(tokens), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Conv1dNet(3, ()), "Conv1dNet: widths is .*; pass at least one width and an odd kernel"),
        (lambda: Conv1dNet(3, (4,), 4), "Conv1dNet: widths is .4,. and kernel 4; pass"),
        (lambda: Conv1dNet(0), "Conv1dNet: in_channels is 0; pass a whole number of at least 1"),
        (lambda: SpectrogramNet(()), "SpectrogramNet: widths is empty"),
        (lambda: SpectrogramNet((0,)), r"SpectrogramNet: widths\[0\] is 0"),
        (lambda: ColumnTransformer(5, width=30), "ColumnTransformer: "),
        (lambda: TokenTransformer(0, 5), "TokenTransformer: vocabulary is 0"),
        (lambda: GIN(4, depth=0), "GIN: depth is 0; pass a whole number of at least 1"),
    ],
)
def test_wrong_sizes_are_one_sentence(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
