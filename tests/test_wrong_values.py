# SPDX-License-Identifier: Apache-2.0
"""Every argument of every public function, module and method is given every wrong value of its kind.

Each call must raise one sentence that names the argument. `OF_NAME` gives the kind of an argument by its name, and
`Door.kinds` does where the name means something else. An argument without a kind fails the walk, and so does a public
name without a door.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from doors import Door
from evaluation_doors import EVALUATION_DOORS
from function_doors import FUNCTION_DOORS
from loss_doors import LOSS_DOORS
from method_doors import METHOD_DOORS
from module_doors import MODULE_DOORS
from wrong_values import KINDS

import sslkernels.functional as SF
from sslkernels import losses, methods, models
from sslkernels.settings import arguments_of

pytestmark = pytest.mark.filterwarnings("ignore:memory_bank_size", "ignore::UserWarning:torch.*")

OF_NAME = {
    "allow_overlap": "flag", "backend": "backend", "bias": "flag", "concat": "flag", "convention": "choice",
    "device": "device", "generator": "generator", "group": "group", "normalize": "flag", "normalize_target": "flag",
    "reduction": "choice", "ring": "flag", "side": "choice or none", "statistics": "choice", "symmetric": "flag",
    "temperature": "temperature", "eps": "weight", "lambd": "weight", "sim": "weight", "var": "weight", "cov": "weight",
    "rho": "weight", "margin": "weight", "beta": "share", "weight": "share", "invariance_weight": "weight",
    "knots": "counted", "t_max": "positive", "num_slices": "counted", "batch": "counted", "length": "counted",
    "height": "counted", "width": "counted", "frames": "counted", "span": "size", "min_spans": "whole",
    "min_keep": "size", "ratio": "share",
    "prob": "share", "enc_scale": "range", "pred_scale": "range", "aspect_ratio": "range", "enc_blocks": "counted",
    "pred_blocks": "counted", "gather_distributed": "flag", "feature_dim": "counted", "projection_dim": "counted",
    "hidden_dim": "counted", "queue_size": "counted", "momentum": "share", "backbone": "module", "views": "views",
    "whole": "flag", "x": "rows", "z": "rows", "z0": "rows", "z1": "rows", "index": "index",
}  # fmt: skip

DOORS: dict[str, Door] = {**EVALUATION_DOORS, **FUNCTION_DOORS, **LOSS_DOORS, **METHOD_DOORS, **MODULE_DOORS}


def walk() -> Iterator[Any]:
    for name, door in DOORS.items():
        for argument in arguments_of(door.signature or door.call):
            if argument == "self":
                continue
            kind = door.kinds.get(argument) or OF_NAME.get(argument)
            yield pytest.param(name, argument, kind, id=f"{name}-{argument}")


@pytest.mark.parametrize("name, argument, kind", list(walk()))
def test_every_wrong_value_of_every_argument_gets_a_sentence(name: str, argument: str, kind: str | None) -> None:
    door = DOORS[name]
    assert kind is not None, f"{name}: what is {argument}? Give it a kind."
    wrong = []
    for case, value in KINDS[kind].items():
        arguments = {
            key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in door.good.items()
        }
        try:
            door.call(**{**arguments, argument: value})
        except (TypeError, ValueError, IndexError) as error:
            sentence = str(error)
            begins = sentence.startswith(f"{door.says or name.removesuffix('()')}:")
            if not begins and not re.match(r"(backend|group|index)\b", sentence):
                wrong.append(f"{case}: does not begin with the function: {sentence}")
            elif not re.search(rf"\b{argument}\b", sentence) and not isinstance(error, IndexError):
                wrong.append(f"{case}: does not name {argument}: {sentence}")
            elif "\n" in sentence or len(sentence) > 400 or sentence[-1] not in ".?":
                wrong.append(f"{case}: is not one sentence: {sentence!r}")
        except Exception as error:
            wrong.append(f"{case}: {type(error).__name__}: {str(error).splitlines()[:1]}")
        else:
            wrong.append(f"{case}: taken in silence")
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize("name", list(DOORS))
def test_the_good_call_is_good(name: str) -> None:
    """Otherwise its errors would be about something else."""
    DOORS[name].call(**DOORS[name].good)


def test_every_public_name_has_its_door() -> None:
    public = {
        *SF.__all__,
        *losses.__all__,
        *(set(methods.__all__) - {"METHODS", "Method", "available"}),
        *models.__all__,
    }
    public |= {"Center", "MemoryBank", "MemoryQueue", "Prototypes", "update_momentum", "use_backend"}
    assert public <= set(DOORS)
