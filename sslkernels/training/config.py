# SPDX-License-Identifier: Apache-2.0
"""The configuration of a run: the options of ``sslkernels train``, and those of its method."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from sslkernels.arguments import came, check_choice, check_kind, check_number, check_size
from sslkernels.backends import NAMES
from sslkernels.methods import METHODS, all_options, available

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")

# Options that are whole numbers, and their limits.
WHOLES: dict[str, dict[str, int]] = {
    "epochs": {"least": 1},
    "devices": {"least": 1},
    "accumulate": {"least": 1},
    "batch_size": {"least": 2},
    "image_size": {"least": 8, "most": 1 << 14},
    "seed": {"least": 0, "most": 2**32 - 1},
}
MOST_EPOCHS = 10**9
# Options that may be None.
OPTIONAL = ("image_size", "backend")
# Options that a resumed run may change.
CHANGEABLE = ("data", "epochs")
# The images of this kind of data come in many sizes, and are resized to this one, in pixels.
RESIZED, IMAGE_SIZE = "imagefolder:", 32


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the loss curve. The checkpoint holds it, and a resumed run must agree with it.

    ``batch_size`` counts the images of one forward pass over all devices; ``accumulate`` passes make one step.
    ``image_size`` is None if the data has a size of its own. ``method_options`` holds the method's own options by name;
    those left out are taken from its preset. NumPy's numbers become Python's.

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
    method_options: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.method not in available():
            raise ValueError(f"train: method is {came(self.method)}; accepted are {', '.join(available())}.")
        check_kind("train", "--data", self.data, str, "digits, imagefolder:PATH, cifar10:PATH or npz:PATH")
        for name, limits in WHOLES.items():
            self._check(name, check_size, **limits)
        if self.epochs > MOST_EPOCHS:  # steps are counted in 64 bits
            raise ValueError(f"train: --epochs is {came(self.epochs)}; pass at most {MOST_EPOCHS}.")
        self._check("lr", check_number, above=0)
        check_names(self.method_options)
        check_own(self.method, self.method_options)
        own = METHODS[self.method].own_options()
        values = {name: METHODS[self.method].preset[name] for name in own} | self.method_options
        checked = {name: each.check("train", option(name), values[name]) for name, each in own.items()}
        object.__setattr__(self, "method_options", checked)
        self._check("backend", check_choice, accepted=NAMES)
        self._check("precision", check_choice, accepted=PRECISIONS)
        if self.batch_size % self.devices:
            raise ValueError(
                f"train: --batch-size is {self.batch_size} and --devices {self.devices}; "
                "pass a batch size that the devices divide."
            )

    def __getattr__(self, name: str) -> Any:
        """Let the method's options be read like fields; those of other methods are None."""
        if name in all_options():
            return self.method_options.get(name)
        raise AttributeError(f"TrainConfig has no option {name}; accepted are {', '.join((*FIELDS, *all_options()))}.")

    def _check(self, name: str, checker: Callable[..., Any], **limits: Any) -> None:
        value = getattr(self, name)
        if value is not None or name not in OPTIONAL:
            object.__setattr__(self, name, checker("train", option(name), value, **limits))

    @classmethod
    def from_options(cls, method: str, options: dict[str, Any]) -> TrainConfig:
        """Take the method's preset, and ``options`` over it; an option of None counts as not given."""
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
            **METHODS[method].preset,
        }
        return cls._of({"method": method, **defaults, **given})._sized(given)

    @classmethod
    def from_saved(cls, saved: object) -> TrainConfig | None:
        """Read the configuration of a checkpoint; None if it is not one. An option of the method that did not exist yet
        had the preset's value.
        """
        if not isinstance(saved, dict) or saved.get("method") not in METHODS:
            return None
        if not set(FIELDS) <= set(saved) <= {*FIELDS, *all_options()}:
            return None
        whole = dict(saved)
        if not str(whole["data"]).startswith(RESIZED):  # earlier versions saved a size that they did not use
            whole["image_size"] = None
        return cls._of(whole)

    @classmethod
    def _of(cls, values: dict[str, Any]) -> TrainConfig:
        """Take fields and method's options from one dictionary; options of other methods are dropped."""
        own = METHODS[values["method"]].own_options()
        method_options = {name: values[name] for name in own if name in values}
        return cls(**{name: values[name] for name in FIELDS}, method_options=method_options)

    def changed(self, **values: Any) -> TrainConfig:
        """Copy the configuration with other values of fields or of the method's options."""
        return self._of({**self.saved(), **values})

    def saved(self) -> dict[str, Any]:
        """The dictionary in checkpoints and metrics: fields and the method's options side by side."""
        values = asdict(self)
        own = values.pop("method_options")
        return {**values, **own}

    def continued(self, options: dict[str, Any], path: object) -> TrainConfig:
        """Change the configuration to continue the run of checkpoint ``path``, on moved data or for more epochs.

        Options that would continue it on another curve are refused.
        """
        given = {name: value for name, value in options.items() if value is not None}
        check_names(given)
        check_own(self.method, given)
        # The new values go through the same checks as the checkpoint's did.
        asked = self.changed(**given)._sized(given)
        before, after = self.saved(), asked.saved()
        for name in given:
            if name not in CHANGEABLE and after[name] != before[name]:
                raise ValueError(
                    f"train: {option(name)} is {after[name]} and {path} was trained with "
                    f"{before[name]}; leave the option out to continue that run, or start a new one with "
                    "another --out."
                )
        return asked

    def _sized(self, given: Collection[str]) -> TrainConfig:
        """Set the size of images that come in many sizes, and remove it for others."""
        resized = self.data.startswith(RESIZED)
        if "image_size" in given and not resized:
            raise ValueError(
                f"train: --image-size came and the images of {self.data} have a size; leave it out, or pass --data "
                "imagefolder:PATH, whose images are resized."
            )
        return replace(self, image_size=(self.image_size or IMAGE_SIZE) if resized else None)


def check_names(options: Collection[str]) -> None:
    """Refuse names of no option at all; only a call from Python can bring them."""
    known = (*FIELDS[1:], *all_options())  # without the method
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            advice = f"did you mean {near[0]}?" if near else f"accepted are {', '.join(known)}."
            raise TypeError(f"train: {name} is no option; {advice}")


def check_own(method: str, options: Collection[str]) -> None:
    """Refuse options that other methods have and ``method`` has not."""
    has = METHODS[method].own_options()
    for name in all_options():
        if name not in has and name in options:
            raise ValueError(
                f"train: {option(name)} came and {method} has no such option; leave it out. "
                f"Its own are {', '.join(map(option, has))}."
            )


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


# The names of the options that every method has.
FIELDS = tuple(each.name for each in fields(TrainConfig) if each.name != "method_options")
