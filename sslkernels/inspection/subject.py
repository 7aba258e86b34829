# SPDX-License-Identifier: Apache-2.0
"""Finds what is evaluated: the encoder of a run, of a recipe or of a file of weights, or features in a file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sslkernels.arguments import came
from sslkernels.data import Dataset, check_reader, load
from sslkernels.evaluation import calibrate_batchnorm, evaluated
from sslkernels.inspection.arrays import FEATURES, LABELS, features_dataset
from sslkernels.inspection.weights import backbones, load_weights, read_weights
from sslkernels.recipes import MODALITIES, available
from sslkernels.settings import check_known, settings_of
from sslkernels.training.checkpoint import NAME, checkpoint_of
from sslkernels.training.config import TrainConfig
from sslkernels.training.resume import differences, load_data
from sslkernels.training.run import seed

RUN, RECIPE, WEIGHTS, ROWS = "run", "recipe", "weights", "features"


@dataclass(frozen=True)
class Subject:
    """Hold what is evaluated, and the data for it.

    Args:
        kind: "run", "recipe", "weights" or "features".
        name: what a user called it.
        words: one sentence for people on what it is.
        data: spec of the data.
        dataset: the samples; features themselves where there is no ``encoder``.
        encoder: the network, with BatchNorm's statistics of these samples where it was trained here.
        untrained: the same network with its first weights, to compare with; None if it is not known, or is evaluated.
        views: draws views of a batch; None if there are none.
        draw: draws a sample for the page; None if samples cannot be seen.
        folder: where the results lie by default; None for a new folder.
    """

    kind: str
    name: str
    words: str
    data: str
    dataset: Dataset
    encoder: nn.Module | None = None
    untrained: nn.Module | None = None
    views: nn.Module | None = None
    draw: Callable[[Any, Any], None] | None = None
    folder: Path | None = None

    @property
    def title(self) -> str:
        return self.name if self.name == self.data else f"{self.name} on {self.data}"


def subject_of(
    what: str,
    labels: str | None,
    data: str | None,
    backbone: str | None,
    settings: Mapping[str, str],
    warn: Callable[[str], Any],
) -> Subject:
    """Find what ``what`` names: the folder of a run, a method or recipe, a file of weights, or ``features:FILE.npy``.

    Args:
        labels: ``labels:FILE.npy`` beside features.
        data: spec of other data than the usual.
        backbone: the network that weights are for.
        settings: its arguments, or those of a recipe, as text.
        warn: is called with a sentence on what a user should know.
    """
    if labels is not None and not (what.startswith(FEATURES) and labels.startswith(LABELS)):
        raise ValueError(
            f"evaluate: {came(labels)} came after {came(what)}; one thing is evaluated, and labels:FILE.npy may follow "
            "features:FILE.npy."
        )
    path = Path(what).parent if Path(what).name == NAME else Path(what)
    if what.startswith(FEATURES):
        _refuse(what, "features", data=data, backbone=backbone, settings=settings)
        dataset = features_dataset(
            Path(what.removeprefix(FEATURES)), None if labels is None else Path(labels.removeprefix(LABELS)), warn
        )
        return Subject(ROWS, what, "Features that were computed elsewhere.", what, dataset)
    if _exists(path / NAME):
        _refuse(what, "a run", backbone=backbone, settings=settings)
        return _of_run(path, data, warn)
    if what in available():
        _refuse(what, "a method", backbone=backbone)
        return _of_recipe(what, data, settings, warn)
    if _exists(path) and not path.is_dir():
        return _of_weights(path, data, backbone, settings)
    if _exists(path):
        raise FileNotFoundError(
            f"evaluate: {what} holds no {NAME}; pass the folder of a run of sslkernels train with an epoch behind it."
        )
    raise FileNotFoundError(
        f"evaluate: {came(what)} is no folder or file that exists, and no method or recipe; pass the folder of a run, "
        "a name that sslkernels methods lists, a .safetensors file with --backbone, or features:FILE.npy."
    )


def _refuse(what: str, kind: str, **options: Any) -> None:
    """Refuse options that such a thing does not take."""
    for name, value in options.items():
        if value:
            flag = "--set" if name == "settings" else f"--{name}"
            raise ValueError(f"evaluate: {flag} came with {what}, which is {kind} and takes none; leave it out.")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # the name may be longer than any file's
        return False


def _of_run(folder: Path, data: str | None, warn: Callable[[str], Any]) -> Subject:
    path = folder / NAME
    checkpoint = checkpoint_of("evaluate", path)
    config = TrainConfig.from_saved(checkpoint["config"])
    if config is None or config.method != checkpoint["method"]:
        raise ValueError(f"evaluate: {path} holds no configuration that this version reads; train the run anew.")
    if data is not None:
        _check_modality(config, data, folder)
        config = config.continued({"data": data}, path)
    try:
        dataset = load_data(config, warn)
    except FileNotFoundError as error:
        if data is not None:
            raise
        raise FileNotFoundError(
            f"evaluate: {folder} was trained on {config.data}, which is not there any more; pass --data with the place "
            "that it has moved to."
        ) from error
    changed = differences(dataset, checkpoint["data"]) if data is None else []
    if changed:
        warn(f"{config.data} is not what {folder} was trained on: {changed[0]}.")
    untrained = _first_weights(config, dataset)
    encoder = copy.deepcopy(untrained)
    _load_own(encoder, checkpoint["state_dict"], folder, config)
    epochs = checkpoint["epoch"] + 1
    words = (
        f"The encoder of {config.method} after {epochs} of {config.epochs} epochs on {checkpoint['config']['data']}, "
        f"seed {config.seed}{'' if config.start is None else f', begun with the weights of {config.start}'}."
    )
    return _ready(
        Subject(
            RUN, str(folder), words, config.data, dataset, encoder, untrained, _views(config, dataset),
            config.recipe.modality.draw, folder,
        )
    )  # fmt: skip


def _check_modality(config: TrainConfig, data: str, folder: Path) -> None:
    modality = check_reader(data)
    if modality != config.recipe.modality.name:
        raise ValueError(
            f"evaluate: --data is {data}, which has {modality}, and {folder} was trained on "
            f"{config.recipe.modality.name}; pass data of that kind."
        )


def _of_recipe(name: str, data: str | None, settings: Mapping[str, str], warn: Callable[[str], Any]) -> Subject:
    config = TrainConfig.from_options(name, {**settings, "data": data})
    dataset = load_data(config, warn)
    fitted = config.recipe.fitted(dataset)
    config = config.changed(**{key: value for key, value in fitted.items() if key not in config.method_options})
    words = f"The untrained encoder of {name}, with its first weights of seed {config.seed}."
    return _ready(
        Subject(
            RECIPE, name, words, config.data, dataset, _first_weights(config, dataset), None, _views(config, dataset),
            config.recipe.modality.draw,
        )
    )  # fmt: skip


def _of_weights(path: Path, data: str | None, backbone: str | None, settings: Mapping[str, str]) -> Subject:
    data = data or MODALITIES["images"].data
    modality = MODALITIES[check_reader(data)]
    known = backbones(modality)
    if backbone is None or backbone not in known:
        given = "no --backbone came" if backbone is None else f"--backbone is {came(backbone)}"
        raise ValueError(
            f"evaluate: {given}, and {path} is a file of weights; pass --backbone with the network that they are for, "
            f"for {modality.name} {' or '.join(known)}."
        )
    state = read_weights(path)
    dataset = load(data)
    build = known[backbone].build
    takes = settings_of(build)
    check_known("evaluate", settings, takes, backbone)
    options = {name: takes[name].read("evaluate", text) for name, text in settings.items()}
    seed(0)
    untrained = build(dataset, **{**known[backbone].fit(dataset), **options})
    encoder = copy.deepcopy(untrained)
    load_weights(encoder, state, path, backbone)
    words = f"The weights of {path} in the backbone {backbone}."
    views = modality.views(dataset, 2, False)
    return _ready(Subject(WEIGHTS, str(path), words, data, dataset, encoder, untrained, views, modality.draw))


def _first_weights(config: TrainConfig, dataset: Dataset) -> nn.Module:
    """The encoder as a run of this seed begins with it."""
    seed(config.seed)
    return config.recipe.build_backbone(dataset, config.method_options)


def _views(config: TrainConfig, dataset: Dataset) -> nn.Module:
    """The recipe's views, at least two: a single one may be the sample itself."""
    return config.recipe.build_own_views(dataset, config.method_options, max(2, config.recipe.count))


def _load_own(encoder: nn.Module, state: Mapping[str, Any], folder: Path, config: TrainConfig) -> None:
    """Load the encoder's part of a checkpoint's weights."""
    prefix = "method.method.backbone." if config.recipe.term is not None else "method.backbone."
    # A compiled backbone saves its weights under the same names.
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    try:
        encoder.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(
            f"evaluate: the encoder of {folder} does not fit samples of {config.data}; pass --data whose samples have "
            "the form of those that it was trained on, or evaluate it with the version that wrote it."
        ) from error


def _ready(subject: Subject) -> Subject:
    """Choose the samples that are evaluated, move the encoders to the device, and set their BatchNorm.

    It takes its statistics from the samples, as before the evaluation of ``sslkernels train``. Weights from elsewhere
    keep those that they came with.
    """
    subject = replace(subject, dataset=evaluated(subject.dataset))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for encoder in (subject.encoder, subject.untrained):
        if encoder is not None:
            encoder.to(device)
            if encoder is subject.untrained or subject.kind != WEIGHTS:
                calibrate_batchnorm(encoder, subject.dataset.inputs)
    return subject


def texts(pairs: Sequence[str]) -> dict[str, str]:
    """The settings of ``NAME=VALUE`` pairs."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name or name in found:
            raise ValueError(f"evaluate: --set is {came(pair)}; write NAME=VALUE, each name once.")
        found[name] = value
    return found
