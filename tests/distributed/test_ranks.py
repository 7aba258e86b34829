# SPDX-License-Identifier: Apache-2.0
"""Compare two and three gloo processes with one: values, and every parameter's gradient averaged over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import formulas
import pytest
import rows_oracle
import similarity_oracle as oracle
import torch
import torch.distributed as dist
from torch import Tensor, nn
from worlds import WorldsOf, caught

import sslkernels.functional as SF
from sslkernels.losses import ClipLoss, DistillClipLoss, InfoNCELoss, NTXentLoss

D_IN, D = 6, 5


class Logits(ClipLoss):
    """Compute its own logits, as subclasses of open_clip's loss do; the loss is then the cross-entropy of a matrix."""

    def get_logits(self, *given: Tensor, **named: Any) -> tuple[Tensor, Tensor]:
        return super().get_logits(*given, **named)


class DistillLogits(Logits, DistillClipLoss):
    """Make both losses of matrices."""


def distilled(kind: type[DistillClipLoss], image: Tensor, text: Tensor, temperature: Tensor, **options: Any) -> Tensor:
    loss = kind(**options, rank=dist.get_rank(), world_size=dist.get_world_size())
    return sum(loss(image, text, 1 / temperature, text, image.detach(), 2.0))


Loss = Callable[..., Tensor]
# Our loss and the oracle's take two sides of rows, a temperature and a queue.
LOSSES: dict[str, tuple[Loss, Loss]] = {
    "nt_xent": (
        lambda a, b, t, q, **o: SF.nt_xent(a, b, temperature=t, **o),
        lambda a, b, t, q: oracle.nt_xent(a, b, t),
    ),
    "nt_xent-raw": (
        lambda a, b, t, q, **o: SF.nt_xent(a, b, temperature=t, normalize=False, **o),
        lambda a, b, t, q: oracle.nt_xent(a, b, t, normalize=False),
    ),
    "info_nce": (
        lambda a, b, t, q, **o: SF.info_nce(a, b, temperature=t, **o),
        lambda a, b, t, q: oracle.info_nce(a, b, temperature=t),
    ),
    "info_nce-raw": (
        lambda a, b, t, q, **o: SF.info_nce(a, b, temperature=t, normalize=False, **o),
        lambda a, b, t, q: oracle.info_nce(a, b, temperature=t, normalize=False),
    ),
    "info_nce-symmetric": (
        lambda a, b, t, q, **o: SF.info_nce(a, b, temperature=t, symmetric=True, **o),
        lambda a, b, t, q: oracle.info_nce(a, b, temperature=t, symmetric=True),
    ),
    "info_nce-queue": (
        lambda a, b, t, q, **o: SF.info_nce(a, b, negatives=q, temperature=t, **o),
        lambda a, b, t, q: oracle.info_nce(a, b, q, t),
    ),
    "info_nce-frozen-keys": (
        lambda a, b, t, q, **o: SF.info_nce(a, b.detach(), temperature=t, **o),
        lambda a, b, t, q: oracle.info_nce(a, b.detach(), temperature=t),
    ),
    "clip_loss": (
        lambda a, b, t, q, **o: SF.clip_loss(a, b, 1 / t, **o),
        lambda a, b, t, q: oracle.clip_loss(a, b, 1 / t),
    ),
    "clip_loss-margin": (
        lambda a, b, t, q, **o: SF.clip_loss(a, b, 1 / t, margin=1.5, **o),
        lambda a, b, t, q: formulas.clip_loss(a.double(), b.double(), 1 / t.double(), 1.5),
    ),
    "clip_loss-frozen-text": (
        lambda a, b, t, q, **o: SF.clip_loss(a, b.detach(), 1 / t, **o),
        lambda a, b, t, q: oracle.clip_loss(a, b.detach(), 1 / t),
    ),
    "clip_distillation": (
        lambda a, b, t, q, **o: SF.clip_distillation(a, b, 1 / t, b[:, 1:], a[:, 1:].detach(), 2 / t, **o),
        lambda a, b, t, q: formulas.clip_distillation(a, b, 1 / t, b[:, 1:], a[:, 1:].detach(), 2 / t),
    ),
    "clip_distillation-frozen-teacher": (
        lambda a, b, t, q, **o: SF.clip_distillation(a, b, 1 / t, b.detach(), a.detach(), 2.0, **o),
        lambda a, b, t, q: formulas.clip_distillation(a, b, 1 / t, b.detach(), a.detach(), 2.0),
    ),
    "negative_cosine_similarity": (
        lambda a, b, t, q, **o: SF.negative_cosine_similarity(a, b, **o),
        lambda a, b, t, q: -rows_oracle.cosine(a, b),
    ),
    "byol_loss-frozen-target": (
        lambda a, b, t, q, **o: SF.byol_loss(a, b.detach(), **o),
        lambda a, b, t, q: 2 - 2 * rows_oracle.cosine(a, b.detach()),
    ),
    "NTXentLoss": (
        lambda a, b, t, q, **o: NTXentLoss(gather_distributed=True)(a, b),
        lambda a, b, t, q: oracle.nt_xent(a, b, 0.5),
    ),
    "InfoNCELoss": (
        lambda a, b, t, q, **o: InfoNCELoss(symmetric=True, gather_distributed=True)(a, b),
        lambda a, b, t, q: oracle.info_nce(a, b, temperature=0.1, symmetric=True),
    ),
    "ClipLoss": (
        lambda a, b, t, q, **o: ClipLoss(rank=dist.get_rank(), world_size=dist.get_world_size())(a, b, 1 / t),
        lambda a, b, t, q: oracle.clip_loss(a, b, 1 / t),
    ),
    "ClipLoss-logits": (
        lambda a, b, t, q, **o: Logits(rank=dist.get_rank(), world_size=dist.get_world_size())(a, b, 1 / t),
        lambda a, b, t, q: oracle.clip_loss(a, b, 1 / t),
    ),
    "ClipLoss-local-logits": (
        lambda a, b, t, q, **o: Logits(True, rank=dist.get_rank(), world_size=dist.get_world_size())(a, b, 1 / t),
        lambda a, b, t, q: oracle.clip_loss(a, b, 1 / t),
    ),
    "DistillClipLoss": (
        lambda a, b, t, q, **o: distilled(DistillClipLoss, a, b, t),
        lambda a, b, t, q: oracle.clip_loss(a, b, 1 / t) + formulas.clip_distillation(a, b, 1 / t, b, a.detach(), 2.0),
    ),
    "DistillClipLoss-logits": (
        lambda a, b, t, q, **o: distilled(DistillLogits, a, b, t),
        lambda a, b, t, q: oracle.clip_loss(a, b, 1 / t) + formulas.clip_distillation(a, b, 1 / t, b, a.detach(), 2.0),
    ),
    "DistillClipLoss-local-logits": (
        lambda a, b, t, q, **o: distilled(DistillLogits, a, b, t, local_loss=True),
        lambda a, b, t, q: oracle.clip_loss(a, b, 1 / t) + formulas.clip_distillation(a, b, 1 / t, b, a.detach(), 2.0),
    ),
}
MODULES = [name for name in LOSSES if "Loss" in name]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2}
SHARDS = {2: ((4, 4), (5, 2), (6, 0)), 3: ((3, 3, 3), (1, 5, 2), (0, 4, 3))}


@dataclass(frozen=True)
class Case:
    loss: str
    sizes: tuple[int, ...]
    reduction: str = "mean"
    backend: str = "cpu"
    dtype: torch.dtype = torch.float64
    members: tuple[int, ...] | None = None  # ranks of a subgroup; None for the world

    def __str__(self) -> str:
        shape = "+".join(map(str, self.sizes))
        group = "world" if self.members is None else "ranks" + "".join(map(str, self.members))
        return f"{self.loss}-{self.reduction}-{shape}-{self.backend}-{str(self.dtype)[6:]}-{group}"


def cases(world: int) -> list[Case]:
    functions = [name for name in LOSSES if name not in MODULES]
    # Local logits need equally many rows on each rank, because their labels are counted from them.
    made = [Case(loss, sizes) for loss in LOSSES for sizes in SHARDS[world][: 1 if "local" in loss else None]]
    made += [Case(loss, sizes, backend="reference") for loss in functions for sizes in SHARDS[world][1:]]
    made += [Case(loss, SHARDS[world][1], reduction) for loss in functions for reduction in ("sum", "none")]
    made += [Case(loss, SHARDS[world][1], dtype=torch.float32) for loss in functions]
    made += [Case(loss, SHARDS[world][1], dtype=torch.bfloat16) for loss in ("nt_xent", "info_nce", "clip_loss")]
    if world == 3:
        made += [Case(loss, (3, 4), members=(0, 2)) for loss in functions]
    return made


def weights_of(rows: int) -> Tensor:
    """Return weights by which a caller of reduction="none" multiplies the rows."""
    return torch.linspace(0.5, 1.5, rows, dtype=torch.float64)


def problem(case: Case) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Make the concatenated batch of both views, and the parameters that every rank holds."""
    generator = torch.Generator().manual_seed(len(str(case)))
    total = sum(case.sizes)
    x0, x1 = torch.randn(2, total, D_IN, generator=generator, dtype=torch.float64).unbind()
    parameters = {
        "encoder0": torch.randn(D_IN, D, generator=generator, dtype=torch.float64),
        "encoder1": torch.randn(D_IN, D, generator=generator, dtype=torch.float64),
        "temperature": torch.tensor(0.4, dtype=torch.float64),
        "queue": torch.randn(7, D, generator=generator, dtype=torch.float64),
    }
    return x0, x1, {name: value.to(case.dtype).requires_grad_() for name, value in parameters.items()}


def rows_of(case: Case, place: int, rows: int) -> Tensor:
    """Find this member's losses among those of the whole batch; nt_xent has a second block for z1's anchors."""
    start, total = sum(case.sizes[:place]), sum(case.sizes)
    own = torch.arange(start, start + case.sizes[place])
    return torch.cat([own, own + total]) if rows == 2 * case.sizes[place] else own


def run_case(case: Case, place: int, group: Any) -> dict[str, Any]:
    x0, x1, parameters = problem(case)
    start = sum(case.sizes[:place])
    own = slice(start, start + case.sizes[place])
    z0 = x0[own].to(case.dtype) @ parameters["encoder0"]
    z1 = x1[own].to(case.dtype) @ parameters["encoder1"]
    options = {} if case.loss in MODULES else {"reduction": case.reduction, "group": group, "backend": case.backend}
    value = LOSSES[case.loss][0](z0, z1, parameters["temperature"], parameters["queue"], **options)
    scalar = value
    if case.reduction == "none":
        whole = weights_of(sum(case.sizes) * value.shape[0] // case.sizes[place])
        scalar = (value * whole[rows_of(case, place, value.shape[0])]).sum()
    found = torch.autograd.grad(scalar, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return {"value": value.detach(), "gradients": dict(zip(parameters, found, strict=True))}


def ddp_case(rank: int, world: int) -> dict[str, Any]:
    """Train a real DistributedDataParallel encoder with a learnable temperature for two steps."""
    model = Encoder()
    wrapped = nn.parallel.DistributedDataParallel(model)
    for x0, x1 in ddp_batches(world):
        own = slice(rank * 4, rank * 4 + 4)
        z0, z1, temperature = wrapped(x0[own], x1[own])
        model.step(SF.nt_xent(z0, z1, temperature=temperature, group="world"))
    return {"state": model.state_dict()}


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(D_IN, D, dtype=torch.float64)
        self.log_temperature = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))

    def forward(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.layer(x0), self.layer(x1), self.log_temperature.exp()

    def step(self, loss: Tensor) -> None:
        self.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter -= 0.1 * parameter.grad


def ddp_batches(world: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    for _ in range(2):
        yield tuple(torch.randn(2, 4 * world, D_IN, generator=generator, dtype=torch.float64))  # type: ignore[misc]


def alone(rank: int) -> dict[str, float]:
    """Pass group=None inside a process group: batches differ, nobody waits, and each rank has its own loss."""
    torch.manual_seed(rank)
    z0, z1 = torch.randn(3 + rank, 4), torch.randn(3 + rank, 4)
    loss = SF.nt_xent(z0, z1).item() if rank == 0 else 0.0  # the other ranks do not even call it
    return {"loss": loss, "exact": oracle.nt_xent(z0, z1).mean().item() if rank == 0 else 0.0}


def job(rank: int, world: int) -> dict[str, Any]:
    subgroups = {members: dist.new_group(list(members)) for members in {c.members for c in cases(world)} if members}
    results: dict[str, Any] = {}
    for case in cases(world):
        members = case.members or tuple(range(world))
        group = "world" if case.members is None else subgroups[case.members]
        if rank in members:
            results[str(case)] = caught(run_case, case, members.index(rank), group)
    results["ddp"] = caught(ddp_case, rank, world)
    results["alone"] = caught(alone, rank)
    return results


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[dict[str, Any]]]:
    return WorldsOf(job, tmp_path_factory)


Worlds = Callable[[int], list[dict[str, Any]]]


@pytest.mark.parametrize(
    "world, case", [(world, case) for world in (2, 3) for case in cases(world)], ids=lambda value: str(value)
)
def test_ranks_together_equal_one_process(worlds: Worlds, world: int, case: Case) -> None:
    members = case.members or tuple(range(world))
    results = [worlds(world)[rank][str(case)] for rank in members]
    for result in results:
        assert isinstance(result, dict), result
    x0, x1, parameters = problem(case)

    def whole(encoder0: Tensor, encoder1: Tensor, temperature: Tensor, queue: Tensor) -> Tensor:
        return LOSSES[case.loss][1](x0 @ encoder0, x1 @ encoder1, temperature, queue)

    def reduced(*given: Tensor) -> Tensor:
        rows = whole(*given)
        if case.reduction == "none":
            return (rows * weights_of(len(rows))).sum() + 0 * sum(x.sum() for x in given)
        return (rows.mean() if case.reduction == "mean" else rows.sum()) + 0 * sum(x.sum() for x in given)

    tolerance = TOLERANCE[case.dtype]
    rows = whole(*(value.detach().double() for value in parameters.values()))
    if case.reduction == "none":
        for place, result in enumerate(results):
            mine = rows[rows_of(case, place, result["value"].shape[0])]
            torch.testing.assert_close(result["value"].double(), mine, rtol=tolerance, atol=tolerance)
        averaged = 1.0  # losses of rows are not scaled, so gradients add up over ranks
    else:
        value = torch.stack([result["value"] for result in results]).double().mean()
        expected = rows.mean() if case.reduction == "mean" else rows.sum()
        torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
        averaged = 1 / len(members)
    exact = rows_oracle.gradients(reduced, list(parameters.values()))
    for name, gradient in zip(parameters, exact, strict=True):
        assert gradient is not None
        together = sum(result["gradients"][name].double() for result in results) * averaged
        allowed = tolerance * (1 + float(gradient.abs().max()))
        torch.testing.assert_close(together, gradient, rtol=0, atol=allowed, msg=lambda m: f"{name}: {m}")  # noqa: B023


@pytest.mark.parametrize("world", [2, 3])
def test_data_parallel_trains_as_one_process(worlds: Worlds, world: int) -> None:
    single = Encoder()
    for x0, x1 in ddp_batches(world):
        z0, z1, temperature = single(x0, x1)
        single.step(oracle.nt_xent(z0, z1, temperature).mean())
    for result in worlds(world):
        assert isinstance(result["ddp"], dict), result["ddp"]
        for name, value in single.state_dict().items():
            torch.testing.assert_close(result["ddp"]["state"][name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("world", [2, 3])
def test_without_a_group_nothing_is_communicated(worlds: Worlds, world: int) -> None:
    result = worlds(world)[0]["alone"]
    assert result["loss"] == pytest.approx(result["exact"], rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_world_of_one_changes_nothing(loss: str) -> None:
    case = Case(loss, (5,))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        grouped = run_case(case, 0, "world")
        by_group = run_case(case, 0, dist.group.WORLD)
        plain = run_case(case, 0, None)
    finally:
        dist.destroy_process_group()
    for result in (grouped, by_group):
        assert torch.equal(result["value"], plain["value"])
        assert all(torch.equal(result["gradients"][name], plain["gradients"][name]) for name in plain["gradients"])
