# SPDX-License-Identifier: Apache-2.0
"""Drop-ins for sentence-transformers stand beside its own losses, in value and in every gradient of a small model."""

from __future__ import annotations

import ast
import inspect
import math
from itertools import product
from typing import Any

import pytest
import torch

pytest.importorskip(
    "sentence_transformers.sentence_transformer.losses",
    reason="sentence-transformers is missing; pip install 'sentence-transformers>=6' brings it",
)

from sentence_transformers import util  # noqa: E402
from sentence_transformers.sentence_transformer import losses as theirs  # noqa: E402
from tiny_sentences import WORDS, model_of, sentences, step  # noqa: E402

from sslkernels.data.installed import Package  # noqa: E402
from sslkernels.losses import sentence_transformers as ours  # noqa: E402

NAMES = ("MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss")
EVERY = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
JOINT = [
    ("query_to_doc", *(name for name, on in zip(EVERY[1:], each, strict=True) if on))
    for each in product((0, 1), repeat=3)
]
WAYS = [(each, "joint") for each in JOINT] + [(each, "per_direction") for each in (JOINT[0], JOINT[2])]
TOLERANCE = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
}


def settings_of(name: str, **settings: Any) -> dict[str, Any]:
    return settings | ({"mini_batch_size": 3} if name.startswith("Cached") else {})


def compare(name: str, negatives: int, count: int, dtype: torch.dtype = torch.float64, **settings: Any) -> None:
    model, columns = model_of(WORDS, dtype=dtype), sentences(negatives + 2, count)
    settings = settings_of(name, **settings)
    found, expected = (step(getattr(library, name)(model, **settings), model, columns) for library in (ours, theirs))
    assert len(found) == len(expected) > 1
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("directions", "partition_mode"), WAYS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_direction_and_partition(name, directions, partition_mode, dtype):
    for negatives, count in product((0, 1, 3), (1, 7, 32)):
        compare(name, negatives, count, dtype, directions=directions, partition_mode=partition_mode)


@pytest.mark.parametrize("mode", ["in_batch_negatives", "hard_negatives", "all_negatives"])
@pytest.mark.parametrize("name", NAMES)
def test_every_hardness(name, mode):
    for negatives in (0, 1, 3):
        for directions in (("query_to_doc",), EVERY):
            compare(name, negatives, 7, directions=directions, hardness_mode=mode, hardness_strength=5.0)


@pytest.mark.parametrize("name", NAMES)
def test_products_are_served_and_other_similarities_left_to_the_original(name, monkeypatch):
    compare(name, 1, 7, similarity_fct=util.dot_score, scale=0.5)
    monkeypatch.setattr(ours, "ranking", None)
    compare(name, 1, 7, similarity_fct=util.euclidean_sim, scale=0.5)
    compare(name, 1, 7, scale=torch.tensor(20.0))
    with pytest.raises(TypeError):
        compare(name, 1, 7)


@pytest.mark.parametrize("name", NAMES)
def test_matryoshka_shrinks_ours_as_the_original(name):
    model, columns = model_of(WORDS, dtype=torch.float64), sentences(3, 7)
    results = []
    for library in (ours, theirs):
        inner = getattr(library, name)(model, **settings_of(name))
        results.append(step(theirs.MatryoshkaLoss(model, inner, [8, 4], [1.0, 0.5]), model, columns))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE[torch.float64])


@pytest.mark.parametrize("name", NAMES)
def test_without_gradients_the_value_is_the_same(name):
    model, columns = model_of(WORDS).eval(), sentences(3, 7)
    with torch.no_grad():
        found, expected = (
            getattr(library, name)(model, **settings_of(name))([model.preprocess(each) for each in columns], None)
            for library in (ours, theirs)
        )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_all_but_the_computation_is_the_original(name):
    model = model_of(WORDS)
    mine, original = getattr(ours, name), getattr(theirs, name)
    assert issubclass(mine, original) and mine.__name__ == original.__name__
    for method in ("__init__", "forward"):
        assert inspect.signature(getattr(mine, method)) == inspect.signature(getattr(original, method))
    for settings in (
        {},
        {"scale": 50.0, "directions": EVERY, "hardness_mode": "hard_negatives", "hardness_strength": 5.0},
    ):
        one, other = mine(model, **settings), original(model, **settings)
        assert one.get_config_dict() == other.get_config_dict()
        assert (one.citation, one.temperature) == (other.citation, other.temperature)
    with pytest.raises(ValueError, match="positive"):
        mine(model, scale=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_one_column_is_refused(name):
    model = model_of(WORDS)
    with pytest.raises(ValueError, match="1"):
        step(getattr(ours, name)(model), model, sentences(1, 4))


def verses(translation: str, count: int) -> list[str]:
    package = Package(f"pythonbible-{translation}", "10 MB", "MIT", module=f"pythonbible_{translation}")
    try:
        file = package.path("verses", "plain_text_bible.py")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    call = next(node.value for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.Assign))
    text, starts, ends = (ast.literal_eval(each) for each in call.args[1:4])
    return [text[starts[verse] : ends[verse]].lower() for verse in list(starts)[:count]]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_on_verses_and_their_sister_translation_learns_as_the_original(name):
    one, other = verses("kjv", 960), verses("asv", 960)
    words = sorted({word for verse in one + other for word in verse.split()})
    curves = []
    for library in (ours, theirs):
        model = model_of(words, dim=32)
        loss = getattr(library, name)(model, **settings_of(name))
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        curves.append([])
        for number in range(30):
            batch = slice(32 * number, 32 * number + 32)
            curves[-1].append(float(step(loss, model, [one[batch], other[batch]], seed=number)[0]))
            optimizer.step()
    assert curves[0] == pytest.approx(curves[1], rel=1e-2, abs=1e-3)
    assert sum(curves[0][-5:]) / 5 < 0.5 * min(curves[0][0], math.log(32))
