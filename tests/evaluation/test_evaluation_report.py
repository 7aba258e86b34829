# SPDX-License-Identifier: Apache-2.0
"""`sslkernels.evaluation.report`: what applies is measured, each other measure says why not, and nothing is changed."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from sslkernels.data import Dataset, Views
from sslkernels.evaluation import MEASURES, Measure, report
from sslkernels.evaluation import measures as table
from sslkernels.evaluation.given import DRAWN, Given
from sslkernels.models import ResNet

WIDTH = 8
report_module = sys.modules["sslkernels.evaluation.report"]  # the package has a function of this name


class Brighter(nn.Module):
    """Brightens each image by a number of its own."""

    def forward(self, images):
        return images + torch.rand(len(images), 1, 1, 1)


@pytest.fixture
def dataset() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(60, 1, 8, 8, generator=generator), torch.arange(60) % 2
    images[labels == 1, :, :4] += 1
    return Dataset("small", "images", images[:44], labels[:44], images[44:], labels[44:], ("dark", "bright"))


@pytest.fixture
def encoder() -> ResNet:
    return ResNet(1, (4, WIDTH), (1, 1))


@pytest.fixture
def views() -> Views:
    return Views(Brighter())


def failing(given):
    raise RuntimeError("the disk\n  is full")


def test_everything_quick_applies_to_images_with_labels_and_views(encoder, dataset, views):
    found = report(encoder, dataset, views)
    assert found["failed"] == {}
    assert set(found["left_out"]) == {name for name, each in MEASURES.items() if each.slow}
    assert all("runs only where it is named" in why for why in found["left_out"].values())
    assert list(found["measures"]) == [name for name, each in MEASURES.items() if not each.slow]
    for name, each in found["measures"].items():
        assert set(each) == {"value", "more", "better", "meaning", "seconds"}, name
        assert isinstance(each["value"], float), name
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_slow_measure_runs_where_it_is_named(dataset, monkeypatch):
    monkeypatch.setattr(report_module, "MEASURES", {"knn": replace(MEASURES["knn"], slow=True)})
    assert report(None, rows_of(dataset))["left_out"] == {"knn": "it trains networks, and runs only where it is named."}
    assert list(report(None, rows_of(dataset), only=["knn"])["measures"]) == ["knn"]


def test_the_table_is_whole():
    for name, each in MEASURES.items():
        assert each.name == name and each.question in table.QUESTIONS
        assert each.better in ("higher", "lower", "neither")
        assert each.meaning.endswith(".") and each.meaning[0].isupper()
        assert set(each.needs) <= {"features", "labels", "views", "encoder", "images"} and each.needs


def test_what_is_not_there_is_said(encoder, dataset, views):
    unlabelled = replace(dataset, labels=None, test_labels=None, classes=())
    for found, need, words in (
        (report(encoder, unlabelled, views), "labels", "needs labels of at least two classes"),
        (report(encoder, dataset), "views", "needs views of the samples, and none came"),
        (report(None, rows_of(dataset)), "encoder", "needs the encoder, and features alone came"),
    ):
        without = {name for name, each in MEASURES.items() if need in each.needs}
        assert without <= set(found["left_out"]) and found["failed"] == {}
        assert all(words in found["left_out"][name] for name in without if MEASURES[name].needs[0] == need)


def rows_of(dataset: Dataset) -> Dataset:
    return replace(dataset, inputs=dataset.inputs.flatten(1), test_inputs=dataset.test_inputs.flatten(1))


def test_features_are_measured_as_their_encoder(dataset):
    flat, rows = (report(*each, only=["knn", "rank_me"])["measures"] for each in (
        (nn.Flatten(), dataset), (None, rows_of(dataset)),
    ))  # fmt: skip
    assert {name: each["value"] for name, each in flat.items()} == {name: each["value"] for name, each in rows.items()}


def test_nothing_is_changed_and_the_draws_are_the_same_again(encoder, dataset, views):
    encoder.stages[0].eval()  # a part that its owner has frozen
    weights, modes = copy.deepcopy(encoder.state_dict()), [each.training for each in encoder.modules()]
    state = torch.random.get_rng_state()
    first = report(encoder, dataset, views)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    second = report(encoder, dataset, views)
    for name, each in first["measures"].items():
        assert second["measures"][name]["value"] == each["value"], name
    assert all(torch.equal(value, weights[name]) for name, value in encoder.state_dict().items())
    assert [each.training for each in encoder.modules()] == modes
    assert all(each.grad is None for each in encoder.parameters())


def test_a_measure_that_fails_leaves_the_others_alone(encoder, dataset, monkeypatch):
    broken = Measure("knn", failing, ("features",), "higher", "It fails.", table.PROBES)
    monkeypatch.setitem(MEASURES, "knn", broken)
    monkeypatch.setitem(MEASURES, "few_shot", replace(broken, name="few_shot", of=lambda given: float("nan")))
    found = report(encoder, dataset, only=["rank_me", "knn", "few_shot"])
    assert list(found["measures"]) == ["rank_me"]
    assert found["failed"]["knn"] == "the disk is full."
    assert "no finite number" in found["failed"]["few_shot"]


def test_views_are_of_the_same_samples_and_small_crops_are_left_out(dataset):
    given = Given(nn.Flatten(), dataset, Views(nn.Identity()))
    assert given.views.shape == (44, DRAWN, 64)
    assert torch.equal(given.views[:, 3], dataset.inputs.flatten(1))

    class Crops(nn.Module):
        def forward(self, batch):
            return batch, batch + 1, batch[..., :4, :4]

    drawn = Given(nn.Flatten(), dataset, Crops()).views
    assert drawn.shape == given.views.shape and torch.equal(drawn[:, 1::2], drawn[:, ::2] + 1)


@pytest.mark.parametrize(
    ("only", "words"),
    [
        (["rankme"], "report: no measure is named 'rankme'; did you mean rank_me?"),
        (["nothing_like_it"], "there are "),
        ([3], "no measure is named 3; there are "),
        ([], "only is empty; pass at least one of "),
    ],
)
def test_a_wrong_name_is_said(encoder, dataset, only, words):
    with pytest.raises(ValueError, match="^report: ") as raised:
        report(encoder, dataset, only=only)
    assert words in str(raised.value)


def test_wrong_arguments_are_said(encoder, dataset):
    with pytest.raises(TypeError, match="report: only is a str; pass a list of names of measures"):
        report(encoder, dataset, only="knn")
    with pytest.raises(TypeError, match="report: encoder is a str; pass a torch.nn.Module"):
        report("resnet", dataset)
    with pytest.raises(TypeError, match="report: dataset is a str; pass a sslkernels.data.Dataset"):
        report(encoder, "digits")
    with pytest.raises(TypeError, match="report: views is 3; pass something that can be called"):
        report(encoder, dataset, 3)


def test_what_scales_rows_to_norm_one_does_not_depend_on_their_scale(dataset):
    rows = rows_of(dataset)
    large = replace(rows, inputs=rows.inputs * 1e30, test_inputs=rows.test_inputs * 1e30)  # squares are infinite
    names = ["coding_rate", "uniformity", "few_shot"]
    usual, scaled = (report(None, each, only=names)["measures"] for each in (rows, large))
    for name in names:
        assert scaled[name]["value"] == pytest.approx(usual[name]["value"], rel=1e-5), name


def test_features_that_are_not_finite_are_refused(encoder, dataset):
    dataset.inputs[3] = torch.nan
    with pytest.raises(ValueError, match="report: features of training samples have shape .* and 1 rows with numbers"):
        report(encoder, dataset)
