# SPDX-License-Identifier: Apache-2.0
"""What a run is made of: the options of ``sslkernels train``, with a preset for each method."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from sslkernels.arguments import came, check_choice, check_kind, check_number, check_size
from sslkernels.backends import NAMES
from sslkernels.methods import available

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")

# Found on the digits (seeds 0 to 2, two cores, within two minutes). What is in OWN is an option of this method. Barlow
# Twins' paper has lambd=0.005 at 8192 features; at 512 that learns less (few_shot 0.867 against 0.885 in fewer epochs).
PRESETS: dict[str, dict[str, Any]] = {
    "barlow_twins": {"epochs": 90, "batch_size": 256, "lr": 3e-3, "projection_dim": 512, "lambd": 0.02},
    "byol": {
        "epochs": 25, "batch_size": 64, "lr": 1e-3, "hidden_dim": 512, "projection_dim": 128, "momentum": 0.95,
    },
    "i_jepa": {"epochs": 60, "batch_size": 64, "lr": 1e-3, "patch_size": 2, "momentum": 0.9995},
    "mae": {"epochs": 60, "batch_size": 64, "lr": 2e-3, "patch_size": 2, "mask_ratio": 0.75},
    "moby": {
        "epochs": 25, "batch_size": 128, "lr": 2e-3, "hidden_dim": 512, "projection_dim": 128, "queue_size": 1024,
        "temperature": 0.2, "momentum": 0.97,
    },
    "moco_v2": {
        "epochs": 40, "batch_size": 128, "lr": 2e-3, "projection_dim": 128, "queue_size": 1024, "temperature": 0.2,
        "momentum": 0.97,
    },
    "moco_v3": {
        "epochs": 30, "batch_size": 128, "lr": 2e-3, "hidden_dim": 512, "projection_dim": 128, "temperature": 0.2,
        "momentum": 0.97,
    },
    "simclr": {"epochs": 120, "batch_size": 256, "lr": 3e-3, "projection_dim": 128, "temperature": 0.5},
    "simsiam": {"epochs": 30, "batch_size": 32, "lr": 1e-3, "projection_dim": 256},
    "vicreg": {
        "epochs": 80, "batch_size": 256, "lr": 3e-3, "projection_dim": 512, "sim": 25.0, "var": 25.0, "cov": 1.0,
    },
}  # fmt: skip
# Cropped or erased digits cost these 4 to 20 points of few_shot.
WHOLE_VIEWS = ("byol", "moby", "moco_v2", "moco_v3", "simsiam")
OWN = (
    "projection_dim", "hidden_dim", "queue_size", "temperature", "lambd", "sim", "var", "cov", "patch_size",
    "mask_ratio", "momentum",
)  # fmt: skip
WHOLES: tuple[tuple[tuple[str, ...], dict[str, int]], ...] = (
    (("epochs", "devices", "accumulate", "projection_dim", "hidden_dim", "queue_size", "patch_size"), {"least": 1}),
    (("batch_size",), {"least": 2}),
    (("image_size",), {"least": 8, "most": 1 << 14}),
    (("seed",), {"least": 0, "most": 2**32 - 1}),
)
NUMBERS: tuple[tuple[tuple[str, ...], dict[str, float]], ...] = (
    (("lr", "temperature"), {"above": 0}),
    (("lambd", "sim", "var", "cov"), {"least": 0}),
    (("mask_ratio", "momentum"), {"least": 0, "most": 1}),
)
MOST_EPOCHS = 10**9
# May not be None.
ALWAYS = ("epochs", "batch_size", "lr", "seed", "precision", "devices", "accumulate")
# A resumed run may be given these anew.
CHANGEABLE = ("data", "epochs")
# Images of this kind come in many sizes and are resized to one.
RESIZED, IMAGE_SIZE = "imagefolder:", 32


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the loss curve; saved in the checkpoint, and a resumed run must agree with it.

    ``batch_size`` counts the images of one forward pass over all devices; ``accumulate`` passes make one step.
    ``image_size`` is None where the data has a size of its own, and so are the options of other methods than
    ``method``. Whole numbers and numbers of NumPy become Python's.

    Raises:
        ValueError, TypeError: one sentence with the option and what it accepts.
    """

    method: str
    data: str
    image_size: int | None
    epochs: int
    batch_size: int
    lr: float
    seed: int
    backend: str | None
    precision: str
    devices: int
    accumulate: int
    projection_dim: int | None = None
    hidden_dim: int | None = None
    queue_size: int | None = None
    temperature: float | None = None
    lambd: float | None = None
    sim: float | None = None
    var: float | None = None
    cov: float | None = None
    patch_size: int | None = None
    mask_ratio: float | None = None
    momentum: float | None = None

    def __post_init__(self) -> None:
        if self.method not in available():
            raise ValueError(f"train: method is {came(self.method)}; accepted are {', '.join(available())}.")
        check_kind("train", "--data", self.data, str, "digits, imagefolder:PATH, cifar10:PATH or npz:PATH")
        for names, limits in WHOLES:
            for name in names:
                self._check(name, check_size, **limits)
        if self.epochs > MOST_EPOCHS:  # their steps are counted in 64 bits
            raise ValueError(f"train: --epochs is {came(self.epochs)}; pass at most {MOST_EPOCHS}.")
        for names, bounds in NUMBERS:
            for name in names:
                self._check(name, check_number, **bounds)
        self._check("backend", check_choice, accepted=NAMES)
        self._check("precision", check_choice, accepted=PRECISIONS)
        if self.batch_size % self.devices:
            raise ValueError(
                f"train: --batch-size is {self.batch_size} and --devices {self.devices}; "
                "pass a batch size that the devices divide."
            )

    def _check(self, name: str, checker: Callable[..., Any], **limits: Any) -> None:
        value = getattr(self, name)
        if value is not None or name in ALWAYS:
            object.__setattr__(self, name, checker("train", option(name), value, **limits))

    @classmethod
    def from_options(cls, method: str, options: dict[str, Any]) -> TrainConfig:
        """The method's preset with ``options`` over it; an option of None is one that was not given."""
        given = {name: value for name, value in options.items() if value is not None}
        check_names(given)
        if method not in available():
            raise ValueError(f"train: method is {came(method)}; accepted are {', '.join(available())}.")
        check_own(method, given)
        defaults = {
            "data": "digits",
            "image_size": None,
            "seed": 0,
            "backend": None,
            "precision": "32-true",
            "devices": 1,
            "accumulate": 1,
            **PRESETS[method],
        }
        config = cls(method=method, **{**defaults, **given})
        return config._sized(given)

    @classmethod
    def from_saved(cls, saved: object) -> TrainConfig | None:
        """The configuration of a checkpoint, or None where it is none. One from before an option of the method was
        there was trained as the preset has it.
        """
        if not isinstance(saved, dict) or saved.get("method") not in PRESETS:
            return None
        preset = PRESETS[saved["method"]]
        whole: dict[str, Any] = {name: preset.get(name) for name in OWN} | saved
        if set(whole) != set(FIELDS):
            return None
        if not str(whole["data"]).startswith(RESIZED):  # earlier versions noted a size that they did not use
            whole["image_size"] = None
        return cls(**whole)

    def saved(self) -> dict[str, Any]:
        """What checkpoints and metrics hold of it: nothing that is another method's."""
        own = self.own()
        return {name: value for name, value in asdict(self).items() if name not in OWN or name in own}

    def own(self) -> dict[str, Any]:
        """What options set of the method: its arguments, and the patch size of its backbone."""
        return {name: getattr(self, name) for name in OWN if name in PRESETS[self.method]}

    def continued(self, options: dict[str, Any], path: object) -> TrainConfig:
        """For going on with the run of checkpoint ``path``: its data may have moved, and it may take more epochs.

        Other options that would continue it on another curve are refused.
        """
        given = {name: value for name, value in options.items() if value is not None}
        check_names(given)
        check_own(self.method, given)
        # Through the same checks as those of the checkpoint were.
        asked = replace(self, **given)._sized(given)
        for name in given:
            if name not in CHANGEABLE and getattr(asked, name) != getattr(self, name):
                raise ValueError(
                    f"train: {option(name)} is {getattr(asked, name)} and {path} was trained with "
                    f"{getattr(self, name)}; leave the option out to continue that run, or start a new one with "
                    "another --out."
                )
        return asked

    def _sized(self, given: Collection[str]) -> TrainConfig:
        """With a size for images that come in many, and without one for others."""
        resized = self.data.startswith(RESIZED)
        if "image_size" in given and not resized:
            raise ValueError(
                f"train: --image-size came and the images of {self.data} have a size; leave it out, or pass --data "
                "imagefolder:PATH, whose images are resized."
            )
        return replace(self, image_size=(self.image_size or IMAGE_SIZE) if resized else None)


def check_names(options: Collection[str]) -> None:
    """Refuse what is no option at all, which only a call from Python can bring."""
    for name in options:
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, OPTIONS, 1)
            advice = f"did you mean {near[0]}?" if near else f"accepted are {', '.join(OPTIONS)}."
            raise TypeError(f"train: {name} is no option; {advice}")


def check_own(method: str, options: Collection[str]) -> None:
    """Refuse options that other methods have and ``method`` has not."""
    has = [name for name in OWN if name in PRESETS[method]]
    for name in OWN:
        if name not in has and name in options:
            raise ValueError(
                f"train: {option(name)} came and {method} has no such option; leave it out. "
                f"Its own are {', '.join(map(option, has))}."
            )


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


FIELDS = tuple(field.name for field in fields(TrainConfig))
OPTIONS = FIELDS[1:]  # without the method
