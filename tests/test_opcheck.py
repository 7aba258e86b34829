# SPDX-License-Identifier: Apache-2.0
"""Run torch.library.opcheck on every registered op, with every option that changes its path."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import sslkernels.functional  # noqa: F401  registers every op

OPS = torch.ops.sslkernels
DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.float16)
# These checks compile nothing, and take a twentieth of the time of all.
UNCOMPILED = ("test_schema", "test_autograd_registration", "test_faketensor")
Calls = dict[str, list[tuple[Any, ...]]]
BOTH = (False, True)


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def similarity(backend: str, dtype: torch.dtype) -> Calls:
    x, y = torch.randn(5, 4).to(dtype), torch.randn(3, 4).to(dtype)
    sums = wide(dtype)
    scale, rows, columns = torch.tensor(0.7, dtype=sums), torch.randn(5, dtype=sums), torch.randn(3, dtype=sums)
    lists = (None, torch.tensor([[0], [2], [-1], [1], [1]]), torch.tensor([[0, 1, 1]]).expand(5, 3))
    whole = (0, 0, 0, 0, None, None, None, True)  # no diagonals, no bias, no labels
    forward, backward = [], []
    for keys, exclude, by_column in itertools.product((y, None), lists, BOTH):
        for attend in BOTH if keys is y else (False,):
            forward.append((x, keys, scale, exclude, *whole, by_column, attend, backend))
        if exclude is None and keys is None:
            views = (int(by_column), 2, 0, 2, *whole[4:])
            forward.append((x[:4], x if by_column else None, scale, None, *views, by_column, False, backend))
        lse, other, _ = OPS.similarity_forward(x, keys, scale, exclude, *whole, by_column, False, backend)
        of_rows = (lse, rows)
        of_columns = (other, columns) if by_column and keys is y else (lse, rows) if keys is None else (None, None)
        if by_column and keys is None:
            continue  # the caller passes x on both sides
        for need_x, need_y in ((True, False), (True, True), (False, True)) if keys is y else ((True, False),):
            backward.append((x, keys, scale, exclude, *whole, *of_rows, *of_columns, need_x, need_y, False, backend))
        if by_column:
            backward.append((x, keys, scale, exclude, *whole, None, None, *of_columns, True, True, False, backend))
    labels = torch.tensor([0, 1, 0, 2, 1])
    for bias, sides, alike in itertools.product((None, columns), ((None, None), (labels, labels[:3])), BOTH):
        rules = (0, 2, 1, 2, bias, *sides, alike)
        forward.append((x, y, scale, None, *rules, True, False, backend))
        lse, other, _ = OPS.similarity_forward(x, y, scale, None, *rules, True, False, backend)
        needs = (True, False, False), (False, False, True), (True, True, True)
        for need in needs if bias is not None else needs[:1]:
            backward.append((x, y, scale, None, *rules, lse, rows, other, columns, *need, backend))
    moved, norms = torch.randn(5, 4, dtype=sums), torch.rand(5, dtype=sums)
    losses = itertools.product(("itself", "both", "rows", "queue"), BOTH, BOTH, itertools.product(BOTH, repeat=4))
    return {
        "similarity_forward": forward,
        "similarity_backward": backward,
        "similarity_weigh": [(x, x.flip(0), scale, rows, other, 0.2, backend) for other in (None, rows.flip(0))],
        "similarity_finish": [
            (x, moved, divisors, other, moved_y, divisors, scale, pull, need_x, other is not None, need_x, backend)
            for divisors in (None, norms)
            for other, moved_y, pull in ((None, None, None), (x.flip(0), moved.flip(0), rows), (x.flip(0), None, rows))
            for need_x in BOTH
        ],
        "similarity_contrast": [
            (x, x.flip(0), y if against == "queue" else None, scale, against, unit, not (needs[1] or needs[2]), dtype,
             mean, *needs, backend)
            for against, unit, mean, needs in losses
            if against == "queue" or not needs[2]
        ],
    }  # fmt: skip


def attention(backend: str, dtype: torch.dtype) -> Calls:
    query, keys, values = (torch.randn(shape).to(dtype) for shape in ((5, 4), (3, 4), (3, 2)))
    scale, bias = torch.tensor(0.7, dtype=wide(dtype)), torch.randn(3, dtype=wide(dtype))
    lists, grad = (None, torch.tensor([[0], [2], [-1], [1], [1]])), torch.randn(5, 2, dtype=wide(dtype))
    given = [(query, keys, values, scale, *more) for more in itertools.product((None, bias), lists)]
    sums = [OPS.attention_forward(*inputs, backend) for inputs in given]
    return {
        "attention_forward": [(*inputs, backend) for inputs in given],
        "attention_backward": [
            (*inputs, *sums[place], grad, *wanted, backend)
            for place, inputs in enumerate(given) for wanted in itertools.product(BOTH, repeat=4)
        ],
    }  # fmt: skip


def of_rows(backend: str, dtype: torch.dtype) -> Calls:
    x, y, sums = torch.randn(5, 4).to(dtype), torch.randn(3, 4).to(dtype), wide(dtype)
    rows, columns, norms = torch.randn(5, dtype=sums), torch.randn(3, dtype=sums), torch.rand(2, 5, dtype=sums)
    needs = ((True, True), (True, False), (False, True))
    return {
        "rows_unit_forward": [
            (x, other, out, backend) for other in (None, y) for out in {dtype, torch.bfloat16, torch.float16}
        ],
        "rows_unit_backward": [(x, rows.abs(), x.flip(0), n0, out, backend) for n0, out in ((3, dtype), (5, sums))],
        "rows_dot_forward": [(x, None, 2, backend), (x, None, 0, backend), (y, x, 0, backend), (y, x, 4, backend)],
        "rows_dot_backward": [
            (x, None, 2, rows, True, False, backend),
            *[(y, x, 1, columns, *need, backend) for need in needs],
            *[(x, x.flip(0), 1, rows, *need, backend) for need in needs],
        ],
        "rows_cosine_forward": [(x, x.flip(0), 1e-8, backend), (y, y, 10.0, backend), (x[:0], x[:0], 1.0, backend)],
        "rows_cosine_backward": [
            (x, x.flip(0), 0.5, rows, norms, grad, *need, backend)
            for need in needs for grad in (rows, rows[:1].expand(5))
        ],
        "rows_cosine_loss": [(x, x.flip(0), 0.5, 2, 2, 3, 7, *need, backend) for need in (*needs, (False, False))],
    }  # fmt: skip


def tokens(backend: str, dtype: torch.dtype) -> Calls:
    sums = wide(dtype)
    x, fill, pos = torch.randn(2, 5, 3).to(dtype), torch.randn(3, dtype=sums), torch.randn(7, 3, dtype=sums)
    index, ids = torch.tensor([[[0, 4, 4], [1, 2, 0]]]), torch.rand(1, 2, 6).argsort(dim=2).int()
    rows, weights = x[:, 1:], torch.tensor([[1, 0, 2, 0], [1, 0.5, 0, 1]], dtype=sums)
    norms, betas = ("none", "mae", "layer"), (0.0, 0.5)
    return {
        "tokens_gather": [
            (x, index, None, None, 0, False, dtype, backend),
            (x, index, None, pos[:5], 0, False, sums, backend),
            (x, ids, fill, None, 1, True, dtype, backend),
            (x, ids, fill, pos, 1, True, sums, backend),
            (x, index.expand(3, 2, 3), None, None, 0, False, dtype, backend),
        ],
        "tokens_collect": [
            (x[:, :3], index, 6, None, 0, False, dtype, backend),
            (x[:, :3], index.int(), 6, fill, 0, True, dtype, backend),
            (x[:, :4], index, 6, None, 1, False, sums, backend),
            (x.repeat(2, 1, 1)[:, :3], index.expand(2, 2, 3), 6, None, 0, False, dtype, backend),
        ],
        "tokens_sums": [(x[:, :3], index, 5, backend), (x[:, :3], index - 1, 1, backend)],
        "tokens_ranks": [(torch.rand(2, 7), keep, backend) for keep in (0, 3, 7)],
        "tokens_patches": [(torch.randn(2, 3, 4, 4).to(dtype), index[0] % 4, 2, backend)],
        "tokens_masked_error": [
            (rows, target, weights, norm, beta, grad, need, backend)
            for norm in norms for beta in betas for target in (rows.flip(0), rows.flip(0).to(sums))
            for grad, need in ((None, False), (None, True), (weights[0, 2], True))
        ],
    }  # fmt: skip


def correlation(backend: str, dtype: torch.dtype) -> Calls:
    sums = wide(dtype)
    z0, z1 = torch.randn(5, 4).to(dtype), torch.randn(5, 4).to(dtype)
    mean, scale, own = torch.randn(3, 2, 4, dtype=sums).unbind()
    means = torch.stack([mean, 1e-8 * mean], 1)
    gram, c, pull = torch.randn(2, 5, 5, dtype=sums), torch.randn(1, 4, 4, dtype=sums), own[0, 0].clone()
    return {
        "correlation_moments": [(z0, other, centre, backend) for other in (None, z1) for centre in BOTH],
        "correlation_matrix": [
            (z0, z1, means, scale, True, "samples", sums, 0, 5, backend),
            (z0, z1, None, None, False, "samples", sums, 1, 3, backend),
            (z0, z1, means, scale, True, "features", dtype, 0, 5, backend),
            (z0, None, means[:1], scale[:1], False, "features", torch.bfloat16, 0, 5, backend),
        ],
        "correlation_energies": [
            (gram, gram, True, "samples", backend),
            (gram, gram, False, "samples", backend),
            (c, c + 1, True, "features", backend),
            (c, c, False, "features", backend),
        ],
        "correlation_loss": [
            (z0, z1, 0.1, False, False, "cross", "features", dtype, 1.0, 0.0, 0.3, 0, 0.0, 0.0, True, True, backend),
            (z0, z1, 0.1, True, True, "cross", "samples", sums, 1.0, 0.5, 0.3, 0, 0.2, 0.1, True, False, backend),
            (z0, z1, None, False, False, "each", "features", dtype, 0.0, 1.0, 0.3, 1, 0.2, 0.1, False, True, backend),
            (z0, z1, 0.0, False, True, "each", "samples", sums, 0.0, 1.0, 0.3, 2, 0.2, 0.1, False, False, backend),
            (z0, None, None, False, False, "none", "samples", sums, 0.0, 0.0, 0.0, 0, 1.0, 0.1, True, False, backend),
        ],
        "correlation_backward": [
            (z0, z1, means, scale, gram, True, "samples", sums, 0, 5, own, own, mean, pull, scale, True, True,
             dtype, backend),
            (z0, z1, means, scale, c, True, "features", dtype, 0, 5, own, own, mean, pull, None, True, False,
             sums, backend),
            (z0, None, means[:1], scale[:1], c, False, "features", dtype, 0, 5, own[:1], own[:1], None, pull, None,
             True, False, dtype, backend),
            (z0, z1, means, scale, None, False, "samples", sums, 0, 5, None, own, None, pull, None, False, True,
             sums, backend),
            (z0, z1, None, None, gram[:, :3], True, "samples", sums, 1, 3, None, None, None, None, None, True,
             True, sums, backend),
        ],
    }  # fmt: skip


def sigreg(backend: str, dtype: torch.dtype) -> Calls:
    sums = wide(dtype)
    p, grad = torch.randn(2, 4, 3, dtype=sums), torch.randn(2, 2, 5, 3, dtype=sums)
    views, lines = torch.randn(3, 5, 4).to(dtype), torch.randn(4, 6).to(dtype)
    return {
        "sigreg_loss": [
            (views, lines, products, 0.3, 4, centred, 0.4, need, backend)
            for products in {dtype, sums} for centred in (0, 2) for need in BOTH
        ],
        "sigreg_sums": [(p, 0.3, knots, backend) for knots in (2, 5)],
        "sigreg_adjoint": [(p, grad, 0.3, backend)],
    }  # fmt: skip


def sampled(backend: str, dtype: torch.dtype) -> Calls:
    sums = wide(dtype)
    x, y, scale = torch.randn(5, 4).to(dtype), torch.randn(3, 4).to(dtype), torch.tensor(0.7, dtype=sums)
    index = torch.tensor([[0, 2], [-1, 1], [1, 1], [2, -1], [0, 0]])
    grad = torch.randn(5, 2, dtype=sums)
    return {
        "sampled_forward": [(x, y, places, scale, backend) for places in (index, index.int(), index[:, :0])],
        "sampled_backward": [
            (x, y, index, scale, grad, *needs, backend)
            for needs in ((True,) * 3, (True, False, False), (False, True, True))
        ],
    }


def prototypes(backend: str, dtype: torch.dtype) -> Calls:
    sums = wide(dtype)
    student, weight, teacher, targets = (torch.randn(size).to(dtype) for size in ((5, 4), (7, 4), (3, 2), (7, 2)))
    scale, bias, index = (
        torch.tensor(2.0, dtype=sums),
        torch.randn(7, dtype=sums),
        torch.tensor([[0], [2], [-1], [1], [1]]),
    )
    share, counts, table = (
        torch.rand(5, 1, dtype=sums) * (index >= 0),
        torch.rand(5, dtype=sums),
        torch.randn(5, 7, dtype=sums),
    )
    return {
        "prototypes_compare": [
            (student, weight, teacher, targets, scale, scale, added, index, share, *needs, backend)
            for added, needs in ((bias, (True,) * 3), (None, (True, False, False)), (None, (False, True, True)))
        ],
        "prototypes_products": [(student, weight, backend)],
        "prototypes_columns": [
            (student, weight, scale, often, added, kept, backend)
            for often, added, kept in ((None, None, None), (counts, bias, None), (None, bias, table))
        ],
    }


def sigmoid(backend: str, dtype: torch.dtype) -> Calls:
    sums = wide(dtype)
    x, y = torch.randn(5, 4).to(dtype), torch.randn(3, 4).to(dtype)
    scale, bias, weights = torch.tensor(2.0, dtype=sums), torch.tensor(-1.0, dtype=sums), torch.randn(5, dtype=sums)
    all_, some, none = (True,) * 4, (False, True, True, False), (False,) * 4
    return {
        "sigmoid_forward": [(x, other, scale, bias, False, backend) for other in (None, y)],
        "sigmoid_backward": [
            (x, other, scale, bias, False, weights, *needs, backend)
            for other, needs in ((y, all_), (y, some), (None, (True, False, True, True)))
        ],
        "sigmoid_loss": [
            (x, other, scale, bias, paired, 0.25, *needs, backend)
            for other, paired in ((y, False), (x.flip(1), True)) for needs in (all_, some, none)
        ],
    }  # fmt: skip


def neighbours(backend: str, dtype: torch.dtype) -> Calls:
    x, y, bias = torch.randn(2, 5, 4).to(dtype), torch.randn(2, 6, 4).to(dtype), torch.randn(2, 6, dtype=wide(dtype))
    exclude = torch.randint(-1, 5, (2, 5, 2))
    return {
        "neighbours_topk": [
            (x, keys, added, left_out, k, metric, backend)
            for keys, added, metric in ((y, bias, "dot"), (y, None, "cosine"), (None, None, "euclidean"))
            for left_out, k in ((None, 1), (exclude, 3))
        ]
    }


def moved(backend: str, dtype: torch.dtype) -> Calls:
    t, s = [torch.randn(3, 2).to(dtype), torch.randn(5).to(dtype)], [torch.randn(3, 2), torch.randn(5)]
    masters, queue, keys = [x.float() for x in t], torch.zeros(4, 2).to(dtype), torch.randn(3, 2)
    twins = masters if dtype in (torch.bfloat16, torch.float16) else []
    at = torch.tensor(0.9, dtype=torch.float64)
    return {
        "ema_update": [
            (t, s, held, momentum, tensor, backend)
            for held in ([], twins) for momentum, tensor in ((0.9, None), (0.0, None), (1.0, None), (0.0, at))
        ],
        "ema_enqueue": [(queue, keys, None, 2, backend), (queue, keys, torch.tensor(3), 0, backend)],
    }  # fmt: skip


def every_call(backend: str, dtype: torch.dtype) -> Calls:
    families = (
        similarity,
        attention,
        of_rows,
        tokens,
        correlation,
        sigmoid,
        sigreg,
        sampled,
        prototypes,
        neighbours,
        moved,
    )
    return {name: calls for family in families for name, calls in family(backend, dtype).items()}


def test_every_registered_op_is_called() -> None:
    registered = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if "sslkernels::" in name}
    assert set(every_call("reference", torch.float32)) == registered


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_compiling(backend: str, dtype: torch.dtype) -> None:
    check(backend, dtype, UNCOMPILED)


# A compiled graph depends only on the size of a dtype, so one of 32 bits and one of 16 are enough.
@pytest.mark.parametrize(
    ("compiled", "dtype"),
    [
        ("cpu", torch.float32),
        pytest.param("cpu", torch.bfloat16, marks=pytest.mark.slow),
        pytest.param("reference", torch.float32, marks=pytest.mark.slow),
        pytest.param("reference", torch.bfloat16, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_compiled_and_eager_agree(compiled: str, dtype: torch.dtype) -> None:
    """Both give the same bits; memory that an op returns without writing it would differ."""
    check(compiled, dtype, ("test_aot_dispatch_dynamic",))


def check(backend: str, dtype: torch.dtype, tests: tuple[str, ...]) -> None:
    for name, calls in every_call(backend, dtype).items():
        for arguments in calls:
            try:
                torch.library.opcheck(getattr(OPS, name).default, arguments, test_utils=tests)
            except Exception as error:
                raise AssertionError(f"{name}{arguments}") from error
