# SPDX-License-Identifier: Apache-2.0
"""Check the Triton backend's numbers with Triton's interpreter: this file runs itself again with TRITON_INTERPRET=1.

It tests float32, float16 and bfloat16; the interpreter truncates to bfloat16 where a GPU rounds.
test_triton_compile.py compiles the same kernels.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from interpreted import INTERPRETED, run_interpreted
from torch import Tensor

if not INTERPRETED:

    @pytest.mark.slow
    def test_interpreted(tmp_path: Path) -> None:
        run_interpreted(__file__, "not slow and not gpu", tmp_path)

else:
    import sslkernels as sk
    import sslkernels.functional as SF
    from sslkernels.ops import ema
    from sslkernels.ops.ema import tables, triton
    from sslkernels.ops.triton_launch import Area

    DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    HALVES = (torch.bfloat16, torch.float16)
    # An error may be this share of max(|t|, |s|). The interpreter cuts bits of bfloat16 off, so a whole bit is allowed.
    BOUND = {torch.float32: 0.6 * 2.0**-23, torch.float16: 0.6 * 2.0**-10, torch.bfloat16: 1.1 * 2.0**-7}
    SMALLEST = {torch.float32: 2.0**-149, torch.float16: 2.0**-24, torch.bfloat16: 2.0**-126}
    MOMENTA = (0.3, 0.5, 0.996, 0.9999999)
    # These counts are around a line of 16 elements and a chunk of 64.
    COUNTS = (1, 15, 16, 17, 33, 63, 64, 65, 128, 200)
    GUARD, FRAME = 16, 77.0

    every_pair = pytest.mark.parametrize(
        ("target", "source"), tuple(product(DTYPES.values(), repeat=2)), ids=map("-".join, product(DTYPES, repeat=2))
    )
    as_number_and_tensor = pytest.mark.parametrize("in_tensor", (False, True), ids=("number", "tensor"))

    @pytest.fixture(autouse=True)
    def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
        """Make chunks and tiles so small that small problems cross many."""
        monkeypatch.setattr(triton, "UPDATE", Area(64, 4))
        monkeypatch.setattr(triton, "ENQUEUE", Area(64, 4))
        monkeypatch.setattr(triton, "WIDEST", 16)
        monkeypatch.setattr(tables, "_recent", OrderedDict())

    # --- problems, and what is computed, in float64 -----------------------------------------------------------------

    class Framed:
        """Hold a tensor in the middle of a larger one, ``shift`` elements off an address that is a multiple of 16."""

        def __init__(self, values: Tensor, dtype: torch.dtype, shift: int = 0) -> None:
            count = values.numel()
            self.room = torch.full((count + shift + 2 * GUARD,), FRAME, dtype=dtype)
            self.tensor = self.room[GUARD + shift :][:count].view(values.shape)
            self.tensor.copy_(values)
            assert (self.tensor.data_ptr() % 16 == 0) == (shift == 0)
            self.before = self.begin = self.tensor.double().numpy().copy()

        def is_framed(self) -> bool:
            inside = torch.zeros(self.room.numel(), dtype=torch.bool)
            first = (self.tensor.data_ptr() - self.room.data_ptr()) // self.room.itemsize
            inside[first : first + self.tensor.numel()] = True
            return bool((self.room[~inside] == FRAME).all())

    def run(
        targets: list[Framed], sources: list[Framed], masters: list[Framed], momentum: float, in_tensor: bool
    ) -> None:
        """Run an update; if the momentum is a tensor, the number beside it is a wrong one."""
        tensors = [[framed.tensor for framed in some] for some in (targets, sources, masters)]
        pairs = ema.pairs_of(*tensors)
        assert pairs is not None
        at = torch.tensor(momentum, dtype=torch.float64) if in_tensor else None
        triton.update(pairs, 0.25 if in_tensor else momentum, at)

    def moved(t: np.ndarray, s: np.ndarray, momentum: float) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return t if momentum == 1 else s if momentum == 0 else momentum * t + (1 - momentum) * s

    def check(target: Framed, source: Framed, master: Framed | None, momentum: float) -> None:
        """Check that target or master is near its formula, and that nothing else was written."""
        kept = target if master is None else master
        want = moved(kept.begin, source.before, momentum)
        dtype = kept.tensor.dtype
        near = BOUND[dtype] * np.maximum(abs(kept.begin), abs(source.before)) + SMALLEST[dtype]
        assert (abs(kept.tensor.double().numpy() - want) <= near).all()
        assert np.array_equal(source.tensor.double().numpy(), source.before)
        if master is not None:
            check_rounded(target.tensor, master.tensor)
        assert all(framed.is_framed() for framed in (target, source, kept))

    def check_rounded(got: Tensor, exact: Tensor) -> None:
        if got.dtype == torch.bfloat16:
            assert ((got.double() - exact.double()).abs() <= 2.0**-7 * exact.double().abs() + 2.0**-126).all()
        else:
            assert torch.equal(got, exact.to(got.dtype))

    def problem(
        target: torch.dtype, source: torch.dtype, master: bool, count: int, shift: int = 0
    ) -> tuple[Framed, Framed, Framed | None]:
        """Make a target, a source and perhaps a master.

        The master is a little more than the target, and becomes the target if it is rounded or cut off. Every fifth
        target was written by somebody: there the master is another number, and the target counts.
        """
        t, s = torch.randn(2, count)
        framed, held = Framed(t, target, shift), None
        if master:
            exact, written = framed.tensor.float(), torch.arange(count) % 5 == 4
            held = Framed(torch.where(written, exact + 1, exact * (1 + 2.0**-13)), torch.float32, shift)
            held.begin = np.where(written.numpy(), framed.before, held.before)
        return framed, Framed(s, source, shift), held

    # --- update -----------------------------------------------------------------------------------------------------

    @as_number_and_tensor
    @pytest.mark.parametrize("master", (False, True), ids=("", "master"))
    @every_pair
    def test_update(target: torch.dtype, source: torch.dtype, master: bool, in_tensor: bool) -> None:
        """Counts are around a line and a chunk; some addresses are multiples of 16, and others not."""
        if master and target not in HALVES:
            pytest.skip("A master stands beside 16 bits.")
        for momentum in MOMENTA:
            cases = [problem(target, source, master, count, shift) for count in COUNTS for shift in (0, 1)]
            targets, sources, masters = (list(some) for some in zip(*cases, strict=True))
            run(targets, sources, masters if master else [], momentum, in_tensor)
            for case in cases:
                check(*case, momentum)

    @as_number_and_tensor
    def test_kinds_together(in_tensor: bool) -> None:
        """Each kind takes one launch, in whatever order they come."""
        kinds = [
            (target, source, master, shift)
            for target, source, master, shift in product(DTYPES.values(), DTYPES.values(), (False, True), (0, 1))
            if target in HALVES or not master
        ]
        cases = [
            problem(target, source, master, count, shift)
            for count in (70, 3)
            for target, source, master, shift in kinds
        ]
        nothing = Framed(torch.empty(0), torch.float32)
        masters = [nothing if master is None else master for *_, master in cases]
        run([t for t, *_ in cases], [s for _, s, _ in cases], masters, 0.7, in_tensor)
        for case in cases:
            check(*case, 0.7)
        ((_, launches),) = tables._recent.values()
        assert len(launches) == len(kinds) == 30

    @pytest.mark.parametrize("momentum", (0.3, 0.4999999, 0.5, 0.9))
    def test_error_of_many(momentum: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error is within bounds for numbers of all sizes, on either side of zero."""
        monkeypatch.setattr(triton, "UPDATE", Area(4096, 4))
        t, s = torch.randn(2, 100_000) * 10 ** (2 * torch.randn(2, 100_000))
        s[::2] = t[::2] * (1 + torch.randn(50_000))
        case = Framed(t, torch.float32), Framed(s, torch.float32), None
        run([case[0]], [case[1]], [], momentum, False)
        check(*case, momentum)

    # --- momenta of 0 and 1, infinities -----------------------------------------------------------------------------

    ODD = (0.0, -0.0, 1.0, -2.5, torch.inf, -torch.inf, torch.nan, 2.0**-13, -6e4)

    def bits(x: Tensor) -> Tensor:
        """Return the bits of numbers, with one pattern for all NaN and two for the zeros."""
        return torch.where(x.isnan(), torch.full_like(x, torch.nan), x).view(
            torch.int16 if x.itemsize == 2 else torch.int32
        )

    @as_number_and_tensor
    @every_pair
    def test_zero_copies_and_one_leaves(target: torch.dtype, source: torch.dtype, in_tensor: bool) -> None:
        t, s = torch.tensor(list(product(ODD, repeat=2))).T
        for momentum in (0.0, 1.0):
            ours, theirs = Framed(t, target), Framed(s, source)
            before = ours.tensor.clone()
            run([ours], [theirs], [], momentum, in_tensor)
            if momentum == 1:
                assert torch.equal(bits(ours.tensor), bits(before))
            elif target == torch.bfloat16 and source != target:
                check_rounded(ours.tensor[s.isfinite()], theirs.tensor[s.isfinite()])
            else:
                assert torch.equal(bits(ours.tensor), bits(theirs.tensor.to(target)))

    def test_one_leaves_target_and_master() -> None:
        """A momentum of 1 leaves both, even if the target is no rounding of the master."""
        for in_tensor in (False, True):
            case = problem(torch.float16, torch.float32, True, 70)
            run([case[0]], [case[1]], [case[2]], 1.0, in_tensor)
            for framed in case:
                assert np.array_equal(framed.tensor.double().numpy(), framed.before)

    @as_number_and_tensor
    @pytest.mark.parametrize("momentum", (0.3, 0.996))
    def test_infinities(momentum: float, in_tensor: bool) -> None:
        """Infinities are on one side, on both, or of opposite signs; some finite numbers' difference overflows."""
        odd = (*ODD, 3.4e38, -3.4e38)
        t, s = torch.tensor(list(product(odd, repeat=2))).T
        ours, theirs = Framed(t, torch.float32), Framed(s, torch.float32)
        run([ours], [theirs], [], momentum, in_tensor)
        want = moved(ours.before, theirs.before, momentum)
        size = np.maximum(abs(ours.before), abs(theirs.before))
        got = ours.tensor.double().numpy()
        odd_ones = ~np.isfinite(want)
        assert np.array_equal(got[odd_ones], want[odd_ones], equal_nan=True)
        assert (abs(got - want)[~odd_ones] <= 2.0**-23 * size[~odd_ones] + 2.0**-149).all()

    def test_tiny_momentum() -> None:
        """The momentum is so small that float32 takes it for 0."""
        ours, theirs = Framed(torch.tensor([1.0, -1.0, torch.inf]), torch.float32), Framed(torch.ones(3), torch.float32)
        run([ours], [theirs], [], 1e-50, True)
        assert ours.tensor.tolist() == [1.0] * 3

    # --- tables -----------------------------------------------------------------------------------------------------

    def test_tables_are_kept_by_address_size_and_dtype() -> None:
        room, source = torch.zeros(300), torch.ones(300)

        def update(start: int, count: int, dtype: torch.dtype = torch.float32) -> int:
            views = room.view(dtype)[start:][:count], source.view(dtype)[start:][:count]
            SF.ema_update_(views[:1], views[1:], 0.5, backend="triton")
            return len(tables._recent)

        assert [update(0, 100), update(0, 100)] == [1, 1]
        assert [update(4, 100), update(0, 90), update(0, 100, torch.float16), update(0, 100)] == [2, 3, 4, 4]

    # --- queue ------------------------------------------------------------------------------------------------------

    def check_queue(
        queue: Tensor, keys: Tensor, position: int, offset: int, integer: torch.dtype | None = torch.int64
    ) -> None:
        """Write keys from a position in a tensor, or from the offset alone, and compare."""
        want = queue.double().numpy().copy()
        for i, key in enumerate(keys.double().numpy()):
            want[(position + offset + i) % len(want)] = key
        if integer is None:
            triton.enqueue(queue, keys, None, position + offset)
        else:
            triton.enqueue(queue, keys, torch.tensor(position, dtype=integer), offset)
        check_rounded(queue, torch.from_numpy(want).float())

    @every_pair
    def test_queue(target: torch.dtype, source: torch.dtype) -> None:
        """Keys wrap around or not, fill some or all rows, and may have more channels than a tile."""
        for size, count, channels, position in (
            (7, 3, 5, 2), (7, 4, 16, 6), (9, 9, 33, 4), (1, 1, 1, 0), (40, 21, 20, 30), (5, 5, 1, 0),
        ):  # fmt: skip
            queue = Framed(torch.randn(size, channels), target)
            check_queue(queue.tensor, torch.randn(count, channels).to(source), position, 0)
            assert queue.is_framed()

    @pytest.mark.parametrize("integer", (torch.uint8, torch.int16, torch.int32, torch.int64, None), ids=str)
    def test_positions_and_offsets(integer: torch.dtype | None) -> None:
        for position, offset in ((0, 0), (6, 1), (5, 20), (200 if integer != torch.int16 else 3000, 3)):
            check_queue(torch.randn(7, 5), torch.randn(4, 5), position, offset, integer)
        for offset in (2**31 - 2, 2**33 + 5, 2**62):
            check_queue(torch.randn(7, 5), torch.randn(4, 5), 1, offset, integer)
        if integer is None or integer.is_signed:
            check_queue(torch.randn(7, 5), torch.randn(4, 5), -3, 0, integer)
            check_queue(torch.randn(7, 5), torch.randn(4, 5), -100, 3, integer)

    def test_queues_and_keys_in_larger_tensors() -> None:
        """Rows lie apart or on top of each other, columns lie apart, or the start is odd; gaps stay untouched."""
        room = torch.randn(30, 40)
        for keys in (room[::6, 3:8], room[:1, :5].expand(5, 5), room[:5, 1:11:2], room[:5, :5].T, room[:0, :5]):
            ring = torch.full((14, 22), FRAME)
            for queue in (ring[::2, 3:8], ring[1::2, 10:20:2], ring.T[:7, 7:12]):
                before, want = ring.clone(), queue.clone()
                check_queue(queue, keys, 6, 0)
                want.copy_(queue)
                queue.fill_(FRAME)
                assert torch.equal(ring == FRAME, before == FRAME) and (ring == FRAME).all()
                queue.copy_(want)
                ring.fill_(FRAME)

    # --- by their public names --------------------------------------------------------------------------------------

    def test_ema_update() -> None:
        """A tensor that is listed twice moves once; scalars, strided tensors and integers move too."""
        twice = torch.randn(5)
        targets = [twice, twice, torch.randn(()), torch.randn(6, 8)[:, ::2], torch.randn(3, 4).T]
        sources = [torch.zeros(5), torch.zeros(()), torch.randn(6, 4), torch.randn(4, 3)]
        sources.insert(1, sources[0])
        want = [moved(t.double().numpy(), s.double().numpy(), 0.9) for t, s in zip(targets, sources, strict=True)]
        SF.ema_update_([*targets, torch.tensor(3)], [*sources, torch.tensor(4)], 0.9, backend="triton")
        for got, exact in zip(targets, want, strict=True):
            np.testing.assert_allclose(got.double().numpy(), exact, rtol=0, atol=1e-6)

    def test_empty_tensors() -> None:
        t, s = torch.zeros(3), torch.ones(3)
        SF.ema_update_(
            [torch.empty(0), t, torch.empty(4, 0)], [torch.empty(0), s, torch.empty(4, 0)], 0.5, backend="triton"
        )
        assert t.tolist() == [0.5] * 3
        SF.ema_update_([torch.empty(0)], [torch.empty(0)], 0.5, backend="triton")

    def test_teacher_and_queue() -> None:
        model = torch.nn.Linear(9, 9).half()
        teacher = sk.EMA(model, 0.75, master=True, backend="triton")
        before = teacher.module.weight.float()
        with torch.no_grad():
            model.weight.add_(1)
        teacher.update(model)
        assert torch.equal(teacher.module.weight, (before + 0.25 * (model.weight.float() - before)).half())

        queue, keys = sk.MemoryQueue(5, 3, backend="triton"), torch.randn(8, 3)
        queue.enqueue(keys)
        queue.enqueue(keys[:1])
        assert torch.equal(queue.keys, torch.stack([keys[i] for i in (5, 6, 7, 0, 4)]))
