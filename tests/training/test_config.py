# SPDX-License-Identifier: Apache-2.0
"""Options of every method, options of single ones, and configurations that checkpoints hold."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")

from sslkernels.methods import METHODS, all_options, available  # noqa: E402
from sslkernels.training.config import FIELDS, TrainConfig, option  # noqa: E402

OWN = tuple(all_options())
PRESETS = {name: method.preset for name, method in METHODS.items()}


@pytest.mark.parametrize("method", available())
def test_own_options_are_arguments_of_the_method(method):
    own = TrainConfig.from_options(method, {}).method_options
    assert set(own) == set(OWN) & set(PRESETS[method])
    assert set(own) - {"patch_size"} <= set(inspect.signature(METHODS[method]).parameters)  # the backbone takes it


@pytest.mark.parametrize("method", available())
def test_every_option_of_another_method_is_refused(method):
    has = [name for name in OWN if name in PRESETS[method]]
    for name in set(OWN) - set(has):
        given = next(preset[name] for preset in PRESETS.values() if name in preset)
        for refuse in (
            lambda: TrainConfig.from_options(method, {name: given}),  # noqa: B023
            lambda: TrainConfig.from_options(method, {}).continued({name: given}, "last.ckpt"),  # noqa: B023
        ):
            with pytest.raises(ValueError) as caught:
                refuse()
            message = str(caught.value)
            assert message.startswith(f"train: {option(name)} came and {method} has no such option; leave it out.")
            assert "\n" not in message and all(option(own) in message for own in has)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("barlow_twins", {"lambd": -1.0}, "--lambd is -1.0; pass a finite number of at least 0."),
        ("barlow_twins", {"projection_dim": 0}, "--projection-dim is 0; pass a whole number of at least 1."),
        ("vicreg", {"sim": float("nan")}, "--sim is nan; pass a finite number of at least 0."),
        ("vicreg", {"var": float("inf")}, "--var is inf; pass a finite number of at least 0."),
        ("simclr", {"temperature": 0.0}, "--temperature is 0.0; pass a finite number above 0."),
    ],
)
def test_a_wrong_value_gets_a_sentence(method, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        TrainConfig.from_options(method, options)


NO_NUMBER = ("x", True, [1], torch.ones(1), math.nan, math.inf, 10**400, -1)
WRONG: dict[str, tuple] = {
    **dict.fromkeys(("epochs", "devices", "accumulate", "queue_size", "hidden_dim"), (*NO_NUMBER, 0, 1.5, 2**63)),
    **dict.fromkeys(("projection_dim", "patch_size"), (*NO_NUMBER, 0, 1.5, np.float32(2))),
    "batch_size": (*NO_NUMBER, 0, 1, 1.5),
    "image_size": (*NO_NUMBER, 7, 1.5, 10**6),
    "seed": (*NO_NUMBER, 0.5, 2**32),
    **dict.fromkeys(("lr", "temperature"), (*NO_NUMBER, 0, 0.0, 1j)),
    **dict.fromkeys(("lambd", "sim", "var", "cov"), (*NO_NUMBER, "0.1")),
    **dict.fromkeys(("mask_ratio", "momentum"), (*NO_NUMBER, 1.01)),
    "backend": ("x", 1, True, "CPU", ["cpu"]),
    "precision": ("x", 32, "8", True),
    "data": (3, b"digits", ["digits"]),
}


@pytest.mark.parametrize("name", sorted({*FIELDS, *OWN} - {"method"}))
def test_every_wrong_value_of_every_option_gets_its_own_sentence(name):
    method = next(each for each in available() if name not in OWN or name in PRESETS[each])
    more = {"data": "imagefolder:x"} if name == "image_size" else {}
    for value in WRONG.get(name, NO_NUMBER[:-1]):  # the limits of a new option are not known here
        for refuse in (
            lambda: TrainConfig.from_options(method, {**more, name: value}),  # noqa: B023
            lambda: TrainConfig.from_options(method, more).continued({name: value}, "last.ckpt"),  # noqa: B023
        ):
            with pytest.raises((ValueError, TypeError)) as caught:
                refuse()
            sentence = str(caught.value)
            assert sentence.startswith(f"train: {option(name)} is ") and sentence.endswith("."), sentence
            assert "\n" not in sentence and len(sentence) < 300


@pytest.mark.parametrize("method", [3, None, "nope", "SimCLR", ["simclr"], {}])
def test_a_wrong_method_gets_the_names_of_the_right_ones(method):
    with pytest.raises(ValueError, match="train: method is .*; accepted are barlow_twins"):
        TrainConfig.from_options(method, {})


def test_options_of_the_method_read_as_fields_and_others_are_refused():
    config = TrainConfig.from_options("simclr", {"temperature": 0.3})
    assert config.temperature == 0.3 and config.queue_size is None
    assert replace(config, method_options={}).temperature == PRESETS["simclr"]["temperature"]
    for options, error in (({"queue_size": 4}, ValueError), ({"nope": 4}, TypeError)):
        with pytest.raises(error, match="option"):
            replace(config, method_options=options)
    with pytest.raises(AttributeError, match="no option nope"):
        _ = config.nope


def test_numbers_of_numpy_are_numbers():
    given = {"epochs": np.int64(3), "seed": np.uint8(2), "lr": np.float64(0.5), "temperature": np.float16(0.5)}
    config = TrainConfig.from_options("simclr", given)
    assert config == TrainConfig.from_options("simclr", {name: value.item() for name, value in given.items()})
    assert {type(getattr(config, name)) for name in given} == {int, float}
    assert config.continued(given, "last.ckpt") == config


@pytest.mark.parametrize(("name", "advice"), [("epoch", "did you mean epochs?"), ("wd", "accepted are data"),
                                              ("method", "accepted are data")])  # fmt: skip
def test_a_name_that_is_no_option_is_refused(name, advice):
    for refuse in (
        lambda: TrainConfig.from_options("simclr", {name: 1}),
        lambda: TrainConfig.from_options("simclr", {}).continued({name: 1}, "last.ckpt"),
    ):
        with pytest.raises(TypeError, match=f"train: {name} is no option; .*{re.escape(advice)}"):
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


def test_a_run_goes_on_with_moved_data_and_more_epochs_and_no_other_change():
    config = TrainConfig.from_options("simclr", {"data": "npz:a"})
    assert config.continued({"data": "npz:b", "epochs": 500}, "last.ckpt") == replace(config, data="npz:b", epochs=500)
    assert config.continued({"data": None, "lr": config.lr}, "last.ckpt") == config
    changes = {"batch_size": 2, "lr": 1.0, "seed": 3, "backend": "reference", "precision": "bf16-mixed", "devices": 2,
               "accumulate": 2, "projection_dim": 3, "temperature": 0.25}  # fmt: skip
    own = set(config.saved())
    assert own - set(changes) == {"method", "data", "image_size", "epochs"}
    for name, value in changes.items():
        with pytest.raises(ValueError, match=f"train: {option(name)} is {value} and last.ckpt was trained with "):
            config.continued({name: value}, "last.ckpt")


OWN_WHOLE = {name: "patch_size" if "patch_size" in PRESETS[name] else "projection_dim" for name in available()}


@pytest.mark.parametrize("method", available())
def test_what_is_saved_comes_back(method):
    config = TrainConfig.from_options(method, {"seed": 3, OWN_WHOLE[method]: 17})
    saved = config.saved()
    assert TrainConfig.from_saved(saved) == config
    assert None not in [saved[name] for name in OWN if name in saved]


def test_a_checkpoint_from_before_an_option_was_trained_by_the_preset():
    config = TrainConfig.from_options("simclr", {})
    older = {name: value for name, value in config.saved().items() if name != "projection_dim"}
    assert TrainConfig.from_saved(older) == config


@pytest.mark.parametrize("change", [{"method": "nope"}, {"more": 1}, {"epochs": ...}], ids=str)
def test_a_foreign_configuration_is_none(change):
    saved = TrainConfig.from_options("simclr", {}).saved() | change
    assert TrainConfig.from_saved({name: value for name, value in saved.items() if value is not ...}) is None
    assert TrainConfig.from_saved([1]) is None
