# SPDX-License-Identifier: Apache-2.0
"""Run the CUDA kernels of the ema family on a processor, and compare them with float64 and with the C++ kernels.

Values are right, and nothing outside of an array is accessed. A table of chunks is kept.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import device_shim
import numpy as np
import pytest
import torch
from torch import Tensor

import sslkernels.functional as SF
from sslkernels import backends
from sslkernels.ops import ema
from sslkernels.ops.ema import cuda, tables

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
PAIRS = list(itertools.product(DTYPES, DTYPES))
MOMENTA = (0.0, 0.25, 0.5, 0.996, 1.0)
# These are nothing, less than a vector, odd numbers, a chunk and its neighbours, and two chunks and a rest.
COUNTS = (0, 1, 3, 8, 37, 8191, 8192, 8193, 20011)

# The gate runs both; the sanitized run is a child of the other.
pytestmark = [] if device_shim.sanitized() else [pytest.mark.slow]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> device_shim.Shim:
    return device_shim.Shim("ema", tmp_path_factory.mktemp("shim"))


@pytest.fixture(autouse=True)
def sent(shim: device_shim.Shim, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Record the tables that are made."""
    made: list[Tensor] = []
    why_not = backends.why_not
    monkeypatch.setattr(cuda, "launch", shim.launch)
    monkeypatch.setattr(tables, "_recent", OrderedDict())
    monkeypatch.setattr(tables, "_sent", lambda chunks, x: made.append(chunks) or chunks)
    monkeypatch.setattr(backends, "why_not", lambda name, *rest: None if name == "cuda" else why_not(name, *rest))
    shim.ran.clear()
    return made


def numbers(count: int, dtype: torch.dtype, shift: int = 0) -> Tensor:
    """Make ``count`` numbers that begin ``shift`` numbers behind an address that is a multiple of 16 bytes."""
    return torch.empty(count + shift, dtype=dtype)[shift:].copy_(torch.randn(count, dtype=torch.float64))


def assert_moved(before: Tensor, source: Tensor, after: Tensor, momentum: float) -> None:
    """Allow 0.6 eps of max(|t|, |s|), and a subnormal's step; float64 is compared with numpy's long double."""
    exact = np.float64 if torch.float64 not in (before.dtype, source.dtype) else np.longdouble
    t, s, a = (x.double().numpy().astype(exact) for x in (before, source, after))
    info = torch.finfo(after.dtype)
    slack = 0.6 * info.eps * np.maximum(abs(t), abs(s)) + info.smallest_normal * info.eps
    kept, taken = exact(momentum), exact(1 - momentum)
    assert (abs(a - (kept * t + taken * s)) <= slack).all()


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[ours.element_size()]
    return torch.equal(ours.contiguous().view(kind), theirs.contiguous().view(kind))


@pytest.mark.parametrize("by", ("number", "tensor"))
@pytest.mark.parametrize(("target_dtype", "source_dtype"), PAIRS, ids=str)
def test_update(target_dtype: torch.dtype, source_dtype: torch.dtype, by: str, shim: device_shim.Shim) -> None:
    shifts = [(0, 0), (1, 0), (0, 1), (3, 5)]
    for momentum in MOMENTA:
        targets, sources = [], []
        for count, (mine, theirs) in itertools.product(COUNTS, shifts):
            targets.append(numbers(count, target_dtype, mine))
            sources.append(numbers(count, source_dtype, theirs))
        before = [t.clone() for t in targets]
        sources_before = [s.clone() for s in sources]
        shim.ran.clear()
        pairs = ema.pairs_of(targets, sources, ())
        if by == "number":
            cuda.update(pairs, momentum, None)
        else:
            cuda.update(pairs, torch.nan, torch.tensor(momentum, dtype=torch.float64))
        assert shim.ran == ["update"]
        for was, source, target, kept in zip(before, sources, targets, sources_before, strict=True):
            assert_moved(was, source, target, momentum)
            assert same_bits(source, kept)
            if momentum == 1:
                assert same_bits(target, was)
            elif momentum == 0:
                assert same_bits(target, source.to(target_dtype))


@pytest.mark.parametrize("source_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("target_dtype", (torch.bfloat16, torch.float16), ids=str)
def test_masters(target_dtype: torch.dtype, source_dtype: torch.dtype, shim: device_shim.Shim) -> None:
    for momentum in MOMENTA:
        sources, masters = [], []
        for count, shift in itertools.product(COUNTS, range(8)):
            sources.append(numbers(count, source_dtype, shift & 1))
            masters.append(numbers(count, torch.float32, shift >> 1 & 1))
        targets = [numbers(m.numel(), target_dtype, place % 8 >> 2).copy_(m) for place, m in enumerate(masters)]
        masters[3] = torch.empty(0)  # this target has no master
        for target in targets:
            target[::5] = 0.75  # these were written by somebody, so the update begins there
        masters_before, targets_before = [m.clone() for m in masters], [t.clone() for t in targets]
        shim.ran.clear()
        cuda.update(ema.pairs_of(targets, sources, masters), momentum, None)
        assert shim.ran == ["update"]
        for t, s, m, was, target_was in zip(targets, sources, masters, masters_before, targets_before, strict=True):
            if momentum == 1:
                assert same_bits(t, target_was) and same_bits(m, was)
            elif m.numel() == 0:
                assert_moved(target_was, s, t, momentum)
            else:
                assert_moved(torch.where(target_was == was.to(target_dtype), was, target_was.float()), s, m, momentum)
                assert same_bits(t, m.to(target_dtype))


def test_a_mixture_is_one_launch(shim: device_shim.Shim) -> None:
    targets = [numbers(100 + place, t, place % 2) for place, (t, _) in enumerate(PAIRS)]
    sources = [numbers(100 + place, s) for place, (_, s) in enumerate(PAIRS)]
    masters = [t.float() if t.element_size() == 2 and place % 3 else None for place, t in enumerate(targets)]
    before = [t.clone() for t in targets]
    SF.ema_update_(targets, sources, 0.9, masters=masters, backend="cuda")
    assert shim.ran == ["update"]
    for was, s, t, m in zip(before, sources, targets, masters, strict=True):
        if m is None:
            assert_moved(was, s, t, 0.9)
        else:
            assert_moved(was.float(), s, m, 0.9)
            assert same_bits(t, m.to(t.dtype))


@pytest.mark.parametrize(("target_dtype", "source_dtype"), PAIRS, ids=str)
def test_what_is_not_finite_or_nearly(target_dtype: torch.dtype, source_dtype: torch.dtype) -> None:
    def special(dtype: torch.dtype) -> Tensor:
        info = torch.finfo(dtype)
        return torch.tensor([torch.inf, -torch.inf, torch.nan, info.max, -info.max, 1.0, 0.0, -0.0], dtype=dtype)

    t, s = special(target_dtype).repeat_interleave(8), special(source_dtype).repeat(8)
    for momentum in MOMENTA:
        target = t.clone()
        at = torch.tensor(momentum, dtype=torch.float64)
        cuda.update(ema.pairs_of([target], [s], ()), 0.3, at)
        if momentum in (0, 1):
            expected = s.to(target_dtype) if momentum == 0 else t
        else:
            kept, taken = np.longdouble(momentum), np.longdouble(1 - momentum)
            with np.errstate(over="ignore", invalid="ignore"):
                exact = kept * t.double().numpy().astype(np.longdouble) + taken * s.double().numpy()
                number = exact.astype(np.float64)
            expected = torch.from_numpy(number).to(target_dtype)
        eps = torch.finfo(target_dtype).eps
        torch.testing.assert_close(target, expected, rtol=eps, atol=eps, equal_nan=True)


def test_a_pair_that_is_listed_twice_moves_once() -> None:
    target, source = numbers(50, torch.float32), numbers(50, torch.float32)
    was = target.clone()
    SF.ema_update_([target, target], [source, source], 0.5, backend="cuda")
    assert_moved(was, source, target, 0.5)


def test_chunks_begin_where_accesses_of_16_bytes_may(sent: list[Tensor]) -> None:
    target, source, master = (numbers(3 * cuda.CHUNK + 5, t) for t in (torch.bfloat16, torch.float64, torch.float32))
    SF.ema_update_([target], [source], 0.5, masters=[master], backend="cuda")
    (table,) = sent
    apart = table.diff(dim=0)[:, :3]
    assert table[0, :3].tolist() == [target.data_ptr(), source.data_ptr(), master.data_ptr()]
    assert (apart == cuda.CHUNK * torch.tensor([2, 8, 4])).all() and (apart % 16 == 0).all()
    assert table[:, 3].tolist() == [cuda.CHUNK] * 3 + [5]


# --- the tables -----------------------------------------------------------------------------------------------------


def test_a_table_is_made_once_for_the_same_tensors(sent: list[Tensor]) -> None:
    targets, sources = ([numbers(9, torch.float32) for _ in range(3)] for _ in range(2))
    for _ in range(3):
        SF.ema_update_(targets, sources, 0.5, backend="cuda")
    assert len(sent) == 1
    replaced = [numbers(9, torch.float32), *targets[1:]]
    was = replaced[0].clone()
    SF.ema_update_(replaced, sources, 0.5, backend="cuda")
    assert len(sent) == 2
    assert_moved(was, sources[0], replaced[0], 0.5)


def test_the_same_addresses_with_another_dtype_or_size_are_another_table(sent: list[Tensor]) -> None:
    target, source = numbers(16, torch.bfloat16), numbers(16, torch.bfloat16)
    for t, s in ((target, source), (target.view(torch.float16), source.view(torch.float16)), (target[:8], source[:8])):
        was = t.clone()
        SF.ema_update_([t], [s], 0.5, backend="cuda")
        assert_moved(was, s, t, 0.5)
    assert len(sent) == 3


# --- enqueue --------------------------------------------------------------------------------------------------------

POSITIONS = [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64, torch.uint64]


@pytest.mark.parametrize(("queue_dtype", "keys_dtype"), PAIRS, ids=str)
def test_enqueue(queue_dtype: torch.dtype, keys_dtype: torch.dtype, shim: device_shim.Shim) -> None:
    size = 13
    places = ((0, 3, 0), (4, 2, 0), (13, 12, 5), (5, 7, 2**40), (1, None, 12), (6, None, 9))
    for d, (count, at, offset), gap, shift in itertools.product((1, 3, 8, 40, 264), places, (0, 8), (0, 1)):
        room = numbers(size * (d + gap) + shift, queue_dtype, 0)[shift:].view(size, d + gap)
        before, queue = room.clone(), room[:, :d]
        keys = numbers(count * d, keys_dtype, shift).view(count, d)
        position = None if at is None else torch.tensor(at)
        shim.ran.clear()
        cuda.enqueue(queue, keys, position, offset)
        assert shim.ran == (["enqueue"] if count else [])
        for i, key in enumerate(keys):
            before[((at or 0) + offset + i) % size, :d] = key.to(queue_dtype)
        assert same_bits(room, before)


@pytest.mark.parametrize("dtype", POSITIONS, ids=str)
def test_a_position_of_any_integer_dtype(dtype: torch.dtype) -> None:
    for value in (0, 100, 200, -100, 2**31 + 5, 2**40):
        info = torch.iinfo(dtype)
        if info.min <= value <= info.max:
            queue, keys = torch.zeros(7, 2), torch.arange(6.0).view(3, 2)
            cuda.enqueue(queue, keys, torch.tensor(value, dtype=dtype), 3)
            assert torch.equal(queue[(value + 3 + torch.arange(3)) % 7], keys)
            assert queue.count_nonzero() == 5


def test_layouts_of_keys_and_queues(shim: device_shim.Shim) -> None:
    keys = torch.randn(8, 4).t()
    columns, row = torch.zeros(8, 9).t(), torch.randn(8)
    for queue, rows in ((torch.zeros(9, 8), keys), (columns, keys), (torch.zeros(9, 8), row.expand(3, 8))):
        SF.queue_update_(queue, rows, torch.tensor(7), backend="cuda")
        assert torch.equal(queue[(7 + torch.arange(len(rows))) % 9], rows)
    assert shim.ran == ["enqueue", "enqueue"]  # PyTorch writes the queue whose rows have gaps


def test_more_keys_than_the_queue_holds(shim: device_shim.Shim) -> None:
    queue, keys, position = torch.zeros(5, 3), torch.randn(12, 3), torch.tensor(4, dtype=torch.int32)
    assert SF.queue_update_(queue, keys, position, backend="cuda") is position
    assert position == 1 and shim.ran == ["enqueue"]
    for i in range(7, 12):
        assert torch.equal(queue[(4 + i) % 5], keys[i])


def test_offsets_beyond_32_bits(tmp_path: Path) -> None:
    """A queue in a sparse file has rows that are 1.3 * 2^30 numbers apart."""
    apart = 1_395_864_376
    file = np.memmap(tmp_path / "queue", np.float16, "w+", shape=(2 * apart + 8,))
    queue, keys = torch.from_numpy(file).as_strided((3, 8), (apart, 1)), torch.randn(2, 8)
    cuda.enqueue(queue, keys, torch.tensor(2), 0)
    assert torch.equal(queue[[2, 0]], keys.half())


@pytest.mark.skipif(device_shim.sanitized(), reason="This is the sanitized run.")
def test_no_access_outside_of_an_array() -> None:
    """All tests above run again under ASan and UBSan, which end the process at the first wrong access."""
    if shutil.which("g++") is None:
        pytest.skip("There is no g++ to compile the CUDA kernels for this processor.")
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    standard = subprocess.run(["g++", "-print-file-name=libstdc++.so"], capture_output=True, text=True).stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip("This g++ has no libasan.")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", __file__],
        env={
            **os.environ,
            "SSLKERNELS_SANITIZE": "1",
            "LD_PRELOAD": f"{runtime} {standard}",
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        },
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
