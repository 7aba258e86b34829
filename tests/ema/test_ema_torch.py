# SPDX-License-Identifier: Apache-2.0
"""Test the family's ops inside torch (registration, compile, fake tensors), and the errors of wrong arguments."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

import sslkernels.functional as SF

OPS = torch.ops.sslkernels


def test_opcheck(backend: str) -> None:
    t, s = [torch.randn(3, 2), torch.randn(5)], [torch.randn(3, 2), torch.randn(5)]
    half, masters = [x.bfloat16() for x in t], [x.clone() for x in t]
    torch.library.opcheck(OPS.ema_update.default, (t, s, [], 0.9, None, backend))
    torch.library.opcheck(OPS.ema_update.default, (half, s, masters, 0.9, None, backend))
    at = torch.tensor(0.9, dtype=torch.float64)
    torch.library.opcheck(OPS.ema_update.default, (t, s, [], 0.0, at, backend))
    queue, keys = torch.zeros(4, 2), torch.randn(3, 2)
    torch.library.opcheck(OPS.ema_enqueue.default, (queue, keys, None, 2, backend))
    torch.library.opcheck(OPS.ema_enqueue.default, (queue, keys, torch.tensor(3), 0, backend))


def test_a_compiled_update_follows_a_schedule_without_recompiling(backend: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    teacher, student = nn.Linear(3, 2), nn.Linear(3, 2)
    expected = [p.detach().clone() for p in teacher.parameters()]

    @torch.compile(fullgraph=True)
    def step(momentum: float) -> None:
        SF.ema_update_(teacher.parameters(), student.parameters(), momentum, backend=backend)

    graphs = []
    for momentum in (0.9, 0.91, 0.925, 0.94, 0.5):
        step(momentum)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        SF.ema_update_(expected, [p.detach() for p in student.parameters()], momentum, backend=backend)
    assert graphs[-1] == graphs[1]  # the first number may become a constant of the graph, but no later one
    assert all(torch.equal(p, e) for p, e in zip(teacher.parameters(), expected, strict=True))


def test_a_compiled_update_with_a_tensor(backend: str) -> None:
    torch._dynamo.reset()
    t, s, momentum = torch.randn(4), torch.randn(4), torch.tensor(0.9)
    step = torch.compile(lambda m: SF.ema_update_([t], [s], m, backend=backend), fullgraph=True)
    for value in (0.9, 0.3, 1.0):
        expected = t.clone()
        SF.ema_update_([expected], [s], value, backend=backend)
        momentum.fill_(value)
        step(momentum)
        torch.testing.assert_close(t, expected)


def test_a_compiled_queue(backend: str) -> None:
    torch._dynamo.reset()
    queue, expected, position = torch.zeros(5, 2), torch.zeros(5, 2), torch.tensor(0)
    step = torch.compile(lambda keys: SF.queue_update_(queue, keys, position, backend=backend), fullgraph=True)
    place = 0
    for n in (3, 3, 4, 7):
        keys = torch.randn(n, 2)
        step(keys)
        place = SF.queue_update_(expected, keys, place, backend=backend)
        assert torch.equal(queue, expected) and int(position) == place


def test_fake_tensors_move_nothing(backend: str) -> None:
    with FakeTensorMode():
        t, s = torch.zeros(3), torch.ones(3)
        SF.ema_update_([t], [s], 0.5, backend=backend)
        assert SF.queue_update_(torch.zeros(4, 2), torch.ones(3, 2), 2, backend=backend) == 1


def test_under_inference_mode_and_autocast(backend: str) -> None:
    t, s = torch.zeros(3), torch.ones(3)
    with torch.inference_mode(), torch.autocast("cpu"):
        SF.ema_update_([t], [s], 0.5, backend=backend)
        inside = torch.zeros(2)
        SF.ema_update_([inside], [torch.ones(2)], 0.5, backend=backend)
    assert (t == 0.5).all() and t.dtype == torch.float32 and (inside == 0.5).all()


X, H = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bfloat16)
WRONG: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "lengths": (lambda: SF.ema_update_([X], [X, X], 0.5), ValueError, "targets has 1 tensors, sources 2; pass one"),
    "masters": (
        lambda: SF.ema_update_([H], [X], 0.5, masters=[]),
        ValueError, "targets has 1 tensors, sources 1 and masters 0",
    ),
    "shapes": (lambda: SF.ema_update_([X], [X.T], 0.5), ValueError, r"targets\[0\] has shape \(2, 3\) and sources"),
    "broadcast": (lambda: SF.ema_update_([X], [X[:1]], 0.5), ValueError, "tensors of one architecture"),
    "device": (lambda: SF.ema_update_([X], [X.to("meta")], 0.5), ValueError, "is on cpu and .* on meta"),
    "no tensor": (lambda: SF.ema_update_([X, 3], [X, X], 0.5), TypeError, r"targets\[1\] is a int; pass a torch"),
    "integers": (lambda: SF.ema_update_([X], [X.int()], 0.5), TypeError, "sources.0. torch.int32; an average needs"),
    "complex": (lambda: SF.ema_update_([X], [X + 0j], 0.5), TypeError, "an average needs"),
    "float8": (
        lambda: SF.ema_update_([X], [X.to(torch.float8_e4m3fn)], 0.5), TypeError, "dtype torch.float8_e4m3fn; accepted",
    ),
    "sparse": (lambda: SF.ema_update_([X.to_sparse()], [X], 0.5), TypeError, "layout torch.sparse_coo"),
    "lazy": (
        lambda: SF.ema_update_(nn.LazyLinear(2).parameters(), nn.LazyLinear(2).parameters(), 0.5),
        TypeError, "no values yet; run the lazy module",
    ),
    "expanded": (
        lambda: SF.ema_update_([torch.zeros(1).expand(3)], [torch.ones(3)], 0.5), ValueError, "is expanded; pass",
    ),
    "master dtype": (
        lambda: SF.ema_update_([H], [X], 0.5, masters=[X.double()]), TypeError, "pass a float32 master",
    ),
    "master of float32": (lambda: SF.ema_update_([X], [X], 0.5, masters=[X.clone()]), TypeError, "None for others"),
    "master shape": (lambda: SF.ema_update_([H], [X], 0.5, masters=[X[:1]]), ValueError, r"masters\[0\] \(1, 3\)"),
    "momentum above": (lambda: SF.ema_update_([X], [X], 1.5), ValueError, "momentum is 1.5; pass a number from 0 to 1"),
    "momentum below": (lambda: SF.ema_update_([X], [X], torch.tensor(-0.5)), ValueError, "momentum is -0.5"),
    "momentum nan": (lambda: SF.ema_update_([X], [X], float("nan")), ValueError, "momentum is nan"),
    "momentum vector": (lambda: SF.ema_update_([X], [X], torch.ones(2)), ValueError, "with one element"),
    "momentum text": (lambda: SF.ema_update_([X], [X], "0.5"), TypeError, "momentum is a str"),
    "backend": (lambda: SF.ema_update_([X], [X], 0.5, backend="cuda"), ValueError, "cannot run: CUDA kernels need"),
    "one tensor": (lambda: SF.ema_update_(3, [X], 0.5), TypeError, "targets is a int; pass a list of tensors"),
    "queue shape": (lambda: SF.queue_update_(X[0], X, 0), ValueError, "queue has shape"),
    "queue empty": (lambda: SF.queue_update_(X[:0], X, 0), ValueError, "size at least 1"),
    "keys width": (lambda: SF.queue_update_(X, X[:, :2], 0), ValueError, r"keys \(2, 2\)"),
    "keys dtype": (lambda: SF.queue_update_(X, X.int(), 0), TypeError, "keys has dtype torch.int32"),
    "position below": (lambda: SF.queue_update_(X, X, -1), ValueError, "position is -1"),
    "position float": (lambda: SF.queue_update_(X, X, torch.tensor(0.0)), ValueError, "integer tensor with one"),
    "position bool": (lambda: SF.queue_update_(X, X, True), ValueError, "position is True"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_one_sentence_and_moves_nothing(case: str) -> None:
    call, kind, words = WRONG[case]
    with pytest.raises(kind, match=words) as caught:
        call()
    assert str(caught.value).startswith(("ema_update_: ", "queue_update_: ", "backend")) and "\n" not in str(
        caught.value
    )
    assert (X == 0).all() and (H == 0).all()


def test_what_came_before_a_wrong_pair_has_not_moved() -> None:
    first = torch.zeros(3)
    with pytest.raises(ValueError, match=r"targets\[1\]"):
        SF.ema_update_([first, X], [torch.ones(3), X.T], 0.5)
    assert (first == 0).all()
