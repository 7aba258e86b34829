# SPDX-License-Identifier: Apache-2.0
"""Let ranks disagree: each raises one sentence that names the difference, nobody waits, and the group still works.

All cases run in one world.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from worlds import WorldsOf, caught

import sslkernels as sk
import sslkernels.distributed
import sslkernels.functional as SF
from sslkernels.losses import ClipLoss, NTXentLoss, TiCoLoss
from sslkernels.models import DirectPred

WORLDS = (2, pytest.param(3, marks=pytest.mark.slow))
N, D = 4, 3
SIDES = {"side": ("samples", "features")}
EPS = {"eps": (1e-4, 1e-3)}
REDUCTION = {"reduction": ("mean", "sum")}
RING = {"ring": (False, True)}
VARIANCE = {"var": (1.0, 2.0), "cov": (1.0, 2.0), **EPS, **SIDES}
WARM = {"temperature": (0.1, 0.2), "normalize": (True, False), **REDUCTION}
RULE = {"knots": (17, 9), "t_max": (3.0, 5.0), "num_slices": (8, 9)}
TAUGHT = torch.eye(N)[:, :2]
# Every setting has two values; the last rank takes the second.
SETTINGS: dict[str, dict[str, tuple[Any, Any]]] = {
    "nt_xent": WARM,
    "info_nce": {**WARM, **RING, "symmetric": (False, True), "margin": (0.0, 1.0), "negatives": (None, torch.eye(D))},
    "clip_loss": {"logit_scale": (1.0, 2.0), "margin": (0.0, 1.0), **REDUCTION, **RING},
    "clip_distillation": {"logit_scale": (1.0, 2.0), "teacher_logit_scale": (1.0, 2.0), **REDUCTION},
    "siglip_loss": {"logit_scale": (1.0, 2.0), "logit_bias": (0.0, -1.0), **REDUCTION},
    "dcl": WARM,
    "dclw": {"sigma": (0.5, 1.0), **WARM},
    "debiased_nt_xent": {"prior": (0.1, 0.2), "hardness": (0.0, 1.0), **WARM},
    "sup_con": {"form": ("out", "in"), "empty": ("skip", "zero"), **WARM},
    "mean_entropy": {"temperature": (0.1, 0.2), "normalize": (True, False), "prior": (None, torch.full((N,), 1 / N))},
    "koleo": {**EPS, "group_size": (2, 4)},
    "uniformity": {"t": (2.0, 3.0)},
    "sinkhorn_bias": {"temperature": (0.1, 0.2), "iterations": (3, 2)},
    "center_update_": {"momentum": (0.9, 0.8)},
    "alignment": {"power": (2.0, 1.0), **REDUCTION},
    "negative_cosine_similarity": {**EPS, **REDUCTION},
    "byol_loss": REDUCTION,
    "cross_correlation_sq": SIDES,
    "barlow_twins": {
        "lambd": (0.1, 0.2),
        "statistics": ("local", "global"),
        "convention": ("official", "stable-pretraining"),
        **EPS,
        **SIDES,
    },
    "vicreg": {"sim": (1.0, 2.0), **VARIANCE},
    "variance_hinge": EPS,
    "covariance_penalty": SIDES,
    "vcreg": VARIANCE,
    "vibcreg": {"sim": (1.0, 2.0), **VARIANCE},
    "frossl": {"invariance_weight": (1.0, 2.0), **SIDES},
    "tico": {"beta": (0.9, 0.8), "rho": (8.0, 7.0), "covariance": (None, torch.eye(D))},
    "sigreg": RULE,
    "lejepa": {"weight": (0.1, 0.2), **RULE},
    "kmeans": {
        "k": (2, 3),
        "metric": ("euclidean", "cosine"),
        "iterations": (9, 8),
        "init": ("random", torch.eye(D)[:2]),
        "empty": ("split", "keep"),
        "balanced": (True, False),
        "temperature": (0.1, 0.2),
    },
    "hierarchical_kmeans": {
        "sizes": ((3, 2), (3, 1)),
        "metric": ("euclidean", "cosine"),
        "iterations": (9, 8),
        "init": ("random", "k-means++"),
        "empty": ("split", "keep"),
    },
}
# SAID has the arguments that errors call by another name. The arguments in FREE may differ among ranks.
SAID = {"negatives": "queued", "num_slices": "slices"}
FREE = {"group", "backend", "generator", "slices", "logit_bias", "labels", "weight", "row_weight", "center", "teacher"}
GROUPED = [name for name in SF.__all__ if "group" in inspect.signature(getattr(SF, name)).parameters]
CONSTANT = ("center_update_", "hierarchical_kmeans", "kmeans", "sinkhorn_bias")  # nobody gets a gradient
WARMED = ("nt_xent", "info_nce", "dcl", "dclw", "debiased_nt_xent", "sup_con")
SCALED = ("clip_loss", "clip_distillation", "siglip_loss")
TENSORS = {**dict.fromkeys(WARMED, "temperature"), **dict.fromkeys(SCALED, "logit_scale")}


def rows_of(function: str, dtype: torch.dtype = torch.float32) -> list[Any]:
    torch.manual_seed(0)
    z0, z1 = torch.randn(2, N, D).to(dtype).requires_grad_().unbind()
    one = ("variance_hinge", "covariance_penalty", "vcreg", "uniformity", "kmeans", "hierarchical_kmeans", "koleo")
    if function in one:
        return [z0]
    if function == "sup_con":
        return [z0, torch.arange(N) % 2]
    if function == "center_update_":
        return [torch.zeros(N), z0, z1]
    if function in ("sigreg", "lejepa"):
        return [torch.stack([z0, z1])] * (2 if function == "lejepa" else 1)
    return [[z0, z1]] if function == "frossl" else [z0, z1]


def call(function: str, rows: list[Any] | None = None, **options: Any) -> Any:
    rows = rows_of(function) if rows is None else rows
    if function in SCALED:
        options = {"logit_scale": 1.0, **options}
    if function == "kmeans":
        options = {"k": 2, **options}
    if function == "hierarchical_kmeans":
        options = {"sizes": (3, 2), **options}
    if function == "clip_distillation":
        teacher = {"teacher_image": TAUGHT, "teacher_text": TAUGHT, "teacher_logit_scale": 1.0}
        options = {**teacher, **options}
    return getattr(SF, function)(*rows, group="world", **options)


def unlike(odd: bool) -> dict[str, Callable[[], Any]]:
    """Make calls in which the ``odd`` rank differs from others; each key is a text that every error must contain."""
    calls: dict[str, Callable[[], Any]] = {}

    def add(name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        calls[name] = lambda: function(*arguments, **options)

    for function, settings in SETTINGS.items():
        for setting, values in settings.items():
            add(f"{function}: {SAID.get(setting, setting)} is", call, function, **{setting: values[odd]})
    for function, setting in TENSORS.items():
        add(f"{function}: {setting} is tensor(0.25)", call, function, **{setting: torch.tensor(0.5 if odd else 0.25)})
        kinds = 0.5, torch.tensor(0.5)
        add(f"{function}: tensor or number", call, function, **{setting: kinds[odd]})
    for function in SETTINGS:
        wider = [
            [torch.cat([y, y], -1) for y in x] if isinstance(x, list) else x if x.dim() == 1 else torch.cat([x, x], -1)
            for x in rows_of(function)
        ]
        add(f"group: ranks hold rows of unlike widths {function}", call, function, wider if odd else None)
        double = rows_of(function, torch.float64)
        add(f"group: ranks compute in unlike dtypes, float32 {function}", call, function, double if odd else None)
        others = [name for name in SETTINGS if name != function]
        add(f"group: ranks call different functions, {function}", call, others[0] if odd else function)
        if function in CONSTANT:
            continue
        still = [x.detach() if isinstance(x, Tensor) else [y.detach() for y in x] for x in rows_of(function)]
        add(f"group: ranks disagree on which inputs need a gradient {function}", call, function, still if odd else None)
    narrow = {"teacher_image": TAUGHT[:, :1], "teacher_text": TAUGHT[:, :1]} if odd else {}
    add("clip_distillation: teacher_features is 2", call, "clip_distillation", **narrow)
    add("frossl: views is 2", lambda: SF.frossl([torch.eye(D)] * (3 if odd else 2), group="world"))
    add("sigreg: views is 2", lambda: SF.sigreg(torch.ones(3 if odd else 2, N, D), group="world"))
    add("lejepa: global_views is 2", lambda: SF.lejepa(
        torch.ones(3 if odd else 2, N, D), torch.ones(1 if odd else 2, N, D), group="world"))  # fmt: skip
    add("no rank holds a row", lambda: SF.nt_xent(*torch.ones(2, 0, D), group="world"))
    modules(odd, add)
    return calls


def modules(odd: bool, add: Callable[..., None]) -> None:
    queue = sk.MemoryQueue(9 if odd else 8, D)
    add("MemoryQueue, new or just loaded: shapes is", queue.enqueue, torch.eye(D), group="world")
    apart = sk.MemoryQueue(8, D)

    def enqueue_apart() -> None:
        apart.enqueue(torch.eye(D), group="world")
        if odd:
            apart.enqueue(torch.eye(D))
        apart.enqueue(torch.eye(D), group="world")

    add("MemoryQueue: position is tensor(", enqueue_apart)
    bank = sk.MemoryBank(9 if odd else 8, D)
    add("MemoryBank, new or just loaded: shapes is", bank.update, torch.arange(D), torch.eye(D), group="world")
    slower = sk.MemoryBank(8, D, momentum=0.75 if odd else 0.5)
    add("MemoryBank: momentum is 0.5", slower.update, torch.arange(D), torch.eye(D), group="world")
    for name, center in (
        ("Center, new or just loaded: shapes is", sk.Center(D + odd)),
        ("center_update_: momentum is 0.9", sk.Center(D, momentum=0.8 if odd else 0.9)),
    ):
        center.collect(torch.eye(D))
        add(name, center.update, torch.eye(D + odd if "shapes" in name else D, D), group="world")
    add("DirectPred: momentum is 0.3", DirectPred(D, momentum=0.4 if odd else 0.3, group="world"), torch.eye(D))
    add("DirectPred: eps is 0.01", DirectPred(D, eps=0.02 if odd else 0.01, group="world"), torch.eye(D))

    def clip(**options: Any) -> Any:
        return ClipLoss(world_size=dist.get_world_size(), **options)

    add("clip_loss: logit_scale is 1.0", lambda: clip()(*rows_of("clip_loss"), 2.0 if odd else 1.0))
    add("ClipLoss: local_loss is False", lambda: clip(local_loss=odd).get_logits(*rows_of("clip_loss"), 1.0))
    add("ClipLoss: logit_scale is 1.0", lambda: clip().get_logits(*rows_of("clip_loss"), 2.0 if odd else 1.0))
    uneven = torch.ones(2, 3 if odd else 2, D)
    add("ClipLoss: ranks hold [2,", lambda: clip(local_loss=True).get_logits(*uneven, 1.0))

    def loads(loss: Any) -> None:
        """Let only one rank read a checkpoint in the middle of a training."""
        rows = rows_of("nt_xent")
        loss(*rows)
        if odd:
            loss.load_state_dict({name: value.clone() for name, value in loss.state_dict().items()})
        loss(*rows)

    add("different functions, info_nce", loads, NTXentLoss(0.5, (8, D), gather_distributed=True))
    add("different functions, tico", loads, TiCoLoss(gather_distributed=True))
    add("nt_xent: temperature is 0.5", lambda: NTXentLoss(0.6 if odd else 0.5, 0, True)(*rows_of("nt_xent")))


def heard(odd: bool) -> dict[str, str]:
    said = {}
    for name, misbehave in unlike(odd).items():
        try:
            misbehave()
            said[name] = "nothing was raised"
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def collectives(function: str) -> int:
    """Count the collectives of a call whose ranks agree."""
    count, gather = 0, sslkernels.agreement.all_gather

    def counted(*arguments: Any) -> None:
        nonlocal count
        count += 1
        gather(*arguments)

    sslkernels.agreement.all_gather = counted
    try:
        sslkernels.distributed.shard_of("world", function, torch.eye(D), temperature=torch.tensor(0.1), normalize=True)
    finally:
        sslkernels.agreement.all_gather = gather
    return count


def job(rank: int, world: int) -> dict[str, Any]:
    said = caught(heard, rank == world - 1)
    after = caught(lambda: SF.nt_xent(*rows_of("nt_xent"), group="world").detach())
    return {"heard": said, "after": after, "collectives": caught(collectives, "nt_xent")}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> WorldsOf:
    return WorldsOf(job, tmp_path_factory)


@pytest.mark.parametrize("world", WORLDS)
def test_every_rank_reads_the_sentence_that_names_what_differs(worlds: WorldsOf, world: int) -> None:
    results = [result["heard"] for result in worlds(world)]
    assert all(isinstance(result, dict) for result in results), results
    wrong = []
    for name, sentence in results[0].items():
        start = name.rsplit(" ", 1)[0] if name.startswith("group: ") else name
        if "tensor or number" in name:
            start = f"{name.split(':')[0]}: {TENSORS[name.split(':')[0]]} is 0.5 on rank 0 and tensor(0.5)"
        alike = all(result[name] == sentence for result in results)
        if not alike or start not in sentence or not sentence.startswith("ValueError: ") or "\n" in sentence:
            wrong.append((name, [result[name] for result in results]))
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("world", WORLDS)
def test_the_group_serves_on(worlds: WorldsOf, world: int) -> None:
    values = [result["after"] for result in worlds(world)]
    z0, z1 = (torch.cat([z.detach()] * world) for z in rows_of("nt_xent"))
    expected = SF.nt_xent(z0, z1)
    for value in values:
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("world", WORLDS)
def test_ranks_that_agree_exchange_once(worlds: WorldsOf, world: int) -> None:
    assert all(result["collectives"] == 1 for result in worlds(world))


@pytest.mark.parametrize(
    "function", [name for name in SF.__all__ if "group" in inspect.signature(getattr(SF, name)).parameters]
)
def test_every_setting_of_every_function_is_among_the_cases(function: str) -> None:
    parameters = inspect.signature(getattr(SF, function)).parameters.values()
    rows = ("z", "z0", "z1", "a", "b", "x0", "x1", "query", "key", "image", "text", "prediction", "target", "views")
    views = {*rows, "x", "weight", "local_z", "global_z", "teacher_image", "teacher_text"}
    named = {p.name for p in parameters} - ((FREE | views) - SETTINGS[function].keys())
    assert named == set(SETTINGS[function])
