# SPDX-License-Identifier: Apache-2.0
"""Hosts agree among themselves, and neither a new batch nor a value that differs goes unnoticed.

There is no GPU here, so ranks pretend that their tensors lie on one: host memory counts as a device, the group's own
backend as one for devices, and a value reaches the host as late as a case wants.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import Mock, patch

import pytest
import similarity_oracle as oracle
import torch
import torch.distributed as dist
from torch import Tensor
from worlds import WorldsOf, caught

import sslkernels.functional as SF
from sslkernels import agreement
from sslkernels.agreement import Copied, Late

WORLDS = (2, pytest.param(3, marks=pytest.mark.slow))
D = 4
# Rows per rank, step by step: a batch changes on one rank alone, on all, back, and at the uneven end of an epoch.
STEPS = {
    2: ((4, 4), (4, 4), (4, 3), (4, 4), (2, 5), (4, 4), (1, 4), (0, 3), (4, 4)),
    3: ((4, 4, 4), (4, 4, 4), (4, 3, 4), (4, 4, 4), (2, 5, 1), (4, 4, 4), (1, 4, 4), (0, 3, 0), (4, 4, 4)),
}
Call = Callable[..., Any]


# --- one process: the values of many ranks --------------------------------------------------------------------------


class Slow:
    """Stand for the event behind a copy: it happens ``calls`` calls later."""

    now = 0  # calls so far, of all that are played

    def __init__(self, calls: int) -> None:
        self.due = Slow.now + calls

    def query(self) -> bool:
        return Slow.now >= self.due


def play(values: list[list[float]], seed: int) -> int | None:
    """Let ranks pass ``values[call][rank]`` with random delays. Return the call at which all raise, None for never."""
    generator = torch.Generator().manual_seed(seed)
    ranks = [Late() for _ in values[0]]
    for call, passed in enumerate([*values, *[None] * 12]):
        landed, sums = zip(*(late.numbers() for late in ranks), strict=True)
        heard = [late.heard(landed, sums) for late in ranks]
        Slow.now += 1
        assert len({among is None for among in heard}) == 1, "only some ranks would raise"
        if heard[0] is not None:
            assert len(set(map(tuple, heard))) > 1, "the values that are named do not differ"
            assert len({len(among) for among in heard}) == 1
            return call
        for late, value in zip(ranks, passed or (), strict=False):
            delay = int(torch.randint(0, 4, (), generator=generator))
            bits = torch.tensor([value], dtype=torch.float64).view(torch.int64)
            with patch.object(agreement, "copied", lambda _, bits=bits, delay=delay: Copied(bits, Slow(delay), True)):
                late.send(torch.tensor(value), "loss: temperature")
    assert all(late.ready == late.landed == len(values) for late in ranks), "a value was never compared"
    assert all(len(late.values) <= 1 and len(late.sums) == 1 for late in ranks), "what was compared is kept"
    return None


@pytest.mark.parametrize("world", (2, 3, 7))
def test_alike_values_never_raise(world: int) -> None:
    for seed in range(20):
        assert play([[0.1 * call] * world for call in range(30)], seed) is None


@pytest.mark.parametrize("world", (2, 3, 7))
def test_one_unlike_value_raises_on_every_rank_in_the_same_call(world: int) -> None:
    """It is found even if it was alike again at once, and at most a few calls after the slowest rank has it."""
    for seed in range(40):
        odd = seed % 9
        values = [[0.5] * world for _ in range(12)]
        values[odd][seed % world] = 0.6
        raised = play(values, seed)
        assert raised is not None and odd + 2 <= raised <= odd + 6, (seed, odd, raised)


def test_no_event_is_asked_while_a_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver would refuse, and the capture would be lost. What was under way lands after it."""
    late, asked = Late(), Mock(return_value=True)
    late.under_way.append((Copied(torch.zeros(1, dtype=torch.int64), Mock(query=asked), True), "loss: temperature"))
    line = agreement.Line(lambda mine, _: mine, torch.device("cpu"), is_host=True, late=late)
    monkeypatch.setattr(agreement, "_line", lambda *_: line)
    for captured in (True, False):
        monkeypatch.setattr(agreement, "is_captured", lambda _, captured=captured: captured)
        assert agreement.agree(Mock(), 3, torch.device("cpu"), {"function": "loss"}) == (3,)
        assert (asked.called, late.landed) == ((False, 0) if captured else (True, 1))


def test_rows_of_the_host_do_not_decide_how_a_group_for_devices_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch refuses them with "nccl". Once they are moved to the device, the group must serve."""
    group, connected = Mock(), Mock(return_value=None)
    monkeypatch.setattr(agreement, "speaks_host", lambda _: False)
    monkeypatch.setattr(agreement, "_gloo", connected)
    agreement._line(group, torch.device("cpu"))
    device = torch.device("meta")
    assert agreement._line(group, device).device == device and connected.call_count == 1
    assert agreement._line(group, device) is agreement._line(group, device) and connected.call_count == 1


@pytest.mark.parametrize(("seconds", "within"), ((1800, 60), (20, 10)))
def test_hosts_give_up_before_the_group_does(seconds: int, within: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that fails at once waits for the others in a collective of the group."""
    gloo = Mock()
    for name in ("broadcast", "all_reduce", "PrefixStore", "get_rank", "get_world_size"):
        monkeypatch.setattr(dist, name, Mock())
    monkeypatch.setattr(dist, "ProcessGroupGloo", gloo)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", Mock())
    monkeypatch.setattr(agreement, "_timeout", lambda *_: timedelta(seconds=seconds))
    assert agreement._gloo(Mock(), torch.device("cpu")) is gloo.return_value
    assert gloo.call_args.args[-1] == timedelta(seconds=within)
    gloo.return_value._set_default_timeout.assert_called_once_with(timedelta(seconds=seconds))


# --- worlds ---------------------------------------------------------------------------------------------------------


@contextmanager
def pretended(delay: int = 0, **replaced: Any) -> Iterator[list[str]]:
    """Pretend that tensors lie on a device; give the names of the collectives that the device's backend then runs."""
    used: list[str] = []

    def copied(value: Tensor) -> Copied:
        Slow.now += 1
        return Copied(agreement._bits(value).clone(), Slow(delay), value.is_floating_point())

    def counted(name: str, call: Call) -> Call:
        def counting(*arguments: Any, **options: Any) -> Any:
            used.append(name)
            return call(*arguments, **options)

        return counting

    everything = {"waits_for": lambda _: True, "speaks_host": lambda _: False, "copied": copied, **replaced}
    with ExitStack() as stack:
        for name, value in everything.items():
            stack.enter_context(patch.object(agreement, name, value))
        for name in ("broadcast", "all_reduce"):
            stack.enter_context(patch.object(dist, name, counted(name, getattr(dist, name))))
        stack.enter_context(patch.object(agreement, "all_gather", counted("all_gather", agreement.all_gather)))
        agreement._lines.clear()
        try:
            yield used
        finally:
            agreement._lines.clear()


def loss(rank: int, sizes: tuple[int, ...], step: int, temperature: Any, group: Any = "world") -> tuple[float, Tensor]:
    """Return this rank's loss of a step, and its gradient."""
    z0, z1 = whole(sizes, step)
    start = sum(sizes[:rank])
    own = slice(start, start + sizes[rank])
    a, b = z0[own].clone().requires_grad_(), z1[own].clone().requires_grad_()
    value = SF.nt_xent(a, b, temperature=temperature, group=group)
    value.backward()
    assert a.grad is not None and b.grad is not None
    return value.item(), torch.cat([a.grad, b.grad])


def whole(sizes: tuple[int, ...], step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    z0, z1 = torch.randn(2, sum(sizes), D, generator=generator, dtype=torch.float64).unbind()
    return z0, z1


def steady(rank: int, world: int) -> dict[str, Any]:
    """Train with changing batches and a learnable temperature that reaches the hosts at unlike times."""
    with pretended(delay=rank) as used:
        first = loss(rank, STEPS[world][0], 0, learnable(0))
        connecting = list(used)
        used.clear()
        losses = [first, *(loss(rank, sizes, n, learnable(n)) for n, sizes in enumerate(STEPS[world]) if n)]
        line = agreement._lines[dist.group.WORLD]
        return {
            "losses": losses, "connecting": connecting, "used": used, "is_host": line.is_host,
            "compared": line.late.checked,
        }  # fmt: skip


def learnable(step: int) -> Tensor:
    return torch.tensor(0.3 + step / 100, dtype=torch.float64, requires_grad=True)


def message(call: Call, *arguments: Any) -> str:
    try:
        call(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def unlike_later(rank: int, world: int) -> list[str]:
    """Differ in the temperature of the fifth call alone; say what each call said."""
    odd = rank == world - 1
    with pretended(delay=2 * rank):
        return [
            message(loss, rank, (4,) * world, step, torch.tensor(0.6 if odd and step == 4 else 0.5))
            for step in range(16)
        ]


def unlike_at_first(rank: int, world: int) -> list[str]:
    with pretended(delay=2 * rank):
        return [message(loss, rank, (4,) * world, 0, torch.tensor(0.5 + rank * n)) for n in (1, 0)]


def unlike_kind_of_device(rank: int, world: int) -> str:
    """Hold rows that say they are on another device."""
    call = {"function": "loss", "device": "cuda" if rank else "cpu"}
    return message(agreement.agree, dist.group.WORLD, 3, torch.device("cpu"), call)


def no_gloo(rank: int, world: int) -> dict[str, Any]:
    """Let the host of the last rank be out of reach: all go through the device, and nobody is left waiting."""
    real = dist.ProcessGroupGloo

    def fails(*arguments: Any) -> Any:
        if rank == world - 1:
            raise RuntimeError("no route to host")
        return real(*arguments)

    with (
        warnings.catch_warnings(record=True) as caught_warnings,
        patch.object(dist, "ProcessGroupGloo", fails),
        pretended(CONNECTED_WITHIN=timedelta(seconds=1)) as used,
    ):
        warnings.simplefilter("always")
        losses = [loss(rank, sizes, n, learnable(n)) for n, sizes in enumerate(STEPS[world])]
        unlike = message(loss, rank, (4,) * world, 0, torch.tensor(0.5 + rank))
        said = [str(each.message) for each in caught_warnings if "sslkernels" in str(each.message)]
        return {"losses": losses, "said": said, "unlike": unlike, "used": used}


def overlapping(rank: int, world: int) -> dict[str, Any]:
    """Be in unlike numbers of groups: rank 0 is in a group more than the last rank."""
    pair = dist.new_group([0, 1])
    ends = dist.new_group([0, world - 1])
    with pretended():
        found = {}
        if rank in (0, 1):
            found["pair"] = loss(rank, (3, 2), 1, learnable(1), pair)
        if rank in (0, world - 1):
            found["ends"] = loss(int(rank > 0), (1, 4), 2, learnable(2), ends)
        return found


def made_anew(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Destroy all groups after losses, make them anew with ranks in another order, and go on."""
    results = {}
    with pretended(delay=rank) as used:
        results["before"] = [loss(rank, (4,) * world, n, learnable(n)) for n in range(3)]
        dist.destroy_process_group()
        results["kept"] = len(agreement._lines)
        turned = world - 1 - rank
        dist.init_process_group(
            "gloo", f"file://{folder}", rank=turned, world_size=world, timeout=timedelta(seconds=60)
        )
        used.clear()
        sizes = tuple(range(2, 2 + world))
        results["after"] = [loss(turned, sizes, n, learnable(n)) for n in range(3)]
        results["connecting"] = used[:2]
    return results


def job(rank: int, world: int) -> dict[str, Any]:
    folder = [None]
    dist.broadcast_object_list(place := ([_folder()] if rank == 0 else folder))
    results = {
        call.__name__: caught(call, rank, world)
        for call in (steady, unlike_later, unlike_at_first, unlike_kind_of_device, no_gloo, overlapping)
    }
    results["made_anew"] = caught(made_anew, rank, world, place[0])
    return results


def _folder() -> str:
    import tempfile

    return f"{tempfile.mkdtemp()}/again"


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> WorldsOf:
    return WorldsOf(job, tmp_path_factory)


def results_of(worlds: WorldsOf, world: int, name: str) -> list[Any]:
    results = [result[name] for result in worlds(world)]
    for result in results:
        assert not isinstance(result, str) or "Traceback" not in result, result
    return results


def check(losses: list[list[tuple[float, Tensor]]], steps: tuple[tuple[int, ...], ...], numbers: list[int]) -> None:
    """Compare every rank's losses and gradients, step by step, with one process."""
    for place, (sizes, number) in enumerate(zip(steps, numbers, strict=True)):
        z0, z1 = (z.requires_grad_() for z in whole(sizes, number))
        expected = oracle.nt_xent(z0, z1, learnable(number).item()).mean()
        expected.backward()
        ranks = len(sizes)
        mean = sum(found[place][0] for found in losses) / ranks
        torch.testing.assert_close(torch.tensor(mean, dtype=torch.float64), expected.detach(), rtol=1e-9, atol=1e-9)
        halves = [found[place][1].chunk(2) for found in losses]
        for side, z in enumerate((z0, z1)):
            together = torch.cat([half[side] for half in halves]) / ranks
            torch.testing.assert_close(together, z.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("world", WORLDS)
def test_batches_may_change_on_one_rank_at_any_step(worlds: WorldsOf, world: int) -> None:
    results = results_of(worlds, world, "steady")
    check([result["losses"] for result in results], STEPS[world], list(range(len(STEPS[world]))))


@pytest.mark.parametrize("world", WORLDS)
def test_no_number_of_the_agreement_goes_through_the_device(worlds: WorldsOf, world: int) -> None:
    for result in results_of(worlds, world, "steady"):
        assert result["is_host"]
        assert result["connecting"] == ["broadcast", "all_reduce"], "the device is asked once, to connect the hosts"
        assert result["used"] == []
        assert result["compared"] >= 2


@pytest.mark.parametrize("world", WORLDS)
def test_a_value_that_differed_is_told_to_every_rank_in_one_later_call(worlds: WorldsOf, world: int) -> None:
    """Then the group serves on."""
    results = results_of(worlds, world, "unlike_later")
    assert all(result == results[0] for result in results), results
    said = {step: words for step, words in enumerate(results[0]) if words}
    assert len(said) == 1 and 5 <= min(said) <= 12, said
    (words,) = said.values()
    assert words == (
        f"ValueError: nt_xent: temperature of an earlier call was tensor(0.5) on rank 0 and "
        f"tensor(0.6000000238418579) on rank {world - 1}; pass the same on every rank."
    )


@pytest.mark.parametrize("world", WORLDS)
def test_the_first_value_is_compared_at_once(worlds: WorldsOf, world: int) -> None:
    for result in results_of(worlds, world, "unlike_at_first"):
        assert result[0].startswith("ValueError: nt_xent: temperature is tensor(0.5) on rank 0 and tensor(1.5) on rank")
        assert result[1] == ""


@pytest.mark.parametrize("world", WORLDS)
def test_unlike_kinds_of_devices_are_a_sentence(worlds: WorldsOf, world: int) -> None:
    expected = "ValueError: group: ranks hold rows on unlike kinds of devices, cpu on rank 0 and cuda on rank 1; "
    for result in results_of(worlds, world, "unlike_kind_of_device"):
        assert result.startswith(expected), result


@pytest.mark.parametrize("world", WORLDS)
def test_hosts_out_of_reach_go_through_the_device(worlds: WorldsOf, world: int) -> None:
    results = results_of(worlds, world, "no_gloo")
    check([result["losses"] for result in results], STEPS[world], list(range(len(STEPS[world]))))
    for result in results:
        (said,) = result["said"]
        assert "could not connect through gloo" in said and "cpu:gloo,cuda:nccl" in said
        assert result["unlike"].startswith("ValueError: nt_xent: temperature is tensor(0.5) on rank 0 and tensor(1.5)")
        assert result["used"][:2] == ["broadcast", "all_reduce"] and set(result["used"][2:]) == {"all_gather"}


@pytest.mark.parametrize("world", WORLDS)
def test_ranks_may_be_in_unlike_numbers_of_groups(worlds: WorldsOf, world: int) -> None:
    results = results_of(worlds, world, "overlapping")
    check([[results[rank]["pair"]] for rank in (0, 1)], ((3, 2),), [1])
    check([[results[rank]["ends"]] for rank in (0, world - 1)], ((1, 4),), [2])


@pytest.mark.parametrize("world", WORLDS)
def test_a_group_that_is_made_anew_connects_anew(worlds: WorldsOf, world: int) -> None:
    results = results_of(worlds, world, "made_anew")
    check([result["before"] for result in results], ((4,) * world,) * 3, [0, 1, 2])
    check([result["after"] for result in reversed(results)], (tuple(range(2, 2 + world)),) * 3, [0, 1, 2])
    assert all(result["kept"] == 0 for result in results), "a line outlives its group"
    assert all(result["connecting"] == ["broadcast", "all_reduce"] for result in results)
