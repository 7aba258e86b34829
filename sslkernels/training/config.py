# SPDX-License-Identifier: Apache-2.0
"""What a run is made of: the options of ``sslkernels train``, with a preset for each method."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sslkernels.backends import NAMES
from sslkernels.methods import available

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")

# Found on the digits (seeds 0 to 2, two cores, within two minutes).
PRESETS: dict[str, dict[str, Any]] = {
    "simclr": {"epochs": 120, "batch_size": 256, "lr": 3e-3, "temperature": 0.5},
}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the loss curve; saved in the checkpoint, and a resumed run must agree with it.

    ``batch_size`` counts the images of one forward pass over all devices; ``accumulate`` passes make one step.
    """

    method: str
    data: str
    image_size: int
    epochs: int
    batch_size: int
    lr: float
    temperature: float
    seed: int
    backend: str | None
    precision: str
    devices: int
    accumulate: int

    @classmethod
    def from_options(cls, method: str, options: dict[str, Any]) -> TrainConfig:
        """The method's preset with ``options`` over it; an option of None is one that was not given."""
        if method not in available():
            raise ValueError(f"train: method is {method!r}; accepted are {', '.join(available())}.")
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

    def check(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2), ("image_size", 8), ("devices", 1), ("accumulate", 1)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"train: {option(name)} is {value}; pass a whole number of at least {least}.")
        for name in ("lr", "temperature"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ValueError(f"train: {option(name)} is {value}; pass a positive number.")
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
        for name, value in options.items():
            if value is not None and value != getattr(self, name):
                raise ValueError(
                    f"train: {option(name)} is {value} and {path} was trained with {getattr(self, name)}; "
                    "leave the option out to continue that run, or start a new one with another --out."
                )


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


FIELDS = tuple(field.name for field in fields(TrainConfig))
