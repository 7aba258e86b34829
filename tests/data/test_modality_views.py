# SPDX-License-Identifier: Apache-2.0
"""Graphs are taken apart and joined rightly, and views of every modality vary what they may and keep what they must."""

from __future__ import annotations

import pytest
import torch

from sslkernels.data import (
    AudioViews,
    Graphs,
    GraphViews,
    ImageViews,
    SeriesViews,
    Shots,
    TableViews,
    TokenViews,
    TwoViews,
    Views,
)
from sslkernels.data.spectrogram import log_mel, mel_bands, placed, resample, trimmed
from sslkernels.data.views.drawn import resampled


def some_graphs(count: int = 7) -> Graphs:
    """Rings of 0, 1, 2, ... nodes, whose edges stand in a random order."""
    sizes = torch.arange(count)
    starts = sizes.cumsum(0) - sizes
    edges = [(int(start) + k, int(start) + (k + 1) % size) for start, size in zip(starts, range(count), strict=True)
             for k in range(size)]  # fmt: skip
    both = torch.tensor([*edges, *((b, a) for a, b in edges)]).T
    both = both[:, torch.randperm(both.shape[1])]
    return Graphs(torch.randn(int(sizes.sum()), 3), both, torch.arange(count).repeat_interleave(sizes), count)


def alone(graphs: Graphs, number: int) -> tuple[torch.Tensor, set]:
    """One graph by a way of its own: its nodes' features, and its edges from 0 on."""
    nodes = (graphs.batch == number).nonzero()[:, 0].tolist()
    place = {node: at for at, node in enumerate(nodes)}
    pairs = [(int(a), int(b)) for a, b in graphs.edge_index.T]
    return graphs.x[nodes], sorted((place[a], place[b]) for a, b in pairs if a in place)


@pytest.mark.parametrize("rows", [[3, 0, 3, 6], slice(1, 5), torch.tensor([5]), [0], slice(0, 7, 3)])
def test_graphs_that_are_taken_are_those_that_were_joined(rows):
    graphs = some_graphs()
    found, wanted = graphs[rows], torch.arange(7)[rows].tolist()
    assert len(found) == len(wanted)
    for place, number in enumerate(wanted):
        (x, edges), (expected, expected_edges) = alone(found, place), alone(graphs, number)
        assert torch.equal(x, expected) and edges == expected_edges
    assert graphs.to("cpu").device == graphs.device


VIEWS = [
    (TwoViews(1, (8, 8)), torch.rand(16, 1, 8, 8)),
    (TwoViews(3, (16, 16)), torch.rand(16, 3, 16, 16)),
    (SeriesViews(), torch.randn(16, 3, 40)),
    (AudioViews(), torch.randn(16, 1, 12, 20)),
    (TableViews(), torch.randn(16, 9)),
    (TokenViews(), torch.randint(1, 50, (16, 12))),
]


@pytest.mark.parametrize(("views", "batch"), VIEWS, ids=lambda value: type(value).__name__)
def test_views_differ_and_come_again_from_the_same_state(views, batch):
    before, state = batch.clone(), torch.get_rng_state()
    first, second = views(batch)
    assert first.shape == second.shape == batch.shape and first.dtype == batch.dtype
    assert torch.equal(batch, before) and not torch.equal(first, second)
    torch.set_rng_state(state)
    again = views(batch)
    assert torch.equal(again[0], first) and torch.equal(again[1], second)
    if not isinstance(views, ImageViews):
        assert len(type(views)(3)(batch)) == 3 and torch.equal(type(views)(1)(batch)[0], batch)


def test_images_are_drawn_as_often_as_asked():
    images = torch.rand(6, 1, 8, 8)
    torch.manual_seed(3)
    two = TwoViews(1, (8, 8))(images)
    torch.manual_seed(3)
    assert all(map(torch.equal, two, ImageViews(1, (8, 8), 2)(images)))
    assert len({view.sum() for view in ImageViews(1, (8, 8), 3)(images)}) == 3


def test_each_view_is_drawn_of_its_own_shot_and_the_first_follows_the_last():
    class Doubled(torch.nn.Module):
        def forward(self, batch):
            return 2 * batch

    shots = torch.arange(24.0).reshape(4, 3, 2)
    views = Shots(Views(Doubled()), 4)(shots)
    assert [view.tolist() for view in views] == [(2 * shots[:, shot]).tolist() for shot in (0, 1, 2, 0)]
    with pytest.raises(ValueError, match=r"batch has shape \(4, 2\)"):
        Shots(Views(Doubled()), 2)(shots[:, 0])


def test_a_stretched_part_is_a_straight_line_where_the_row_is_one():
    line = torch.arange(11.0).expand(2, 3, 11)
    found = resampled(line, torch.tensor([0.5, 1.0]), torch.tensor([1.0, 0.3]))
    torch.testing.assert_close(found[0, 0], torch.linspace(5, 10, 11))
    torch.testing.assert_close(found[1], line[1])


def test_columns_keep_their_own_numbers():
    rows = torch.arange(20.0)[:, None] + 100 * torch.arange(5.0)
    views = TableViews(1, corrupted=0.5)
    found = views.draw(rows)
    assert torch.equal((found / 100).floor(), (rows / 100).floor())
    share = float((found != rows).float().mean())
    assert 0.2 < share < 0.7 and torch.equal(TableViews(1, 0.0).draw(rows), rows)


def test_edges_go_in_both_directions_and_nodes_stay():
    graphs = some_graphs(40)
    found = GraphViews(1, dropped=0.3).draw(graphs)
    pairs = {(int(a), int(b)) for a, b in found.edge_index.T}
    assert all((b, a) in pairs for a, b in pairs) and len(found) == 40
    assert 0.55 < found.edge_index.shape[1] / graphs.edge_index.shape[1] < 0.85
    kept = (found.x == graphs.x).all(1)
    assert (found.x[~kept] == 0).all() and 0.55 < float(kept.float().mean()) < 0.85


def test_tokens_that_are_left_stand_in_their_order_at_the_front():
    batch = torch.zeros(200, 20, dtype=torch.int64)
    for row in range(200):
        batch[row, : 1 + row % 20] = torch.arange(1, 2 + row % 20)
    found = TokenViews(1).draw(batch)
    held = found != 0
    assert held.any(1).all() and (held.long().diff(dim=1) <= 0).all()
    for row, kept in zip(found, held, strict=True):
        tokens = row[kept].tolist()
        assert tokens == sorted(set(tokens))
    whole = TokenViews(1, share=1.0, dropped=0.0).draw(batch)
    assert torch.equal(whole, batch)
    for wrong in (batch.float(), batch[0]):
        with pytest.raises(ValueError, match="TokenViews: batch is a tensor of .*; pass int64 of shape .N, L."):
            TokenViews(1)(wrong), TokenViews(2)(wrong)


def test_a_mixed_sound_lies_between_its_parts():
    quiet, loud = torch.full((2, 1, 8, 8), -9.0), torch.full((2, 1, 8, 8), 3.0)
    found = AudioViews(1).draw(torch.cat([quiet, loud]))
    assert found.min() > -9.6 and found.max() < 3.6


# Spectrograms


def test_a_tone_is_in_its_band():
    rate = 16000
    for hertz in (200.0, 1000.0, 4000.0):
        tone = 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(rate) / rate)[None]
        found = log_mel(tone, rate)[0, 0]
        assert found.shape == (64, 101)
        low, high = (2595 * torch.log10(1 + torch.tensor(each) / 700) for each in (60.0, rate / 2))
        centre = (2595 * torch.log10(1 + torch.tensor(hertz) / 700) - low) / (high - low) * 65 - 1
        assert abs(float(found[:, 50].argmax()) - float(centre)) <= 1
        # A sine of amplitude a has the power a squared in its bin, spread over the taper's neighbours.
        assert -3 < float(found[:, 50].max()) - 2 * float(torch.log(torch.tensor(0.5))) < 1


def test_bands_are_triangles_that_overlap_by_half():
    bands = mel_bands(513, 16000, 40)
    assert (bands >= 0).all() and (bands <= 1).all()
    inner = bands[:, 60:450].sum(0)  # between the first centre and the last, neighbours add up to one
    torch.testing.assert_close(inner, torch.ones_like(inner), atol=1e-4, rtol=0)


def test_resampling_keeps_a_tone_and_removes_what_is_too_high():
    time = torch.arange(1000.0)
    low = torch.sin(2 * torch.pi * 0.02 * time)
    found = resample(low, 2.0)
    torch.testing.assert_close(found[200:1800:2], low[100:900], atol=2e-3, rtol=0)
    assert resample(torch.sin(2 * torch.pi * 0.4 * time), 0.5)[50:-50].abs().max() < 0.05


def test_clips_are_placed_whole_or_cut():
    generator = torch.Generator().manual_seed(0)
    clip = torch.ones(30)
    long = placed(clip, 100, generator, noise=0.0)
    assert long.sum() == 30 and len(long) == 100
    assert torch.equal(placed(torch.arange(50.0), 10, generator, noise=0.0).diff(), torch.ones(9))
    assert torch.equal(trimmed(torch.tensor([0.0, 0.001, 1.0, -2.0, 0.0])), torch.tensor([1.0, -2.0]))
