# SPDX-License-Identifier: Apache-2.0
"""The configuration of a run: the options of ``sslkernels train``, and the settings of its method and backbone."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from sslkernels.arguments import came, check_choice, check_flag, check_kind, check_number, check_path, check_size
from sslkernels.backends import NAMES
from sslkernels.data import READERS, Spec, check_reader
from sslkernels.recipes import Recipe, find
from sslkernels.settings import settings_of
from sslkernels.training.optimizer import WEIGHT_DECAY

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
STRATEGIES = ("ddp", "fsdp2")

# Options that are whole numbers, and their limits.
WHOLES: dict[str, dict[str, int]] = {
    "epochs": {"least": 1},
    "devices": {"least": 1},
    "nodes": {"least": 1},
    "accumulate": {"least": 1},
    "batch_size": {"least": 2},
    "image_size": {"least": 8, "most": 1 << 14},
    "seed": {"least": 0, "most": 2**32 - 1},
    "threads": {"least": 1, "most": 1 << 10},
    "workers": {"least": 0, "most": 1 << 10},
}
MOST_EPOCHS = 10**9
# Options that may be None.
OPTIONAL = ("image_size", "backend", "threads", "workers", "final_weight_decay", "clip_gradients", "start")
# Options that a resumed run may change.
CHANGEABLE = ("data", "epochs", "devices", "nodes", "strategy", "workers")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the loss curve. The checkpoint holds it, and a resumed run must agree with it.

    ``batch_size`` counts the samples of one forward pass over all devices; ``accumulate`` passes make one step.
    ``image_size`` is None if the data has a size of its own. ``method_options`` holds the settings of method and
    backbone by name; those left out have their defaults. ``threads`` is the number of threads of a processor, None
    until it is measured; ``workers`` is the number of processes that read files. ``weight_decay`` goes to
    ``final_weight_decay`` in half a cosine, unless that is None. ``clip_gradients`` is the largest norm that all
    gradients of a step have together. ``start`` is the folder of the run whose weights this one began with, None for
    untrained ones. NumPy's numbers become Python's, and text becomes the value that it says.

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
    nodes: int = 1
    strategy: str = "ddp"
    threads: int | None = None
    compile: bool = False
    workers: int | None = None
    weight_decay: float = WEIGHT_DECAY
    final_weight_decay: float | None = None
    clip_gradients: float | None = None
    start: str | None = None
    method_options: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        find(self.method)
        check_kind("train", "--data", self.data, str, "a name such as digits, or imagefolder:PATH")
        for name, limits in WHOLES.items():
            self._check(name, check_size, **limits)
        if self.epochs > MOST_EPOCHS:  # steps are counted in 64 bits
            raise ValueError(f"train: --epochs is {came(self.epochs)}; pass at most {MOST_EPOCHS}.")
        self._check("lr", check_number, above=0)
        self._check("weight_decay", check_number, least=0)
        self._check("final_weight_decay", check_number, least=0)
        self._check("clip_gradients", check_number, above=0)
        self._check("backend", check_choice, accepted=NAMES)
        self._check("precision", check_choice, accepted=PRECISIONS)
        self._check("strategy", check_choice, accepted=STRATEGIES)
        self._check("compile", check_flag)
        self._check("start", _text_of_path)
        settings = self.recipe.settings
        check_names(self.recipe, self.method_options)
        read = {
            name: settings[name].read("train", value)
            if isinstance(value, str)
            else settings[name].check("train", value)
            for name, value in self.method_options.items()
        }
        object.__setattr__(self, "method_options", read)
        if self.batch_size % (self.devices * self.nodes):
            among = f"--devices {self.devices}" + (f" on each of --nodes {self.nodes}" if self.nodes > 1 else "")
            raise ValueError(
                f"train: --batch-size is {self.batch_size} and {among}; pass a batch size that the devices divide."
            )

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe, for samples of the data's modality."""
        return find(self.method, check_reader(self.data))

    def __getattr__(self, name: str) -> Any:
        """Let settings be read like fields."""
        options = self.__dict__.get("method_options", {})
        if name in options:
            return options[name]
        raise AttributeError(f"TrainConfig has no option {name}; accepted are {', '.join((*FIELDS, *options))}.")

    def _check(self, name: str, checker: Callable[..., Any], **limits: Any) -> None:
        value = getattr(self, name)
        if value is not None or name not in OPTIONAL:
            object.__setattr__(self, name, checker("train", option(name), value, **limits))

    @classmethod
    def from_options(cls, method: str, options: dict[str, Any], paper: bool = False) -> TrainConfig:
        """Take ``options`` over the numbers of the recipe, the small or the ``paper``'s; None counts as not given."""
        given = {name: value for name, value in options.items() if value is not None}
        plain = find(method)
        data = check_kind("train", "--data", given.get("data", plain.data), str, "a name such as digits")
        recipe = find(method, check_reader(data))
        check_names(recipe, given)
        defaults = {
            "data": data,
            "image_size": None,
            "seed": 0,
            "backend": None,
            "precision": "32-true",
            "devices": 1,
            "accumulate": 1,
            **recipe.numbers(paper),
        }
        return cls._of({"method": method, **defaults, **given})._sized(given)

    @classmethod
    def from_saved(cls, saved: object) -> TrainConfig | None:
        """Read the configuration of a checkpoint; None if it is not one."""
        if not isinstance(saved, dict) or not REQUIRED <= set(saved):
            return None
        whole = dict(saved)
        if _own_size(str(whole["data"])) is None:  # earlier versions saved a size that they did not use
            whole["image_size"] = None
        try:
            recipe = find(whole["method"], check_reader(whole["data"]))
            own = {name: value for name, value in recipe.numbers(paper=False).items() if name in recipe.settings}
            return cls._of({**own, **whole})  # a setting that did not exist yet had the small value
        except (ValueError, TypeError):
            return None

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Take fields and settings from one dictionary."""
        own = {name: value for name, value in values.items() if name not in FIELDS}
        return cls(**{name: values[name] for name in FIELDS if name in values}, method_options=own)

    def changed(self, **values: Any) -> TrainConfig:
        """Copy the configuration with other values of fields or settings."""
        return self._of({**self.saved(), **values})

    def saved(self) -> dict[str, Any]:
        """The dictionary in checkpoints and metrics: fields and settings side by side."""
        values = asdict(self)
        own = values.pop("method_options")
        return {**values, **own}

    def continued(self, options: dict[str, Any], path: object) -> TrainConfig:
        """Change the configuration to continue the run of checkpoint ``path``: on moved data, for more epochs, or on
        other machines.

        Options that would continue it on another curve are refused.
        """
        given = {name: value for name, value in options.items() if value is not None}
        check_names(self.recipe, given)
        # The new values go through the same checks as the checkpoint's did.
        asked = self.changed(**given)._sized(given)
        before, after = self.saved(), asked.saved()
        for name in given:
            if name not in CHANGEABLE and after[name] != before.get(name):
                raise ValueError(
                    f"train: {option(name)} is {after[name]} and {path} was trained with "
                    f"{before.get(name)}; leave the option out to continue that run, or start a new one with "
                    "another --out."
                )
        return asked

    def _sized(self, given: Collection[str]) -> TrainConfig:
        """Set the size of images that come in many sizes, and remove it for others."""
        own = _own_size(self.data)
        if "image_size" in given and own is None:
            raise ValueError(
                f"train: --image-size came and the images of {self.data} have a size; leave it out, or pass --data "
                "imagefolder:PATH, whose images are resized."
            )
        return replace(self, image_size=None if own is None else self.image_size or own)


def _own_size(data: str) -> int | None:
    """The size that a reader gives images that come in many; None where they have one, or the spec names one."""
    spec = Spec.of(data)
    if spec.name not in READERS or "size" in spec.given:
        return None
    size = settings_of(READERS[spec.name]).get("size")
    return None if size is None else size.default


def _text_of_path(function: str, name: str, value: object) -> str:
    """Check a path, and make text of it, which a checkpoint can hold."""
    return str(check_path(function, name, value))


def check_names(recipe: Recipe, options: Collection[str]) -> None:
    """Refuse names that are neither a run's option nor a setting of the method or its backbone."""
    own = recipe.settings
    for name in options:
        if name not in own and name not in FIELDS[1:]:
            near = difflib.get_close_matches(name, (*own, *FIELDS[1:]), 1)
            advice = f"did you mean {near[0]}?" if near else f"its own are {', '.join(own)}."
            raise ValueError(f"train: {recipe.name} has no option {name}; {advice}")


def option(name: str) -> str:
    """The way in which the command line names an option."""
    return f"--{name.replace('_', '-')}" if name in FIELDS else f"--set {name}"


# The names of the options that every method has, and those that every version has saved.
FIELDS = tuple(each.name for each in fields(TrainConfig) if each.name != "method_options")
REQUIRED = {each.name for each in fields(TrainConfig) if each.default is MISSING and each.default_factory is MISSING}
