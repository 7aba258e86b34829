# SPDX-License-Identifier: Apache-2.0
"""Every pretext task changes samples as its answers say."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from sslkernels.terms import TASKS, Context, Jigsaw, OddOneOut, Permutation, Places, Reversal, Rotation, Warp
from sslkernels.terms.context import SIDES
from sslkernels.terms.jigsaw import far_orders
from sslkernels.terms.rotation import quarter_turns


def numbered(count: int, channels: int, side: int) -> torch.Tensor:
    """Images whose every pixel has a number of its own."""
    return torch.arange(float(count * channels * side * side)).view(count, channels, side, side)


def test_a_quarter_takes_the_right_upper_corner_to_the_left():
    images = numbered(5, 2, 4)
    turned = quarter_turns(images, torch.tensor([0, 1, 2, 3, 5]))
    for number, (row, column) in enumerate([(0, -1), (0, 0), (-1, 0), (-1, -1), (0, 0)]):
        assert torch.equal(turned[number, :, row, column], images[number, :, 0, -1])
        assert torch.equal(turned[number].flatten().sort().values, images[number].flatten().sort().values)
    with pytest.raises(ValueError, match="pass squares"):
        Rotation(8).draw(torch.rand(2, 1, 8, 7))


def test_all_quarters_are_drawn():
    images = numbered(400, 1, 3)
    changed, answers = Rotation(8).draw(images)
    assert torch.equal(
        changed, torch.stack([torch.rot90(i, int(k), (1, 2)) for i, k in zip(images, answers, strict=True)])
    )
    assert answers.bincount(minlength=4).min() > 60


def test_orders_differ_in_many_places():
    orders = far_orders(9, 31)
    assert orders[0].tolist() == list(range(9)) and len({tuple(order.tolist()) for order in orders}) == 31
    nearest = [int((orders[:i] != orders[i]).sum(1).min()) for i in range(1, 31)]
    assert nearest == sorted(nearest, reverse=True) and nearest[0] == 9 and nearest[-1] >= 7
    # The definition, order by order, on four tiles.
    chosen = [(0, 1, 2, 3)]
    while len(chosen) < 24:
        chosen.append(
            max(
                permutations(range(4)),
                key=lambda p: min(sum(a != b for a, b in zip(p, c, strict=True)) for c in chosen),
            )
        )
    assert far_orders(4, 24).tolist() == [list(order) for order in chosen]


@pytest.mark.parametrize(("side", "grid"), [(8, 2), (9, 3), (11, 3)])
def test_tiles_lie_in_the_order_of_the_answer(side, grid):
    task = Jigsaw(8, grid=grid, permutations=20, whole=0.4, grey=0.0)
    images = numbered(200, 3, side)
    changed, answers = task.draw(images)
    tile = side // grid
    assert changed.shape == (200, 3, grid * tile, grid * tile)
    assert 50 < (answers == 0).sum() < 110 and answers.unique().tolist() == list(range(21))
    for image, before, answer in zip(changed[:40], images, answers, strict=False):
        for place, source in enumerate(task.orders[answer].tolist()):
            (row, column), (down, right) = divmod(place, grid), divmod(source, grid)
            found = image[:, row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
            assert torch.equal(found, before[:, down * tile : (down + 1) * tile, right * tile : (right + 1) * tile])
    with pytest.raises(ValueError, match="2 x 2 pixels; pass at least 3"):
        Jigsaw(8).draw(torch.rand(2, 1, 2, 2))


def test_grey_tiles_have_one_light_in_all_channels():
    changed, _ = Jigsaw(8, grid=2, permutations=3, whole=1.0, grey=0.5).draw(torch.rand(300, 3, 8, 8))
    grey = (changed[:, 0] == changed[:, 2]).view(300, 2, 4, 2, 4).all(4).all(2)
    assert 0.4 < grey.float().mean() < 0.6
    coloured = (changed[:, 0] != changed[:, 2]).view(300, 2, 4, 2, 4).all(4).all(2)
    assert torch.equal(grey, ~coloured)


def test_a_second_patch_lies_on_the_side_of_the_answer():
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    images = torch.stack([rows, columns, rows]).expand(500, 3, 40, 40)
    task = Context(8, gap=0.5, jitter=0.0, grey=0.0)
    patches, answers = task.draw(images)
    corners = patches.view(500, 2, *patches.shape[1:])[:, :, :2, 0, 0]
    step = (corners[:, 1] - corners[:, 0]).sign()
    assert torch.equal(step, torch.tensor(SIDES)[answers].float()) and answers.unique().tolist() == list(range(8))
    side = patches.shape[2]
    assert side == 10 and (corners[:, 1] - corners[:, 0]).abs().max() == side + 5
    moved, sides = Context(8, gap=0.5, jitter=0.3, grey=0.0).draw(images)
    corners = moved.view(500, 2, *moved.shape[1:])[:, :, :2, 0, 0]
    reach = round(0.3 * moved.shape[2])
    off = corners - corners.new_tensor([(40 - moved.shape[2]) // 2] * 2)
    off[:, 1] -= (moved.shape[2] + round(0.5 * moved.shape[2])) * torch.tensor(SIDES)[sides]
    assert off.unique().tolist() == list(range(-reach, reach + 1))
    with pytest.raises(ValueError, match="8 x 4 pixels; pass at least 9 a side"):
        Context(8).draw(torch.rand(2, 1, 8, 4))


@pytest.mark.parametrize(("side", "gap", "jitter"), [(43, 0.5, 0.15), (48, 0.5, 0.15), (14, 0.5, 0.2), (30, 1, 0.5)])
def test_patches_lie_within_the_image_whatever_its_side(side, gap, jitter):
    images = torch.arange(float(side))[:, None].expand(300, 1, side, side)  # each row has its number
    patches, _ = Context(8, gap=gap, jitter=jitter).draw(images)
    assert (patches[:, 0, :, 0].diff(dim=1) == 1).all()


def test_one_clip_of_six_is_shuffled():
    series = torch.arange(100.0).expand(200, 3, 100) + 1000 * torch.arange(200.0)[:, None, None]
    clips, answers = OddOneOut(8).draw(series)
    assert clips.shape == (1200, 3, 50)
    steady = (clips.diff(dim=2) == 1).all(2).all(1).view(200, 6)
    assert torch.equal((~steady).long().argmax(1), answers) and (steady.sum(1) == 5).all()
    for clip in clips.view(200, 6, 3, 50)[torch.arange(200), answers][:, 0]:
        assert torch.equal(clip.sort().values, clip.min() + torch.arange(50.0))
    assert (clips[:, 0].min(1).values // 1000 == torch.arange(200).repeat_interleave(6)).all()
    assert answers.bincount(minlength=6).min() > 15


@pytest.mark.parametrize("kind", [Reversal, Permutation, Warp])
def test_half_of_the_series_are_changed_and_those_alone(kind):
    series = torch.arange(60.0).expand(200, 2, 60).clone()
    changed, answers = kind(8).draw(series)
    same = (changed == series).all(2).all(1)
    assert torch.equal(same, answers == 0) and 70 < answers.sum() < 130
    one = changed[answers == 1][0]
    if kind is Reversal:
        assert torch.equal(one, series[0].flip(1))
    elif kind is Permutation:
        assert torch.equal(one.sort(1).values, series[0]) and torch.equal(
            one[0].view(4, 15).diff(dim=1), torch.ones(4, 14)
        )
    else:
        assert (one.diff(dim=1) >= 0).all() and one[:, 0].eq(0).all() and one[:, -1].eq(59).all()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_draws_from_torch_and_leaves_its_input(name):
    inputs = (
        torch.rand(6, 2, 40)
        if TASKS[name](8).__class__ in (Reversal, Permutation, Warp, OddOneOut)
        else torch.rand(6, 3, 24, 24)
    )
    before, state = inputs.clone(), torch.get_rng_state()
    first = TASKS[name](8)
    torch.set_rng_state(state)
    one = first.draw(inputs)
    torch.set_rng_state(state)
    again = first.draw(inputs)
    assert all(map(torch.equal, one, again)) and torch.equal(inputs, before) and one[0].dtype == inputs.dtype
    assert one[0].shape[0] == 6 * first.parts and one[1].max() < first.classes
    with pytest.raises(ValueError, match="inputs"):
        first.draw(torch.rand(6, 5))


def test_accuracy_is_counted_in_portions():
    seen: list[int] = []

    def corner(images):
        seen.append(len(images))
        return torch.stack([images[:, 0, row, column] for row, column in ((0, 0), (-1, 0), (-1, -1), (0, -1))], 1)

    task = Rotation(4)
    task.head.weight.data, task.head.bias.data = torch.eye(4), torch.zeros(4)
    images = torch.zeros(600, 1, 4, 4)
    images[:, 0, 0, 0] = 1
    assert task.scores(corner, images, None) == {"rotation_accuracy": 1.0} and seen == [256, 256, 88]


def test_cells_are_those_nearest():
    corners = torch.tensor([[0.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
    place = corners.repeat(10, 1) + 0.1 * torch.randn(30, 2)
    term = Places(3, place, cells=3)
    assert torch.cdist(corners, term.centres).min(1).values.max() < 0.2
    cell = torch.cdist(corners, term.centres).argmin(1)
    term.head.weight.data, term.head.bias.data = torch.eye(3), torch.zeros(3)
    rows = 50 * torch.eye(3)[cell]
    assert term(lambda view: view, [rows], place=corners) < 1e-6
    with pytest.raises(ValueError, match="Places: cells is 4 and there are 3 places"):
        Places(3, corners, cells=4)
    with pytest.raises(ValueError, match="Places: place holds numbers that are not finite"):
        Places(3, corners / corners, cells=2)


def test_places_of_one_town_have_cells_of_their_own():
    degrees = torch.tensor([48.85, 2.35]) + 0.01 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    term = Places(20, degrees, cells=20)
    centres = term.centres.double()
    nearest = (degrees.double()[:, None] - centres).square().sum(2).argmin(1)
    term.head.weight.data, term.head.bias.data = torch.eye(20), torch.zeros(20)
    assert term(lambda view: view, [50 * torch.eye(20)[nearest]], place=degrees) < 1e-6
