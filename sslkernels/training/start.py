# SPDX-License-Identifier: Apache-2.0
"""Begins a new run with the weights of another one, as a second stage and continued pretraining do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sslkernels.methods import Auxiliary, Method
from sslkernels.state import EMA
from sslkernels.training.checkpoint import NAME, checkpoint_of

BACKBONE = "backbone"
REMEDY = "pass --start with the folder of another run, or leave it out"


@dataclass(frozen=True)
class Start:
    """Hold what a run at ``path`` has learned: parameters and BatchNorm's statistics, by their names in its method.

    A new run takes those whose names and shapes are its own. What a run keeps of samples and steps (queues, banks,
    centres, clusters, a teacher's step) is none of these: the new one has other samples, and counts from 0.
    """

    path: Path
    words: str
    state: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: str) -> Start:
        """Read the last checkpoint of the run in folder ``path``, or a file that is a copy of one."""
        given = Path(path)
        try:
            file = given if given.is_file() else given / NAME
            whole, there = file.is_file(), given.exists()
        except OSError:  # the name may be longer than any file's
            whole = there = False
        if not whole:
            lacks = f"holds no {NAME}" if there else "does not exist"
            raise FileNotFoundError(
                f"train: --start is {path}, which {lacks}; pass the folder of a run of sslkernels train with an epoch "
                "behind it."
            )
        found = checkpoint_of("train", file, REMEDY)
        method, planned = found["method"], found["config"]["epochs"]
        return cls(given, f"{method}, {found['epoch'] + 1} of {planned} epochs", _of_method(found["state_dict"]))

    def load_backbone(self, backbone: nn.Module, method: str) -> None:
        """Give ``backbone`` its weights. A method that is built around it later copies them into its teachers."""
        own = {f"{BACKBONE}.{name}": weight for name, weight in weights_of(backbone).items()}
        parameters = {f"{BACKBONE}.{name}" for name, _ in backbone.named_parameters()}
        fitting = self._fitting(own)
        if not parameters & fitting:
            raise ValueError(
                f"train: no weight in the backbone of {method} has name and shape of one of {self.path} "
                f"({self.words}); pass --start with a run of such a backbone, or the settings of that one with --set."
            )
        self._copy(own, fitting)

    def load_rest(self, learner: Method) -> str:
        """Give the other parts of ``learner`` theirs, and say in a line what was taken and what was not.

        A part is taken whole or not at all. A teacher that a method keeps of its heads must come from the run as well;
        otherwise they begin anew as it does, so that it is a copy of them.
        """
        own = _plain(weights_of(learner), learner)
        fitting = self._fitting(own)
        wanted, found = Counter(map(_part, own)), Counter(map(_part, fitting))
        parts = {BACKBONE}
        if _heads_in_teachers(learner) <= fitting:
            parts |= {part for part in found if found[part] == wanted[part]}
        taken = {name for name in fitting if _part(name) in parts}
        self._copy(own, taken)
        share = {part: "" if found[part] == wanted[part] else f" ({found[part]} of {wanted[part]})" for part in parts}
        here, there = _parts(_plain(learner.state_dict(), learner)), _parts(self.state)
        words = f"{len(taken)} tensors of {', '.join(part + share[part] for part in sorted(parts))}"
        for which, names in (("new here", here - parts), ("left there", there - here)):
            words += f"; {which}: {', '.join(sorted(names))}" if names else ""
        return f"taken from {self.path} ({self.words}): {words}"

    def _fitting(self, own: Mapping[str, Tensor]) -> set[str]:
        return {name for name, each in own.items() if name in self.state and self.state[name].shape == each.shape}

    @torch.no_grad()
    def _copy(self, own: Mapping[str, Tensor], names: Iterable[str]) -> None:
        for name in names:
            own[name].copy_(self.state[name])


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """The parameters of a network, and the running statistics of its BatchNorm."""
    found: dict[str, Tensor] = dict(network.named_parameters(remove_duplicate=False))
    for path, part in network.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats:
            for name in ("running_mean", "running_var"):
                found[f"{path}.{name}" if path else name] = getattr(part, name)
    return found


def _of_method(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint's method, by their names in it, or in the one that has a term besides."""
    found = {name.removeprefix("method."): each for name, each in state.items() if name.startswith("method.")}
    found = {name: each for name, each in found.items() if isinstance(each, Tensor)}
    within = any(name.startswith(f"method.{BACKBONE}.") for name in found)
    return {name.removeprefix("method."): each for name, each in found.items()} if within else found


def _plain(named: Mapping[str, Any], learner: Method) -> dict[str, Any]:
    """Name the parts of a method that has a term besides as it names them without."""
    if not isinstance(learner, Auxiliary):
        return dict(named)
    return {name.removeprefix("method."): each for name, each in named.items()}


def _heads_in_teachers(learner: Method) -> set[str]:
    """The names of the weights in teachers that hold more than the backbone."""
    alone = weights_of(learner.backbone).keys()
    found: dict[str, Tensor] = {}
    for path, part in learner.named_modules():
        if isinstance(part, EMA) and (inside := weights_of(part.module)).keys() != alone:
            found |= {f"{path}.module.{name}": each for name, each in inside.items()}
    return set(_plain(found, learner))


def _part(name: str) -> str:
    return name.partition(".")[0]


def _parts(state: Mapping[str, Any]) -> set[str]:
    """The parts of a method that have tensors; single numbers, such as a schedule's, are none."""
    return {_part(name) for name, each in state.items() if isinstance(each, Tensor) and each.dim()}
