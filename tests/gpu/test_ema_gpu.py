# SPDX-License-Identifier: Apache-2.0
"""Test the ema family on a CUDA device: ``pytest -m gpu``."""

from __future__ import annotations

import importlib.util
import itertools

import pytest
import torch
from torch import Tensor

import sslkernels as sk
import sslkernels.functional as SF
from sslkernels.ops.ema import tables

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
PAIRS = list(itertools.product(DTYPES, DTYPES))
COUNTS = (1, 7, 8191, 8192, 100_003)
has_triton = importlib.util.find_spec("triton") is not None and importlib.util.find_spec("sslkernels.ops.ema.triton")
several_devices = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="There is one CUDA device.")
every_backend = pytest.mark.parametrize(
    "backend",
    ["cuda", pytest.param("triton", marks=pytest.mark.skipif(not has_triton, reason="There is no Triton here."))],
)


def numbers(count: int, dtype: torch.dtype, shift: int = 0) -> Tensor:
    room = torch.empty(count + shift, dtype=dtype, device="cuda")
    return room[shift:].copy_(torch.randn(count, dtype=torch.float64, device="cuda"))


def model(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Make tensors of a ViT's many sizes."""
    return [numbers(count, dtype) for count in (768, 768 * 3072, 3072, 768 * 768, 768) * 12]


def assert_moved(before: list[Tensor], sources: list[Tensor], after: list[Tensor], momentum: float) -> None:
    for was, source, now in zip(before, sources, after, strict=True):
        t, s = was.double(), source.double()
        info = torch.finfo(now.dtype)
        loose = 2 if torch.float64 in (was.dtype, source.dtype) and now.dtype == torch.float64 else 0.6
        slack = loose * info.eps * torch.maximum(t.abs(), s.abs()) + info.smallest_normal * info.eps
        assert ((now.double() - (momentum * t + (1 - momentum) * s)).abs() <= slack).all()


def launches(call: object) -> list[str]:
    """Return the names of the kernels that ran, without copies."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    on_device = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return [name for name in on_device if not name.startswith(("Memcpy", "Memset"))]


@every_backend
@pytest.mark.parametrize(("target_dtype", "source_dtype"), PAIRS, ids=str)
def test_update(target_dtype: torch.dtype, source_dtype: torch.dtype, backend: str) -> None:
    if backend == "triton" and torch.float64 in (target_dtype, source_dtype):
        pytest.skip("The Triton kernels take no float64.")
    for momentum, shift, by_tensor in itertools.product((0.0, 0.3, 0.996, 1.0), (0, 1), (False, True)):
        targets = [numbers(count, target_dtype, shift) for count in COUNTS]
        sources = [numbers(count, source_dtype) for count in COUNTS]
        before = [t.clone() for t in targets]
        at = torch.tensor(momentum, dtype=torch.float64, device="cuda") if by_tensor else momentum
        SF.ema_update_(targets, sources, at, backend=backend)
        assert_moved(before, sources, targets, momentum)
        if momentum == 1:
            assert all(torch.equal(t, was) for t, was in zip(targets, before, strict=True))


@every_backend
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_masters(dtype: torch.dtype, backend: str) -> None:
    masters, sources = [numbers(count, torch.float32) for count in COUNTS], [numbers(count, dtype) for count in COUNTS]
    targets = [m.to(dtype) for m in masters]
    for target in targets:
        target[::5] = 0.75  # these were written by somebody, so the update begins there
    before = [torch.where(t == m.to(dtype), m, t.float()) for t, m in zip(targets, masters, strict=True)]
    SF.ema_update_(targets, sources, 0.99, masters=masters, backend=backend)
    assert_moved(before, sources, masters, 0.99)
    assert all(torch.equal(t, m.to(dtype)) for t, m in zip(targets, masters, strict=True))


@every_backend
def test_infinities_are_not_nan(backend: str) -> None:
    target = torch.tensor([torch.inf, 1.0, 3e38, torch.nan], device="cuda")
    SF.ema_update_([target], [torch.tensor([1.0, -torch.inf, -3e38, 1.0], device="cuda")], 0.75, backend=backend)
    torch.testing.assert_close(target.cpu(), torch.tensor([torch.inf, -torch.inf, 1.5e38, torch.nan]), equal_nan=True)


@every_backend
def test_a_model_is_one_launch(backend: str) -> None:
    targets, sources = model(), model()
    SF.ema_update_(targets, sources, 0.99, backend=backend)
    assert len(launches(lambda: SF.ema_update_(targets, sources, 0.99, backend=backend))) == 1


def test_a_mixture_of_dtypes_is_one_launch() -> None:
    targets, sources = model() + model(torch.bfloat16), model(torch.bfloat16) + model()
    SF.ema_update_(targets, sources, 0.99, backend="cuda")
    assert len(launches(lambda: SF.ema_update_(targets, sources, 0.99, backend="cuda"))) == 1


@every_backend
def test_a_graph_replays_with_another_momentum(backend: str) -> None:
    targets, sources = model(), model()
    at = torch.ones((), dtype=torch.float64, device="cuda")
    SF.ema_update_(targets, sources, at, backend=backend)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        SF.ema_update_(targets, sources, at, backend=backend)
    others = [numbers(5, torch.float32) for _ in range(2 * tables.TABLES)]
    for other in others:  # these push the table out of the cache, but not out of the graph
        SF.ema_update_([other], [other.clone()], 0.5, backend=backend)
    for momentum in (0.9, 0.25, 1.0, 0.0):
        before = [t.clone() for t in targets]
        at.fill_(momentum)
        graph.replay()
        assert_moved(before, sources, targets, momentum)


@every_backend
def test_capturing_what_was_never_updated_is_refused(backend: str) -> None:
    targets, sources = model(), model()
    numbers(1, torch.float32)
    with pytest.raises(RuntimeError, match="call it once with the same tensors before the capture"):
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            SF.ema_update_(targets, sources, 0.9, backend=backend)


@every_backend
def test_nobody_waits(backend: str) -> None:
    targets, sources = model(), model()
    at = torch.tensor(0.9, dtype=torch.float64, device="cuda")
    queue, position = torch.zeros(100, 64, device="cuda"), torch.tensor(90, device="cuda")
    keys = torch.randn(30, 64, device="cuda")

    def step() -> None:
        SF.ema_update_(targets, sources, at, backend=backend)
        SF.ema_update_(targets, sources, 0.9, backend=backend)
        SF.queue_update_(queue, keys, position, backend=backend)

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
        targets[3] = sources[3].clone()  # this needs another table
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every_backend
def test_parameters_may_be_replaced(backend: str) -> None:
    targets, sources = model(), model()
    for place in range(2 * tables.TABLES):
        targets[place % 60] = targets[place % 60] + 1
        before = [t.clone() for t in targets]
        SF.ema_update_(targets, sources, 0.5, backend=backend)
        assert_moved(before, sources, targets, 0.5)
    assert len(tables._recent) <= tables.TABLES


@every_backend
def test_streams_take_turns(backend: str) -> None:
    targets, sources = model(), model()
    before = [t.clone() for t in targets]
    other = torch.cuda.Stream()
    for _ in range(4):
        other.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(other):
            SF.ema_update_(targets, sources, 0.5, backend=backend)
        torch.cuda.current_stream().wait_stream(other)
        SF.ema_update_(targets, sources, 0.5, backend=backend)
    for was, source, now in zip(before, sources, targets, strict=True):
        torch.testing.assert_close(now, was / 256 + source * 255 / 256)


@several_devices
@every_backend
def test_a_device_that_is_not_current(backend: str) -> None:
    """Tables, streams and captures are those of the tensors' device."""
    targets, sources = ([torch.randn(1000, device="cuda:1") for _ in range(9)] for _ in range(2))
    for _ in range(2):
        before = [t.clone() for t in targets]
        SF.ema_update_(targets, sources, 0.9, backend=backend)
        assert_moved(before, sources, targets, 0.9)
    queue, keys = torch.zeros(7, 3, device="cuda:1"), torch.ones(2, 3, device="cuda:1")
    SF.queue_update_(queue, keys, torch.tensor(6, device="cuda:1"), backend=backend)
    assert queue.sum(1).tolist() == [3, 0, 0, 0, 0, 0, 3]
    before, graph = [t.clone() for t in targets], torch.cuda.CUDAGraph()
    with torch.cuda.device(1), torch.cuda.graph(graph):
        SF.ema_update_(targets, sources, 0.5, backend=backend)
    graph.replay()
    torch.cuda.synchronize(1)
    assert_moved(before, sources, targets, 0.5)
    assert torch.cuda.current_device() == 0


def test_more_than_32_bits_of_elements() -> None:
    count = 2**31 + 100
    target = torch.zeros(count, dtype=torch.float16, device="cuda")
    source = torch.zeros(count, dtype=torch.float16, device="cuda")
    source[-3:] = 2
    SF.ema_update_([target], [source], 0.5, backend="cuda")
    assert target[-4:].tolist() == [0, 1, 1, 1] and int(target.count_nonzero()) == 3


@every_backend
@pytest.mark.parametrize(("queue_dtype", "keys_dtype"), PAIRS, ids=str)
def test_enqueue(queue_dtype: torch.dtype, keys_dtype: torch.dtype, backend: str) -> None:
    if backend == "triton" and torch.float64 in (queue_dtype, keys_dtype):
        pytest.skip("The Triton kernels take no float64.")
    for d, count, dtype in itertools.product((1, 3, 128), (1, 30, 100, 130), (torch.int32, torch.int64)):
        queue = numbers(100 * d, queue_dtype).view(100, d)
        keys = numbers(count * d, keys_dtype).view(count, d)
        expected, position = queue.clone(), torch.tensor(90, dtype=dtype, device="cuda")
        for i, key in enumerate(keys):
            expected[(90 + i) % 100] = key.to(queue_dtype)
        SF.queue_update_(queue, keys, position, backend=backend)
        assert torch.equal(queue, expected) and int(position) == (90 + count) % 100


@pytest.mark.parametrize("average_buffers", (False, True))
def test_a_teacher_stays_on_the_processor(average_buffers: bool) -> None:
    student = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).cuda()
    both = torch.nn.ModuleDict(
        {"student": student, "teacher": sk.EMA(student, 0.5, device="cpu", average_buffers=average_buffers)}
    ).cuda()
    teacher = both["teacher"]
    assert {x.device.type for x in teacher.state_dict().values() if isinstance(x, Tensor)} == {"cpu"}
    start = student[0].weight.detach().clone()
    student[0].weight.data += 1
    student(torch.randn(5, 3, device="cuda"))
    teacher.update(student, 0)
    torch.testing.assert_close(teacher.module[0].weight, (start + 0.5).cpu())
    mean = student[1].running_mean.cpu()
    torch.testing.assert_close(teacher.module[1].running_mean, mean / 2 if average_buffers else mean)
    teacher.set(student)
    assert torch.equal(teacher.module[0].weight, student[0].weight.cpu())
