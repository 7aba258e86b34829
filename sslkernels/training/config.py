# SPDX-License-Identifier: Apache-2.0
"""What a run is made of: the options of ``sslkernels train``, with a preset for each method."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

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


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the loss curve; saved in the checkpoint, and a resumed run must agree with it.

    ``batch_size`` counts the images of one forward pass over all devices; ``accumulate`` passes make one step. The
    options of other methods than ``method`` are None.
    """

    method: str
    data: str
    image_size: int
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

    @classmethod
    def from_options(cls, method: str, options: dict[str, Any]) -> TrainConfig:
        """The method's preset with ``options`` over it; an option of None is one that was not given."""
        if method not in available():
            raise ValueError(f"train: method is {method!r}; accepted are {', '.join(available())}.")
        check_own(method, options)
        defaults = {
            "data": "digits",
            "image_size": 32,
            "seed": 0,
            "backend": None,
            "precision": "32-true",
            "devices": 1,
            "accumulate": 1,
            **PRESETS[method],
        }
        given = {name: value for name, value in options.items() if value is not None}
        config = cls(method=method, **{**defaults, **given})
        config.check()
        return config

    @classmethod
    def from_saved(cls, saved: object) -> TrainConfig | None:
        """The configuration of a checkpoint, or None where it is none. One from before an option of the method was
        there was trained as the preset has it.
        """
        if not isinstance(saved, dict) or saved.get("method") not in PRESETS:
            return None
        preset = PRESETS[saved["method"]]
        whole: dict[str, Any] = {name: preset.get(name) for name in OWN} | saved
        return cls(**whole) if set(whole) == set(FIELDS) else None

    def saved(self) -> dict[str, Any]:
        """What checkpoints and metrics hold of it: nothing that is another method's."""
        own = self.own()
        return {name: value for name, value in asdict(self).items() if name not in OWN or name in own}

    def own(self) -> dict[str, Any]:
        """What options set of the method: its arguments, and the patch size of its backbone."""
        return {name: getattr(self, name) for name in OWN if name in PRESETS[self.method]}

    def check(self) -> None:
        wholes = {
            "epochs": 1,
            "batch_size": 2,
            "image_size": 8,
            "devices": 1,
            "accumulate": 1,
            "projection_dim": 1,
            "hidden_dim": 1,
            "queue_size": 1,
            "patch_size": 1,
        }
        for name, least in wholes.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"train: {option(name)} is {value}; pass a whole number of at least {least}.")
        for name in ("lr", "temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"train: {option(name)} is {value}; pass a positive number.")
        for name in ("lambd", "sim", "var", "cov"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"train: {option(name)} is {value}; pass a finite number of at least 0.")
        for name in ("mask_ratio", "momentum"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"train: {option(name)} is {value}; pass a number from 0 to 1.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"train: --seed is {self.seed}; pass a whole number from 0 to 4294967295.")
        for name, accepted in (("backend", (None, *NAMES)), ("precision", PRECISIONS)):
            value = getattr(self, name)
            if value not in accepted:
                names = ", ".join(each for each in accepted if each)
                raise ValueError(f"train: {option(name)} is {value!r}; accepted are {names}.")
        if self.batch_size % self.devices:
            raise ValueError(
                f"train: --batch-size is {self.batch_size} and --devices {self.devices}; "
                "pass a batch size that the devices divide."
            )

    def check_same(self, options: dict[str, Any], path: object) -> None:
        """Refuse options that would continue the run of checkpoint ``path`` on another curve."""
        check_own(self.method, options)
        for name, value in options.items():
            if value is not None and value != getattr(self, name):
                raise ValueError(
                    f"train: {option(name)} is {value} and {path} was trained with {getattr(self, name)}; "
                    "leave the option out to continue that run, or start a new one with another --out."
                )


def check_own(method: str, options: dict[str, Any]) -> None:
    """Refuse options that other methods have and ``method`` has not."""
    has = [name for name in OWN if name in PRESETS[method]]
    for name in OWN:
        if name not in has and options.get(name) is not None:
            raise ValueError(
                f"train: {option(name)} came and {method} has no such option; leave it out. "
                f"Its own are {', '.join(map(option, has))}."
            )


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


FIELDS = tuple(field.name for field in fields(TrainConfig))
