# SPDX-License-Identifier: Apache-2.0
"""Test ema_update_: every element is right for all dtypes, shapes, strides and momenta, and nothing else is touched."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import product

import pytest
import torch
from ema_oracle import worst
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import sslkernels.functional as SF
from sslkernels import _C
from sslkernels.ops.ema import pairs_of

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# An error may be this share of eps max(|t|, |s|). A 16-bit result is the rounded float32 average: it is off by half a
# bit of its own and no more.
ALLOWED = 0.6
SHAPES = ((), (1,), (17,), (3, 0, 2), (5, 7, 3), (70001,), (2, 300, 130))
MOMENTA = (0.0, 1e-4, 0.3, 0.5, 0.7, 0.9, 0.996, 0.99996, 1.0)


def tensors(shapes: tuple[tuple[int, ...], ...] = SHAPES, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Make values of all sizes and both signs; some are zero."""
    drawn = [torch.randn(shape) * 10 ** torch.randint(-6, 4, shape).float() for shape in shapes]
    return [torch.where(torch.rand_like(x) < 0.05, 0.0, x).to(dtype) for x in drawn]


def copies(values: list[Tensor]) -> list[Tensor]:
    return [x.clone() for x in values]


@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize(("target", "source"), list(product(DTYPES, DTYPES)), ids=str)
def test_every_element_is_within_its_rounding(
    backend: str, target: torch.dtype, source: torch.dtype, momentum: float
) -> None:
    t, s = tensors(dtype=target), tensors(dtype=source)
    before, sources = copies(t), copies(s)
    assert SF.ema_update_(t, s, momentum, backend=backend) is None
    allowed = 1.5 if target == torch.float64 else ALLOWED  # float64 has no wider dtype to compute in
    for now, old, new, kept in zip(t, before, s, sources, strict=True):
        assert now.dtype == target and torch.equal(new, kept)
        assert worst(now, old, new, momentum) <= allowed


@given(t=st.floats(width=32, allow_nan=False, allow_infinity=False), m=st.floats(0, 1), ratio=st.floats(-4, 4))
def test_numbers_that_cancel_or_nearly_agree(backend: str, t: float, m: float, ratio: float) -> None:
    target, source = torch.tensor([t, t]), torch.tensor([t * ratio, -t]).clamp(-3e38, 3e38)
    old = target.clone()
    SF.ema_update_([target], [source], m, backend=backend)
    tiny = 2.0**-149  # the smallest numbers may be off by a bit, which is no small fraction of them
    exact = m * old.double() + (1 - m) * source.double()
    allowed = ALLOWED * torch.finfo(torch.float32).eps * torch.maximum(old.abs(), source.abs()).double() + tiny
    assert ((target.double() - exact).abs() <= allowed).all()


@pytest.mark.parametrize("target", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("source", DTYPES, ids=str)
def test_a_master_moves_and_the_target_is_its_rounding(backend: str, target: torch.dtype, source: torch.dtype) -> None:
    s = tensors(dtype=source)
    masters = [x.clamp(-6e4, 6e4) for x in tensors()]
    t = [master.to(target) for master in masters]
    before = copies(masters)
    SF.ema_update_(t, s, 0.97, masters=masters, backend=backend)
    for now, master, old, new in zip(t, masters, before, s, strict=True):
        assert worst(master, old, new, 0.97) <= ALLOWED
        assert torch.equal(now, master.to(target))


@pytest.mark.parametrize("momentum", (0.0, 0.5, 0.97, 1.0))
@pytest.mark.parametrize("source", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_a_target_that_was_written_goes_on_from_there(
    backend: str, dtype: torch.dtype, source: torch.dtype, momentum: float
) -> None:
    """Every number of the dtype meets masters that round to it, just fail to, lie on the tie, or lie elsewhere."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    up = torch.nextafter(every, torch.full_like(every, torch.inf))
    share = torch.tensor([0.0, 0.25, 0.499, 0.5, 0.501, 0.75, 1.0, 3.0])[:, None]
    masters = (every.double() + share * (up.double() - every.double())).float()
    masters[-1] = torch.tensor([0.0, -0.0, torch.nan, 1e-30, 7e4, -3e38, torch.inf, 1.0]).repeat(2**13)
    t, s = every.expand(8, -1).contiguous(), torch.randn(8, 2**16).to(source)
    begin = torch.where(masters.to(dtype) == t, masters, t.float())
    expected = begin.clone()
    SF.ema_update_([expected], [s], momentum, backend=backend)
    before = t.clone()
    SF.ema_update_([t], [s], momentum, masters=[masters], backend=backend)
    if momentum == 1:
        assert torch.equal(t.view(torch.int16), before.view(torch.int16))
        return
    torch.testing.assert_close(masters, expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(t, masters.to(dtype), rtol=0, atol=0, equal_nan=True)


def test_some_targets_may_have_no_master(backend: str) -> None:
    t = [torch.ones(5, dtype=torch.bfloat16), torch.ones(5), torch.ones(3, dtype=torch.float16)]
    masters = [None, None, torch.ones(3)]
    SF.ema_update_(t, [torch.full_like(x, 3.0) for x in t], 0.5, masters=masters, backend=backend)
    assert [x.tolist() for x in t] == [[2.0] * 5, [2.0] * 5, [2.0] * 3] and masters[2].tolist() == [2.0] * 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_leaves_the_target_and_zero_copies_the_source(backend: str, dtype: torch.dtype) -> None:
    odd = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1.5]
    t = torch.tensor([a for a in odd for _ in odd], dtype=dtype)
    s = torch.tensor([b for _ in odd for b in odd], dtype=dtype)
    bits = torch.int64 if dtype == torch.float64 else torch.int32 if dtype == torch.float32 else torch.int16
    for momentum, wanted in ((1.0, t.clone()), (torch.tensor(1.0), t.clone()), (0.0, s), (torch.tensor(0.0), s)):
        now = t.clone()
        SF.ema_update_([now], [s], momentum, backend=backend)
        both = wanted.isnan() & now.isnan()
        assert torch.equal(now.view(bits)[~both], wanted.view(bits)[~both]) and both.sum() == wanted.isnan().sum()


@pytest.mark.parametrize("momentum", (0.1, 0.9))
def test_infinities_stay_infinite_and_nan_stays_nan(backend: str, momentum: float) -> None:
    inf, nan = torch.inf, torch.nan
    t = torch.tensor([inf, inf, 1.0, -inf, inf, nan, 1.0, 3e38, -3e38])
    s = torch.tensor([1.0, inf, inf, 2.0, -inf, 1.0, nan, -3e38, 3e38])
    large = (2 * momentum - 1) * 3e38
    SF.ema_update_([t], [s], momentum, backend=backend)
    expected = torch.tensor([inf, inf, inf, -inf, nan, nan, nan, large, -large])
    torch.testing.assert_close(t, expected, equal_nan=True)


ODD = (0.0, -0.0, 1.0, -2.5, torch.inf, -torch.inf, torch.nan, 3e38, -3e38, 6e4, -6e4, 1e-45, 1e-38, 1e-7)


@pytest.mark.parametrize("momentum", (0.0, 0.3, 0.5, 0.9, 0.999))
@pytest.mark.parametrize("source", DTYPES, ids=str)
@pytest.mark.parametrize("target", DTYPES, ids=str)
def test_every_pair_of_odd_numbers(backend: str, target: torch.dtype, source: torch.dtype, momentum: float) -> None:
    """The result is that of m t + (1 - m) s, and s if m is 0, for all dtypes, with or without a master, anywhere."""
    pairs = torch.tensor([[t, s] for t in ODD for s in ODD], dtype=torch.float64)
    for start, master in ((0, False), (1, False), (3, True)):
        if master and target.itemsize > 2:
            continue
        t, s = torch.zeros(len(pairs) + start, dtype=target)[start:], torch.zeros(len(pairs) + 1, dtype=source)[1:]
        t.copy_(pairs[:, 0]), s.copy_(pairs[:, 1])
        before, other = t.double().clone(), s.double().clone()
        masters = [t.float()] if master else None
        SF.ema_update_([t], [s], momentum, masters=masters, backend=backend)
        exact = other if momentum == 0 else momentum * before + (1 - momentum) * other
        wanted = (exact.float() if master else exact).to(target).double()
        kind, largest = torch.finfo(target), torch.maximum(before.abs(), other.abs())
        off = (t.double() - wanted).abs() <= kind.eps * (largest + kind.smallest_normal)
        same = (t.double() == wanted) | (wanted.isnan() & t.isnan())
        assert (same | off & wanted.isfinite()).all(), pairs[~(same | off & wanted.isfinite())]


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16), ids=str)
def test_momentum_as_a_tensor(backend: str, dtype: torch.dtype) -> None:
    t, s = tensors(), tensors()
    before = copies(t)
    momentum = torch.tensor([0.75], dtype=dtype, requires_grad=dtype == torch.float32)
    SF.ema_update_(t, s, momentum, backend=backend)
    assert all(worst(now, old, new, 0.75) <= ALLOWED for now, old, new in zip(t, before, s, strict=True))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.permute(2, 0, 1),
    "channels last": lambda x: x[None].contiguous(memory_format=torch.channels_last)[0],
    "columns": lambda x: x[..., ::2],
    "rows": lambda x: x[1:],
    "flipped": lambda x: x.flip(0).transpose(0, 1),
    "expanded": lambda x: x[:1].expand(3, -1, -1),
}


@pytest.mark.parametrize("source_layout", LAYOUTS)
@pytest.mark.parametrize("target_layout", [name for name in LAYOUTS if name != "expanded"])
def test_tensors_of_any_strides(backend: str, target_layout: str, source_layout: str) -> None:
    whole = torch.randn(4, 6, 8)
    target = LAYOUTS[target_layout](whole)
    source = LAYOUTS[source_layout](torch.randn(4, 6, 8))
    shape = [min(a, b) for a, b in zip(target.shape, source.shape, strict=True)]
    target, source = (x[tuple(slice(n) for n in shape)] for x in (target, source))
    before, others = target.clone(), whole.clone()
    SF.ema_update_([target], [source], 0.25, backend=backend)
    assert worst(target.contiguous(), before, source, 0.25) <= ALLOWED
    target.copy_(before)
    assert torch.equal(whole, others)  # nothing beside the target was touched


def test_a_master_of_a_target_with_gaps(backend: str) -> None:
    whole, master = torch.zeros(4, 6, dtype=torch.bfloat16), torch.zeros(4, 3)
    SF.ema_update_([whole[:, ::2]], [torch.ones(4, 3)], 0.75, masters=[master], backend=backend)
    assert (master == 0.25).all() and (whole[:, ::2] == 0.25).all() and (whole[:, 1::2] == 0).all()


def test_views_of_one_buffer_move_apart(backend: str) -> None:
    flat, sources = torch.zeros(100), torch.arange(100.0)
    views, others = list(flat.split([1, 30, 0, 60, 9])), list(sources.split([1, 30, 0, 60, 9]))
    SF.ema_update_(views[::-1], others[::-1], 0.5, backend=backend)
    assert torch.equal(flat, sources / 2)


def test_a_tensor_that_is_listed_twice_moves_once(backend: str) -> None:
    t, s, other = torch.zeros(9), torch.ones(9), torch.zeros(4)
    SF.ema_update_([t, other, t, t.view(3, 3)], [s, torch.ones(4), s, s.view(3, 3)], 0.5, backend=backend)
    assert (t == 0.5).all() and (other == 0.5).all()


@pytest.mark.parametrize("overlap", ("shifted", "other source", "part", "exchanged", "shifted source"))
def test_targets_that_share_memory_otherwise_are_refused(backend: str, overlap: str) -> None:
    whole, s = torch.zeros(12), torch.ones(12)
    pairs = {
        "shifted": ([whole[:8], whole[4:]], [s[:8], s[4:]]),
        "other source": ([whole, whole], [s, torch.ones(12)]),
        "part": ([whole, whole[3:5]], [s, s[3:5]]),
        "exchanged": ([whole, s], [s, whole]),
        "shifted source": ([whole[1:]], [whole[:-1]]),
    }[overlap]
    with pytest.raises(ValueError, match="share memory"):
        SF.ema_update_(*pairs, 0.5, backend=backend)
    assert (whole == 0).all()


def test_integers_and_booleans_are_copied_and_complex_numbers_averaged(backend: str) -> None:
    t = [torch.tensor(3), torch.tensor([True, False]), torch.tensor([1 + 2j]), torch.zeros(2)]
    s = [torch.tensor(8), torch.tensor([False, False]), torch.tensor([3 - 2j]), torch.ones(2)]
    SF.ema_update_(t, s, 0.5, backend=backend)
    assert (
        int(t[0]) == 8 and t[1].tolist() == [False, False] and t[2].tolist() == [2 + 0j] and t[3].tolist() == [0.5] * 2
    )


def test_nothing_to_do(backend: str) -> None:
    SF.ema_update_([], [], 0.5, backend=backend)
    empty = torch.empty(0, 3)
    SF.ema_update_([empty], [torch.empty(0, 3)], 0.5, backend=backend)
    cut = torch.zeros(7, 4)[:, :0]  # this is an empty shard
    SF.ema_update_([cut, cut.bfloat16()], [cut, cut], 0.5, masters=[None, cut.clone()], backend=backend)
    SF.ema_update_(iter([torch.ones(1)]), iter([torch.ones(1)]), 0.5, masters=iter([None]), backend=backend)


def test_a_teacher_may_share_memory_with_its_student(backend: str) -> None:
    t = torch.randn(7)
    before = t.clone()
    SF.ema_update_([t], [t], 0.9, backend=backend)
    assert torch.equal(t, before)


def test_parameters_replaced_between_calls(backend: str) -> None:
    teacher, student = nn.Linear(3, 2), nn.Linear(3, 2)
    for replace in (
        lambda: None,
        lambda: setattr(teacher, "weight", nn.Parameter(torch.zeros(2, 3))),
        lambda: setattr(teacher.weight, "data", torch.full((2, 3), 4.0)),
        lambda: student.double(),
        lambda: teacher.bfloat16(),
    ):
        replace()
        old = teacher.weight.detach().clone()
        SF.ema_update_(teacher.parameters(), student.parameters(), 0.5, backend=backend)
        assert worst(teacher.weight, old, student.weight, 0.5) <= ALLOWED


def test_autograd_notices_a_target_that_a_backward_still_needs(backend: str) -> None:
    weight, x = torch.ones(3), torch.ones(3, requires_grad=True)
    product = (weight * x).sum()
    SF.ema_update_([weight], [torch.zeros(3)], 0.5, backend=backend)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_a_target_with_gaps_that_shares_memory_moves_once(backend: str) -> None:
    whole, s = torch.zeros(12), torch.arange(12.0)
    SF.ema_update_([whole, whole[::2]], [s, s[::2]], 0.5, backend=backend)
    assert torch.equal(whole, s / 2)


def test_no_graph_is_recorded(backend: str) -> None:
    teacher, student = nn.Linear(2, 2), nn.Linear(2, 2)
    SF.ema_update_(teacher.parameters(), student.parameters(), 0.5, backend=backend)
    assert all(p.grad_fn is None and p.is_leaf and p.requires_grad for p in teacher.parameters())
    assert all(p.grad is None and p.requires_grad for p in student.parameters())


@pytest.mark.parametrize("masters", (True, False))
def test_ten_thousand_updates_of_a_bfloat16_teacher(backend: str, masters: bool) -> None:
    """With a master the teacher drifts as in float32; without one it stands still where updates are small."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(64, generator=generator)
    exact = torch.full((64,), 2.0, dtype=torch.float64)
    single, master = torch.full((64,), 2.0), torch.full((64,), 2.0)
    teacher = master.bfloat16()
    for _ in range(10_000):
        student = student + 0.01 * torch.randn(64, generator=generator)
        exact = 0.999 * exact + 0.001 * student.double()
        SF.ema_update_([single], [student], 0.999, backend=backend)
        SF.ema_update_([teacher], [student], 0.999, masters=[master] if masters else None, backend=backend)
    drift = (single - exact).abs().max().item()
    assert drift < 2e-5
    if masters:
        assert torch.equal(master, single)
        assert torch.equal(teacher, single.bfloat16())
    else:
        assert (teacher - exact).abs().max().item() > 0.5


def test_same_bits_from_run_to_run_and_from_one_thread_to_many(
    backend: str, set_threads: Callable[[int], None]
) -> None:
    t, s = tensors(), tensors()
    results = []
    for threads in (1, 2, 3, 2):
        set_threads(threads)
        now = copies(t)
        SF.ema_update_(now, s, 0.9, backend=backend)
        results.append(now)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_the_table_says_what_the_tensors_are() -> None:
    t, s = torch.zeros(6, 2), torch.zeros(6, 2, dtype=torch.bfloat16)
    m, h = torch.zeros(3), torch.zeros(3, dtype=torch.float16)
    table = torch.frombuffer(
        bytearray(_C.ema_table([t, h], [s, m], [torch.empty(0), m], Tensor, nn.Parameter)), dtype=torch.int64
    )
    rows = {tuple(row) for row in table.view(-1, 5).tolist()}
    assert rows == {
        (t.data_ptr(), s.data_ptr(), 0, 12, 0 + 256 * 2),
        (h.data_ptr(), m.data_ptr(), m.data_ptr(), 3, 3 + 256 * 0),
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda t: setattr(t, "data", torch.randn(4, 3)),
        lambda t: setattr(t, "data", torch.randn(4, 3, dtype=torch.float64)),
        lambda t: setattr(t, "data", torch.randn(4, 3, dtype=torch.bfloat16)),
        lambda t: setattr(t, "data", t.data.t().contiguous().t()),
        lambda t: t.set_(torch.randn(4, 3)),
        lambda t: t.resize_(2, 3),
    ],
    ids=("data", "float64", "bfloat16", "strides", "set_", "resize_"),
)
@pytest.mark.parametrize("place", (0, 2), ids=("first", "last"))
def test_a_list_whose_tensors_have_other_memory_now(backend: str, change: Callable[[Tensor], None], place: int) -> None:
    """A table of the same list is kept from call to call, and what it says must not be older than the tensors."""
    targets, sources = ([torch.randn(4, 3) for _ in range(3)] for _ in range(2))
    SF.ema_update_(targets, sources, 0.9, backend=backend)
    for tensors in (targets, sources):
        with torch.no_grad():
            change(tensors[place])
        if targets[place].shape != sources[place].shape:
            with pytest.raises(ValueError, match="shape"):
                SF.ema_update_(targets, sources, 0.5, backend=backend)
            continue
        want = [0.5 * t.double() + 0.5 * s.double() for t, s in zip(targets, sources, strict=True)]
        SF.ema_update_(targets, sources, 0.5, backend=backend)
        for got, exact in zip(targets, want, strict=True):
            close = 2 * torch.finfo(got.dtype).eps
            torch.testing.assert_close(got.double(), exact, rtol=close, atol=close)


def test_a_list_whose_targets_come_to_share_memory(backend: str) -> None:
    targets, sources = ([torch.randn(6) for _ in range(2)] for _ in range(2))
    SF.ema_update_(targets, sources, 0.9, backend=backend)
    targets[1].data = targets[0].data[2:]
    sources[1].data = sources[1].data[:4]
    for _ in range(2):
        with pytest.raises(ValueError, match="share memory"):
            SF.ema_update_(targets, sources, 0.9, backend=backend)


def test_tables_are_kept_for_a_few_lists_only() -> None:
    lists = [[torch.zeros(3)] for _ in range(12)]
    tables = [pairs_of(ours, ours, []).table for ours in lists]
    assert pairs_of(lists[-1], lists[-1], []).table is tables[-1]
    assert pairs_of(lists[0], lists[0], []).table is not tables[0]
    assert pairs_of(lists[0], lists[0], []).table == tables[0]


@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.int32), torch.zeros(2, 3).to_sparse(), torch.zeros(3, 2).T,
        torch.zeros(2, 3, dtype=torch.complex64), torch.zeros(2, 3, dtype=torch.float8_e4m3fn),
        torch.zeros(2, 3, device="meta"), "tensor", None,
    ],
    ids=lambda x: str(getattr(x, "dtype", x)),
)  # fmt: skip
def test_what_is_not_ordinary_has_no_table(other: object) -> None:
    t = torch.zeros(2, 3)
    assert pairs_of([t], [other], []) is None and pairs_of([other], [t], []) is None
    assert pairs_of([t.bfloat16()], [t], [other]) is None or other is None


def test_quiet(backend: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SF.ema_update_(tensors(), tensors(), 0.5, backend=backend)
