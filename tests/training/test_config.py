# SPDX-License-Identifier: Apache-2.0
"""Options of every method and options of one, and configurations that checkpoints hold."""

from __future__ import annotations

import inspect
import re

import pytest

pytest.importorskip("lightning")

from sslkernels.methods import METHODS, available  # noqa: E402
from sslkernels.training.config import OWN, PRESETS, TrainConfig  # noqa: E402


@pytest.mark.parametrize("method", available())
def test_own_options_are_arguments_of_the_method(method):
    own = TrainConfig.from_options(method, {}).own()
    assert set(own) == set(OWN) & set(PRESETS[method])
    assert set(own) - {"patch_size"} <= set(inspect.signature(METHODS[method]).parameters)  # the backbone's


@pytest.mark.parametrize(
    ("method", "option", "given"),
    [("barlow_twins", "temperature", 0.5), ("vicreg", "lambd", 0.1), ("simclr", "cov", 1.0)],
)
def test_an_option_of_another_method_is_refused(method, option, given):
    with pytest.raises(ValueError) as caught:
        TrainConfig.from_options(method, {option: given})
    message = str(caught.value)
    assert message.startswith(f"train: --{option} came and {method} has no such option; leave it out.")
    assert "\n" not in message and all(
        "--" + name.replace("_", "-") in message for name in OWN if name in PRESETS[method]
    )
    with pytest.raises(ValueError, match="has no such option"):
        TrainConfig.from_options(method, {}).check_same({option: given}, "last.ckpt")


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("barlow_twins", {"lambd": -1.0}, "--lambd is -1.0; pass a finite number of at least 0."),
        ("barlow_twins", {"projection_dim": 0}, "--projection-dim is 0; pass a whole number of at least 1."),
        ("vicreg", {"sim": float("nan")}, "--sim is nan; pass a finite number of at least 0."),
        ("vicreg", {"var": float("inf")}, "--var is inf; pass a finite number of at least 0."),
        ("simclr", {"temperature": 0.0}, "--temperature is 0.0; pass a positive number."),
    ],
)
def test_a_wrong_value_gets_a_sentence(method, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        TrainConfig.from_options(method, options)


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
