# SPDX-License-Identifier: Apache-2.0
"""Methods that are made of lightly's losses, heads and momentum update, to train beside ours.

Backbone, views, optimizer, data, seeds and first weights are those of ours. These things differ by definition, and are
brought to ours, so that the curves can be compared: lightly's BYOL is half the sum of two cosines, ours the sum of
``2 - 2 cos``; lightly's update takes ours as its momentum at each call; a memory bank begins with our queue's keys.
Its bank takes keys in the loss and ours in the update: times of these two parts do not compare, those of a step do.
Where lightly's head has other layers, ours stands on both sides: its SimCLR ends in a BatchNorm, its BYOL, Barlow Twins
and VICReg in a bias.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sslkernels.methods import Method

# The package that lightly imports for models that are not used here. PyPI's does not load beside torch's CPU build.
ABSENT = "torchvision"
LACKS = "lightly lacks this method's parts, or they need torchvision; pass one of {known}."


class _Empty(ModuleType):
    """A module that has a class of every name."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if f"{self.__name__}.{name}" in sys.modules:
            return sys.modules[f"{self.__name__}.{name}"]
        return type(name, (nn.Module,), {})


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """Put empty modules in torchvision's place while lightly is imported, where it cannot be imported itself."""
    try:
        importlib.import_module(ABSENT)
        yield
        return
    except Exception:  # it may be missing, or fail in any way
        pass
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == ABSENT}
    for name in ("", ".ops", ".models", ".models.vision_transformer", ".models.resnet", ".transforms", ".datasets"):
        sys.modules[ABSENT + name] = _Empty(ABSENT + name)
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == ABSENT]:
            del sys.modules[name]
        sys.modules.update(before)


def parts() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Import lightly's losses, heads and helpers.

    Raises:
        ValueError: lightly is missing or cannot be imported; one sentence with the command.
    """
    try:
        with _without_torchvision():
            names = ("lightly.loss", "lightly.models.modules.heads", "lightly.models.utils")
            loss, heads, utils = (importlib.import_module(name) for name in names)
    except Exception as error:
        raise ValueError(
            f"--against is lightly, which cannot be imported ({type(error).__name__}: {error}); pip install --no-deps "
            "lightly==1.6.0."
        ) from error
    return loss, heads, utils


class Peer(Method):
    """A method with the modules of ours, where lightly's do not take their place; ``compute`` is its forward pass."""

    def __init__(self, ours: Method, compute: Callable[[Peer, Sequence[Tensor]], tuple[Tensor, tuple]]) -> None:
        super().__init__(ours.backbone)
        self.feature_dim = ours.feature_dim
        self.compute = compute
        self.teachers: list[tuple[nn.Module, nn.Module]] = []
        self.momentum: Callable[[int, float], float] | None = None

    def forward(self, views: Sequence[Tensor], **given: Any) -> dict[str, Any]:  # type: ignore[override]
        loss, embeddings = self.compute(self, views)
        return {"loss": loss, "embeddings": embeddings}

    def loss(self, *embeddings: Tensor) -> Tensor:
        return self.criterion(*embeddings)  # type: ignore[operator]

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        if self.momentum is not None:
            for student, teacher in self.teachers:
                self.update(student, teacher, m=self.momentum(step, total_steps))  # type: ignore[operator]


def peer_of(name: str, method: Method) -> Peer:
    """Build lightly's form of ``method``, which keeps its weights.

    Raises:
        ValueError: lightly cannot be imported, or has no parts for the method.
    """
    loss, heads, utils = parts()
    if name not in BUILDERS:
        raise ValueError(f"--against is lightly and METHOD {name}: {LACKS.format(known=', '.join(BUILDERS))}")
    ours = copy.deepcopy(method).train()
    return BUILDERS[name](ours, loss, heads, utils)


def _with_weights(head: nn.Module, like: nn.Module) -> nn.Module:
    """Give lightly's head the weights of ours, one after the other; where its layers are others, take ours."""
    theirs, own = list(head.parameters()), list(like.parameters())
    if [tuple(weight.shape) for weight in theirs] != [tuple(weight.shape) for weight in own]:
        return copy.deepcopy(like)
    with torch.no_grad():
        for their, mine in zip(theirs, own, strict=True):
            their.copy_(mine)
    return head


def _two(peer: Any, views: Sequence[Tensor]) -> tuple[Tensor, tuple]:
    rows = tuple(peer.projector(peer.backbone(view)) for view in views)
    return peer.criterion(*rows), rows


def _simclr(ours: Any, loss: Any, heads: Any, utils: Any) -> Peer:
    peer = Peer(ours, _two)
    width, dim = ours.feature_dim, ours.projector[-1].out_features
    peer.projector = _with_weights(heads.SimCLRProjectionHead(width, width, dim), ours.projector)
    peer.criterion = loss.NTXentLoss(temperature=ours.temperature)
    return peer


def _barlow_twins(ours: Any, loss: Any, heads: Any, utils: Any) -> Peer:
    peer = Peer(ours, _two)
    dim = ours.projector[-1].out_features
    peer.projector = _with_weights(heads.BarlowTwinsProjectionHead(ours.feature_dim, dim, dim), ours.projector)
    peer.criterion = loss.BarlowTwinsLoss(lambda_param=ours.lambd)
    return peer


def _vicreg(ours: Any, loss: Any, heads: Any, utils: Any) -> Peer:
    peer = Peer(ours, _two)
    dim = ours.expander[-1].out_features
    peer.projector = _with_weights(heads.VICRegProjectionHead(ours.feature_dim, dim, dim, num_layers=3), ours.expander)
    peer.criterion = loss.VICRegLoss(lambda_param=ours.sim, mu_param=ours.var, nu_param=ours.cov)
    return peer


def _predicting(peer: Any, views: Sequence[Tensor]) -> tuple[Tensor, tuple]:
    rows = [peer.projector(peer.backbone(view)) for view in views]
    predicted = [peer.predictor(each) for each in rows]
    targets = [each.detach() for each in rows]
    if peer.teachers:
        with torch.no_grad():
            targets = [peer.teacher_head(peer.teacher(view)) for view in views]
    embeddings = (*predicted, *targets)
    return peer.loss(*embeddings), embeddings


class _Cosines(nn.Module):
    """The sum of both directions, in our units: ``scale * (cos + cos) / 2 + shift``."""

    def __init__(self, criterion: nn.Module, scale: float, shift: float) -> None:
        super().__init__()
        self.criterion, self.scale, self.shift = criterion, scale, shift

    def forward(self, p0: Tensor, p1: Tensor, t0: Tensor, t1: Tensor) -> Tensor:
        return self.scale * 0.5 * (self.criterion(p0, t1) + self.criterion(p1, t0)) + self.shift


def _simsiam(ours: Any, loss: Any, heads: Any, utils: Any) -> Peer:
    peer = Peer(ours, _predicting)
    dim, hidden = ours.predictor[-1].out_features, ours.predictor[0].out_features
    peer.projector = _with_weights(heads.SimSiamProjectionHead(ours.feature_dim, dim, dim), ours.projector)
    peer.predictor = _with_weights(heads.SimSiamPredictionHead(dim, hidden, dim), ours.predictor)
    peer.criterion = _Cosines(loss.NegativeCosineSimilarity(), 1.0, 0.0)
    return peer


def _taught(peer: Any, ours: Any, utils: Any) -> None:
    """Copy backbone and projector as lightly's examples do, and move the copies by its update."""
    peer.teacher, peer.teacher_head = copy.deepcopy(peer.backbone), copy.deepcopy(peer.projector)
    for module in (peer.teacher, peer.teacher_head):
        utils.deactivate_requires_grad(module)
    peer.teachers = [(peer.backbone, peer.teacher), (peer.projector, peer.teacher_head)]
    peer.update = utils.update_momentum
    peer.momentum = ours.teacher.momentum_at


def _byol(ours: Any, loss: Any, heads: Any, utils: Any) -> Peer:
    peer = Peer(ours, _predicting)
    dim, hidden = ours.predictor[-1].out_features, ours.predictor[0].out_features
    peer.projector = _with_weights(heads.BYOLProjectionHead(ours.feature_dim, hidden, dim), ours.projector)
    peer.predictor = _with_weights(heads.BYOLPredictionHead(dim, hidden, dim), ours.predictor)
    peer.criterion = _Cosines(loss.NegativeCosineSimilarity(), 4.0, 4.0)
    _taught(peer, ours, utils)
    return peer


def _queried(peer: Any, views: Sequence[Tensor]) -> tuple[Tensor, tuple]:
    query = peer.projector(peer.backbone(views[0]))
    with torch.no_grad():
        key = peer.teacher_head(peer.teacher(views[1]))
    return peer.criterion(query, key), (query, key)


def _moco_v2(ours: Any, loss: Any, heads: Any, utils: Any) -> Peer:
    peer = Peer(ours, _queried)
    width, dim = ours.feature_dim, ours.projector[-1].out_features
    peer.projector = _with_weights(heads.MoCoProjectionHead(width, width, dim), ours.projector)
    keys = ours.queue.keys
    peer.criterion = loss.NTXentLoss(temperature=ours.temperature, memory_bank_size=tuple(keys.shape))
    peer.criterion.memory_bank.bank = keys.clone()
    _taught(peer, ours, utils)
    return peer


BUILDERS: dict[str, Callable[[Any, Any, Any, Any], Peer]] = {
    "simclr": _simclr,
    "moco_v2": _moco_v2,
    "byol": _byol,
    "simsiam": _simsiam,
    "barlow_twins": _barlow_twins,
    "vicreg": _vicreg,
}
