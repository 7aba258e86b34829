# SPDX-License-Identifier: Apache-2.0
"""Options of every method, options of single ones, and configurations that checkpoints hold."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")

from sslkernels.cli import ALIASES  # noqa: E402
from sslkernels.recipes import available, find  # noqa: E402
from sslkernels.settings import arguments_of  # noqa: E402
from sslkernels.training.config import FIELDS, TrainConfig, option  # noqa: E402
from sslkernels.training.run import prepare  # noqa: E402

# A value of each setting that had a flag of its own.
VALUES = {"projection_dim": 4, "hidden_dim": 4, "queue_size": 8, "temperature": 0.3, "lambd": 0.1, "sim": 2.0,
          "var": 2.0, "cov": 2.0, "patch_size": 2, "mask_ratio": 0.5, "momentum": 0.9}  # fmt: skip


@pytest.mark.parametrize("method", available())
def test_settings_are_arguments_of_method_and_backbone(method):
    recipe = find(method)
    owners = [recipe.method, recipe.backbone.build, recipe.views or recipe.modality.views]
    owners += [recipe.term] if recipe.term else []
    taken = {name for owner in owners for name in arguments_of(owner)}
    taken |= {"weight"} if recipe.term else set()
    assert set(TrainConfig.from_options(method, {}).method_options) <= set(recipe.settings) <= taken
    assert not set(recipe.settings) & {*FIELDS, "backend", "group", "feature_dim"}  # a run's own names stay free
    for paper in (False, True):
        assert {"epochs", "batch_size", "lr"} <= set(recipe.numbers(paper)) <= {*recipe.settings, *FIELDS}


def test_every_former_flag_is_a_setting_of_some_method():
    assert set(ALIASES) == set(VALUES) <= {name for method in available() for name in find(method).settings}


@pytest.mark.parametrize("method", available())
def test_every_setting_of_another_method_is_refused(method):
    own = find(method).settings
    for name in set(VALUES) - set(own):
        for refuse in (
            lambda: TrainConfig.from_options(method, {name: VALUES[name]}),  # noqa: B023
            lambda: TrainConfig.from_options(method, {}).continued({name: VALUES[name]}, "last.ckpt"),  # noqa: B023
        ):
            with pytest.raises(ValueError, match=f"train: {method} has no option {name}; ") as caught:
                refuse()
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("barlow_twins", {"lambd": -1.0}, "BarlowTwins: lambd is -1.0; pass a finite number of at least 0."),
        ("barlow_twins", {"projection_dim": 0}, "BarlowTwins: projection_dim is 0; pass a whole number of at least 1."),
        ("vicreg", {"sim": float("nan")}, "train: sim is nan; pass a finite number."),
        ("vicreg", {"var": float("inf")}, "train: var is inf; pass a finite number."),
        ("simclr", {"temperature": 0.0}, "SimCLR: temperature is 0.0, whose inverse is no number; pass a non-zero one"),
        ("simclr", {"widths": "8,x,8"}, "train: widths is 'x'; pass a whole number."),
        ("simclr", {"widths": "8"}, "ResNet: widths is (8,) and blocks (1, 1, 1)"),
        ("mae", {"normalize_target": "maybe"}, "train: normalize_target is 'maybe'; pass true or false."),
        ("mae", {"patch_size": 3}, "ViT: patch_size is 3 and images (8, 8); it must divide both sides."),
    ],
)
def test_a_wrong_value_gets_a_sentence(method, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        prepare(TrainConfig.from_options(method, options), options)


def test_text_becomes_the_value_that_it_says():
    given = {"temperature": "0.25", "projection_dim": "16", "widths": "8,16", "blocks": "(1, 1)"}
    config = TrainConfig.from_options("simclr", given)
    assert config.method_options == {"temperature": 0.25, "projection_dim": 16, "widths": (8, 16), "blocks": (1, 1)}
    assert TrainConfig.from_options("mae", {"normalize_target": "no"}).normalize_target is False


def test_the_paper_s_numbers_are_taken_on_demand_and_given_ones_go_before():
    config = TrainConfig.from_options("simclr", {"epochs": 3}, paper=True)
    assert (config.epochs, config.batch_size) == (3, 4096) and config.method_options == {}
    learner = prepare(config.changed(batch_size=4096), ["epochs"]).learner  # fewer samples than that lower it
    assert learner.temperature == 0.1


def test_numbers_of_the_recipe_make_it(method="direct_pred"):
    learner = prepare(TrainConfig.from_options(method, {}), []).learner
    assert type(learner).__name__ == "BYOL" and type(learner.predictor).__name__ == "DirectPred"
    with pytest.raises(ValueError, match="direct_pred has no option predictor"):
        TrainConfig.from_options(method, {"predictor": 1})


NO_NUMBER = ("x", True, [1], torch.ones(1), math.nan, math.inf, 10**400, -1)
WRONG: dict[str, tuple] = {
    **dict.fromkeys(("epochs", "devices", "nodes", "accumulate", "threads"), (*NO_NUMBER, 0, 1.5, 2**63)),
    "workers": (*NO_NUMBER, 1.5, 2**63),
    "batch_size": (*NO_NUMBER, 0, 1, 1.5),
    "image_size": (*NO_NUMBER, 7, 1.5, 10**6),
    "seed": (*NO_NUMBER, 0.5, 2**32),
    "lr": (*NO_NUMBER, 0, 0.0, 1j),
    "clip_gradients": (*NO_NUMBER, 0, 0.0, 1j),
    **dict.fromkeys(("weight_decay", "final_weight_decay"), (*NO_NUMBER, 1j)),
    "backend": ("x", 1, True, "CPU", ["cpu"]),
    "precision": ("x", 32, "8", True),
    "strategy": ("x", 32, "DDP", True),
    "compile": ("x", 1, "yes"),
    "data": (3, b"digits", ["digits"]),
    "start": (3, b"run", ["run"], "", "a\0b"),
    # Their limits are checked by the method itself.
    **dict.fromkeys(("projection_dim", "patch_size", "queue_size"), ("x", True, [1], torch.ones(1), -1, 1.5)),
    **dict.fromkeys(("temperature", "momentum", "mask_ratio"), ("x", True, [1], torch.ones(1), math.nan, math.inf)),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_wrong_value_of_every_option_gets_its_own_sentence(name):
    # Where methods give a name to unlike things, as a share and a range of shares, we mean the number.
    method = next(
        each
        for each in available()
        if name in FIELDS or (name in find(each).settings and not find(each).settings[name].many)
    )
    more = {"data": "imagefolder:x"} if name == "image_size" else {}
    for value in WRONG[name]:
        for refuse in (
            lambda: TrainConfig.from_options(method, {**more, name: value}),  # noqa: B023
            lambda: TrainConfig.from_options(method, more).continued({name: value}, "last.ckpt"),  # noqa: B023
        ):
            with pytest.raises((ValueError, TypeError)) as caught:
                refuse()
            sentence = str(caught.value)
            named = option(name) if name in FIELDS else name
            assert sentence.startswith(f"train: {named} is ") and sentence.endswith("."), sentence
            assert "\n" not in sentence and len(sentence) < 300


def test_every_option_of_a_run_has_wrong_values():
    assert {*FIELDS} - {"method"} <= set(WRONG)


@pytest.mark.parametrize("method", [3, None, "nope", "SimCLR", ["simclr"], {}])
def test_a_wrong_method_gets_the_names_of_the_right_ones(method):
    with pytest.raises(ValueError, match="train: method is .*; accepted are action_simclr, alice, barlow_twins"):
        TrainConfig.from_options(method, {})


def test_settings_read_as_fields_and_others_are_refused():
    config = TrainConfig.from_options("simclr", {"temperature": 0.3})
    assert config.temperature == 0.3
    for options in ({"queue_size": 4}, {"nope": 4}):
        with pytest.raises(ValueError, match="simclr has no option"):
            replace(config, method_options=options)
    with pytest.raises(AttributeError, match="no option nope"):
        _ = config.nope


def test_numbers_of_numpy_are_numbers():
    given = {"epochs": np.int64(3), "seed": np.uint8(2), "lr": np.float64(0.5), "temperature": np.float16(0.5)}
    config = TrainConfig.from_options("simclr", given)
    assert config == TrainConfig.from_options("simclr", {name: value.item() for name, value in given.items()})
    assert {type(getattr(config, name)) for name in given} == {int, float}
    assert config.continued(given, "last.ckpt") == config


@pytest.mark.parametrize(("name", "advice"), [("epoch", "did you mean epochs?"), ("wd", "its own are projection_dim"),
                                              ("method", "its own are projection_dim")])  # fmt: skip
def test_a_name_that_is_no_option_is_refused(name, advice):
    for refuse in (
        lambda: TrainConfig.from_options("simclr", {name: 1}),
        lambda: TrainConfig.from_options("simclr", {}).continued({name: 1}, "last.ckpt"),
    ):
        with pytest.raises(ValueError, match=f"train: simclr has no option {name}; .*{re.escape(advice)}"):
            refuse()


@pytest.mark.parametrize("data", ["digits", "npz:x", "cifar10:x"])
def test_a_size_is_of_images_that_are_resized(data):
    assert TrainConfig.from_options("simclr", {"data": data}).image_size is None
    with pytest.raises(ValueError, match=f"--image-size came and the images of {data} have a size; leave it out"):
        TrainConfig.from_options("simclr", {"data": data, "image_size": 32})
    folder = TrainConfig.from_options("simclr", {"data": "imagefolder:x"})
    assert folder.image_size == 32 and folder.continued({"data": data}, "last.ckpt").image_size is None
    earlier = {**TrainConfig.from_options("simclr", {"data": data}).saved(), "image_size": 32}
    assert TrainConfig.from_saved(earlier).image_size is None  # it was saved, but never used


def test_a_run_takes_the_size_that_a_reader_gives():
    assert TrainConfig.from_options("slice_cluster", {}).image_size == 24
    assert TrainConfig.from_options("slice_cluster", {"data": "brain", "image_size": 40}).image_size == 40
    assert TrainConfig.from_options("slice_cluster", {"data": "brain?size=16"}).image_size is None


def test_a_run_goes_on_with_moved_data_and_more_epochs_and_no_other_change():
    config = TrainConfig.from_options("simclr", {"data": "npz:a"})
    assert config.continued({"data": "npz:b", "epochs": 500}, "last.ckpt") == replace(config, data="npz:b", epochs=500)
    assert config.continued({"data": None, "lr": config.lr}, "last.ckpt") == config
    changes = {"batch_size": 2, "lr": 1.0, "seed": 3, "backend": "reference", "precision": "bf16-mixed",
               "accumulate": 2, "threads": 3, "compile": True, "projection_dim": 3, "temperature": 0.25,
               "weight_decay": 0.1, "final_weight_decay": 0.2, "clip_gradients": 3.0,
               "start": "run"}  # fmt: skip
    own = set(config.saved())
    assert own - set(changes) == {"method", "data", "image_size", "epochs", "devices", "nodes", "strategy", "workers"}
    elsewhere = {"devices": 2, "nodes": 2, "strategy": "fsdp2", "workers": 3}
    assert config.continued(elsewhere, "last.ckpt") == replace(config, **elsewhere)
    for name, value in changes.items():
        with pytest.raises(ValueError, match=f"train: {option(name)} is {value} and last.ckpt was trained with "):
            config.continued({name: value}, "last.ckpt")


@pytest.mark.parametrize("method", available())
def test_what_is_saved_comes_back(method):
    changed = {"patch_size": 17, "projection_dim": 17, "grid": 17, "hidden_dim": 17, "label_smoothing": 0.25}
    changed["widths"] = (17,)
    name = next(name for name in changed if name in find(method).settings)
    config = TrainConfig.from_options(method, {"seed": 3, name: changed[name]})
    assert TrainConfig.from_saved(config.saved()) == config


def test_a_checkpoint_of_an_earlier_version_is_read():
    before = {"method": "byol", "data": "digits", "image_size": None, "epochs": 25, "batch_size": 64, "lr": 1e-3,
              "seed": 0, "backend": None, "precision": "32-true", "devices": 1, "accumulate": 1, "projection_dim": 128,
              "hidden_dim": 512, "momentum": 0.95}  # fmt: skip
    assert TrainConfig.from_saved(before) == TrainConfig.from_options("byol", {})


def test_a_checkpoint_from_before_an_option_was_trained_by_the_preset():
    config = TrainConfig.from_options("simclr", {})
    older = {name: value for name, value in config.saved().items() if name != "projection_dim"}
    assert TrainConfig.from_saved(older) == config


@pytest.mark.parametrize("change", [{"method": "nope"}, {"more": 1}, {"epochs": ...}], ids=str)
def test_a_foreign_configuration_is_none(change):
    saved = TrainConfig.from_options("simclr", {}).saved() | change
    assert TrainConfig.from_saved({name: value for name, value in saved.items() if value is not ...}) is None
    assert TrainConfig.from_saved([1]) is None
