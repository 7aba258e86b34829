# SPDX-License-Identifier: Apache-2.0
"""Check `prototype_cross_entropy`, `sinkhorn_bias` and `center_update_` against formulas written out in float64.

`check_loss` and `check_bias` serve the tests of instruction sets, of the interpreter and of the GPU too.
"""

from __future__ import annotations

from typing import Any

import prototypes_oracle as oracle
import pytest
import torch
from torch import Tensor

import sslkernels.functional as SF
from sslkernels import backends
from sslkernels.ops.prototypes import cpu, schema, sinkhorn

CLOSE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
# Student rows for each of the teacher, rows of the teacher, prototypes, and features of either side.
SHAPES = ((1, 1, 1, 1, 1), (1, 3, 2, 17, 1), (2, 5, 33, 8, 8), (3, 7, 129, 12, 5), (1, 40, 300, 33, 16))


def problem(shape: tuple[int, ...], dtype: torch.dtype, device: str = "cpu") -> tuple[list[Tensor], dict[str, Any]]:
    """Draw a student, its prototypes, a teacher, its prototypes, and a temperature with a gradient."""
    views, n, k, d, e = shape
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    rows = [(views, n, d), (k, d), (n, e), (k, e)]
    tensors = [(torch.randn(size) / size[-1] ** 0.25).to(device, dtype) for size in rows]
    options = {
        "temperature": torch.tensor(0.7, dtype=wide, device=device, requires_grad=True),
        "teacher_temperature": 0.4,
        "bias": torch.randn(k).to(device, wide),
    }
    return [tensors[0].requires_grad_(), tensors[1].requires_grad_(), *tensors[2:]], options


def check_loss(
    given: tuple[list[Tensor], dict[str, Any]], backend: str, close: float | None = None, beside: float = 1e-12
) -> None:
    """Compare value and gradients with the oracle's, each relative to its largest number, or to one ``beside`` it."""
    tensors, options = given
    close = close or CLOSE[tensors[0].dtype]
    leaves = [x for x in (*tensors, options["temperature"]) if x.requires_grad]
    value = SF.prototype_cross_entropy(*tensors, **options, backend=backend)
    found = torch.autograd.grad(value, leaves)
    twins = {id(x): x.detach().double().cpu().requires_grad_() for x in leaves}
    plain = [x.detach().cpu() if isinstance(x, Tensor) else x for x in options.values()]
    exact_options = dict(zip(options, plain, strict=True))
    if (temperature := options["temperature"]).requires_grad:
        exact_options["temperature"] = twins[id(temperature)]
    exact = oracle.cross_entropy(*(twins.get(id(x), x.detach().cpu()) for x in tensors), **exact_options)
    wanted = torch.autograd.grad(exact, list(twins.values()), materialize_grads=True, allow_unused=True)
    assert value.dtype == (torch.float64 if tensors[0].dtype == torch.float64 else torch.float32)
    for one, other in zip((value, *found), (exact, *wanted), strict=True):
        largest = float(other.detach().abs().max()) + 0.1 * (other.dim() == 0) + beside
        error = float((one.detach().double().cpu() - other.detach()).abs().max())
        assert error <= close * largest, f"{tuple(other.shape)}: off by {error:.3g} where values reach {largest:.3g}"


def check_bias(n: int, k: int, d: int, dtype: torch.dtype, backend: str, device: str = "cpu", **options: Any) -> None:
    """Compare the softmax under the bias with the assignments of the official code."""
    rows, weight = torch.randn(n, d).to(device, dtype), torch.randn(k, d).to(device, dtype)
    for temperature, iterations in ((0.5, 1), (0.5, 3), (-2.0, 2)):
        u = SF.sinkhorn_bias(rows, weight, temperature, iterations=iterations, backend=backend, **options)
        logits = rows.double().cpu() @ weight.double().cpu().T / temperature
        found = torch.softmax(logits + u.double().cpu(), 1)
        close = 1e-12 if dtype == torch.float64 else 2e-5
        torch.testing.assert_close(found, oracle.sinkhorn(logits, iterations), rtol=close, atol=close)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_the_oracle(backend: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check_loss(problem(shape, dtype), backend)


def of_crops(images: int, dtype: torch.dtype) -> tuple[list[Tensor], dict[str, Any]]:
    """Draw DINO's pairs: a small crop follows both large ones of its image, and a large one the other."""
    (student, weight, teacher, targets), options = problem((1, 2 * images, 33, 8, 5), dtype)
    small = torch.randn(3 * images, 8).to(dtype)
    student = torch.cat([student.detach()[0], small]).requires_grad_()
    own = torch.arange(images)
    large = torch.stack([torch.cat([own + images, own]), torch.full((2 * images,), -1)], 1)
    options["teacher_index"] = torch.cat([large, torch.stack([own, own + images], 1).repeat(3, 1)])
    return [student, weight, teacher, targets], options


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
def test_rows_follow_those_that_an_index_names(backend: str, dtype: torch.dtype) -> None:
    tensors, options = of_crops(4, dtype)
    check_loss((tensors, options), backend)
    options["row_weight"] = torch.rand(len(tensors[0]), dtype=options["bias"].dtype)
    options["row_weight"][3] = 0
    options["teacher_index"][5] = torch.tensor([2, 2])  # the same row twice, and none at all
    options["teacher_index"][7] = -1
    check_loss((tensors, {**options, "teacher_index": options["teacher_index"].int()}), backend)


def test_pairs_count_alike_as_in_the_official_loss(backend: str) -> None:
    """DINO takes the mean over the pairs of crops of their means over images."""
    images = 4
    (student, weight, teacher, targets), options = of_crops(images, torch.float64)
    logs = torch.log_softmax(student @ weight.T / options["temperature"], 1).split(images)
    softmax = torch.softmax(teacher @ targets.T / 0.4 + options["bias"], 1).split(images)
    terms = [-(p * q).sum(1).mean() for i, p in enumerate(softmax) for j, q in enumerate(logs) if i != j]
    found = SF.prototype_cross_entropy(student, weight, teacher, targets, **options, backend=backend)
    torch.testing.assert_close(found, sum(terms) / len(terms))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_without_weight_may_hold_anything(backend: str, dtype: torch.dtype) -> None:
    """Padding, as DINOv2's buffers of masked patches have."""
    (student, weight, teacher, targets), options = problem((1, 6, 33, 8, 5), dtype)
    options["row_weight"] = torch.tensor([[0.3, 0.0, 1.0, 0.0, 0.5, 0.2]])
    wanted = None
    for filling in (0.0, torch.nan, torch.inf):
        with torch.no_grad():
            student[:, [1, 3]], teacher[[1, 3]] = filling, filling
        value = SF.prototype_cross_entropy(student, weight, teacher, targets, **options, backend=backend)
        found = [value, *torch.autograd.grad(value, (student, weight, options["temperature"]))]
        wanted = wanted or found
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)
        assert not found[1][:, [1, 3]].any()


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (17, 50, 33), (200, 450, 97)], ids=str)
def test_products_are_never_rounded_to_16_bits(backend: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    n, k, d = shape
    rows, weight = torch.randn(n, 2 * d).to(dtype)[:, :d], torch.randn(k, d).to(dtype)
    wanted = rows.double() @ weight.double().T
    found = schema.products(rows, weight, backend)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    close = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found.double(), wanted, rtol=close, atol=close * d**0.5)


def test_a_row_that_is_no_number_comes_into_no_other(backend: str) -> None:
    student, teacher, weight = (torch.randn(rows, 64).bfloat16() for rows in (48, 48, 75))
    found = []
    for filling in (0.0, torch.nan):
        rows = student.clone()
        rows[24:] = filling
        rows.requires_grad_()
        loss = SF.prototype_cross_entropy(
            rows, weight, teacher, temperature=1.0, teacher_temperature=1.0, backend=backend
        )
        found.append(torch.autograd.grad(loss, rows)[0])
    assert found[1][24:].isnan().all()
    assert torch.equal(found[0][:24], found[1][:24])


def of_many(rows: int, teachers: int, prototypes: int, each: int, dtype: torch.dtype) -> Any:
    """Draw rows that follow some of the teacher's, one of them twice, none, or all in no order."""
    (student, weight, teacher, targets), options = problem((1, rows, prototypes, 24, 17), dtype)
    options["teacher_index"] = torch.randint(-1, teachers, (rows, each))
    options["row_weight"] = torch.rand(rows, dtype=options["bias"].dtype) * (torch.rand(rows) > 0.1)
    return [student.detach()[0].requires_grad_(), weight, teacher[:teachers], targets], options


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kept", ["all", "some", "nothing"])
def test_blocks_of_rows(monkeypatch: pytest.MonkeyPatch, kept: str, dtype: torch.dtype) -> None:
    """Rows in several blocks, at once or one after the other, with their logits kept for the gradient or not."""
    monkeypatch.setattr(backends, "WORKSPACE", 0 if kept == "nothing" else 256 << 20)
    monkeypatch.setattr(cpu, "kept", lambda _: {"all": 1 << 30, "some": 1 << 20, "nothing": 0}[kept])
    check_loss(of_many(450, 310, 401, 3, dtype), "cpu")


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check_loss(of_many(300, 300, 203, 2, torch.float32), "cpu")
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True)], ids=str)
def test_what_alone_needs_a_gradient(backend: str, needs: tuple[bool, ...]) -> None:
    tensors, options = of_many(200, 9, 50, 2, torch.float64)
    for x, need in zip((*tensors[:2], options["temperature"]), needs, strict=True):
        x.requires_grad_(need)
    check_loss((tensors, options), backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kept", [0, 1 << 30])
def test_all_logits_far_below_zero(monkeypatch: pytest.MonkeyPatch, kept: int, dtype: torch.dtype) -> None:
    """Where the zero of a prototype that is not there would be the largest logit, by e^200."""
    monkeypatch.setattr(cpu, "kept", lambda _: kept)
    rows, weight = torch.ones(5, 8).to(dtype), (-torch.ones(19, 8) - 0.1 * torch.rand(19, 8)).to(dtype)
    options = {"temperature": torch.tensor(0.04), "teacher_temperature": 0.04, "bias": torch.zeros(19)}
    student = rows.clone().requires_grad_()
    check_loss(
        ([student, weight.clone().requires_grad_(), rows, weight], options),
        "cpu",
        2e-5 if dtype == torch.float32 else 2e-2,
        30.0,
    )


def test_steps_on_tables_of_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinkhorn, "KEPT", 0)
    for rows in (1, 4):
        monkeypatch.setattr(cpu, "rows_together", lambda *_, rows=rows: rows)
        check_bias(30, 21, 6, torch.float64, "cpu")


def test_sharp_teachers_and_large_logits(backend: str) -> None:
    """Where the official loss in 16 bits has infinities, and where a student is as sure as its teacher."""
    rows = torch.nn.functional.normalize(torch.randn(12, 16), dim=1)
    weight = torch.nn.functional.normalize(torch.cat([rows, torch.randn(50, 16)]), dim=1)
    for temperature, factor in ((0.01, 1.0), (0.1, 60.0)):
        student = (factor * rows).requires_grad_()
        options = {"temperature": torch.tensor(temperature), "teacher_temperature": 0.01, "bias": torch.zeros(62)}
        # A gradient is the difference of two means of unit rows, a part of the batch each.
        check_loss(([student, weight, factor * rows, weight], options), backend, 2e-5, 1 / (12 * temperature))


@pytest.mark.parametrize("kept", [0, 1 << 30])
def test_a_loss_near_0_keeps_its_digits(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """Where a student is nearly as sure as its teacher, whose softmax is 1 in one place."""
    monkeypatch.setattr(cpu, "kept", lambda _: kept)
    rows = torch.nn.functional.normalize(torch.randn(12, 64), dim=1)
    weight = torch.cat([torch.nn.functional.normalize(torch.randn(600, 64), dim=1), rows])
    for temperature in (0.1, 0.04, 0.03):
        options = {"temperature": temperature, "teacher_temperature": 1e-3}
        wanted = oracle.cross_entropy(rows, weight, rows, **options)
        found = SF.prototype_cross_entropy(rows, weight, rows, **options, backend="cpu")
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=0)


def test_a_bias_of_minus_infinity_is_no_target(backend: str) -> None:
    (student, weight, teacher, targets), options = problem((1, 5, 20, 8, 8), torch.float64)
    options["bias"][:7] = -torch.inf
    check_loss(([student, weight, teacher, targets], options), backend)


def test_without_a_target_nobody_is_compared(backend: str) -> None:
    student, weight, teacher, one = torch.randn(5, 8), torch.randn(20, 8), torch.randn(5, 8), torch.ones(())
    bias, index, share = torch.full((20,), -torch.inf), torch.arange(5)[:, None], torch.full((5, 1), 0.2)
    given = schema.Prototypes(student, weight, teacher, weight, one, one, bias, index, share)
    assert not any(found.any() for found in schema.compare(given, True, True, True, backend))


def test_nobody_follows_anybody(backend: str) -> None:
    (student, weight, teacher, targets), options = problem((1, 5, 20, 8, 8), torch.float32)
    options["teacher_index"] = torch.full((5, 2), -1)
    value = SF.prototype_cross_entropy(student[0], weight, teacher, targets, **options, backend=backend)
    assert value == 0
    for gradient in torch.autograd.grad(value, (student, weight)):
        assert not gradient.any()


def test_the_students_own_prototypes_are_the_teachers(backend: str) -> None:
    """They get the gradient of the student's side alone."""
    (student, weight, teacher, _), options = problem((2, 5, 20, 8, 8), torch.float64)
    found = SF.prototype_cross_entropy(student, weight, teacher, **options, backend=backend)
    wanted = SF.prototype_cross_entropy(student, weight, teacher, weight.detach(), **options, backend=backend)
    for one, other in zip(*(torch.autograd.grad(x, (student, weight)) for x in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 17, 3), (40, 9, 8), (7, 300, 33)], ids=str)
def test_the_official_assignments(backend: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check_bias(*shape, dtype, backend)


def test_nothing_overflows(backend: str) -> None:
    """Logits of 2000, at which the official code gives NaN in float32; ours has float64's assignments."""
    rows, weight = 20 * torch.randn(50, 16), torch.randn(30, 16)
    logits = rows.double() @ weight.double().T / 0.04
    assert logits.max() > 2000 and not torch.isfinite(torch.exp(logits.float())).all()
    v = torch.zeros(50, 1, dtype=torch.float64)
    for _ in range(3):
        u = -torch.logsumexp(logits + v, 0)
        v = -torch.logsumexp(logits + u, 1, keepdim=True)
    found = SF.sinkhorn_bias(rows, weight, 0.04, backend=backend)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.double(), u, rtol=1e-5, atol=1e-3)


def test_rows_count_as_often_as_their_weight_says(backend: str) -> None:
    rows, weight = torch.randn(9, 6), torch.randn(5, 6)
    times = torch.tensor([1, 0, 2, 3, 1, 0, 1, 1, 4])
    rows[[1, 5]] = torch.nan
    found = SF.sinkhorn_bias(rows, weight, 0.5, row_weight=times.float(), backend=backend)
    wanted = SF.sinkhorn_bias(rows.repeat_interleave(times, 0), weight, 0.5, backend=backend)
    torch.testing.assert_close(found, wanted)
    none = SF.sinkhorn_bias(rows, weight, 0.5, row_weight=torch.zeros(9), backend=backend)
    assert torch.equal(none, torch.zeros(5))


def test_groups_of_rows_are_spread_each_for_itself(backend: str) -> None:
    rows, weight, counts = torch.randn(3, 9, 6), torch.randn(5, 6), torch.rand(3, 9)
    found = SF.sinkhorn_bias(rows, weight, 0.5, row_weight=counts, backend=backend)
    for s in range(3):
        wanted = SF.sinkhorn_bias(rows[s], weight, 0.5, row_weight=counts[s], backend=backend)
        torch.testing.assert_close(found[s], wanted)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (1, 1, 7)], ids=str)
def test_the_centre_moves_to_the_mean_of_logits(shape: tuple[int, ...]) -> None:
    rows, weight, center = torch.randn(11, 4), torch.randn(7, 4), torch.randn(shape)
    wanted = 0.8 * center.double() + 0.2 * (rows.double() @ weight.double().T).mean(0).view(shape)
    assert SF.center_update_(center, rows, weight, 0.8) is None
    torch.testing.assert_close(center.double(), wanted, rtol=1e-6, atol=1e-6)


def test_what_fits_no_other_list_of_errors() -> None:
    rows, weight = torch.randn(4, 3), torch.randn(5, 3)
    index = torch.zeros(4, 1, dtype=torch.int64)
    wrong = {
        "pass one row of the teacher for each row of a view, or a teacher_index": lambda: SF.prototype_cross_entropy(
            rows, weight, rows[:3]
        ),
        "both need the same prototypes": lambda: SF.prototype_cross_entropy(rows, weight, rows, weight[:4]),
        "flatten its views": lambda: SF.prototype_cross_entropy(rows[None], weight, rows, teacher_index=index),
        "pass at least one column": lambda: SF.prototype_cross_entropy(rows, weight, rows, teacher_index=index[:, :0]),
        r"row_weight requires a gradient.*row_weight.detach\(\)": lambda: SF.prototype_cross_entropy(
            rows, weight, rows, row_weight=torch.ones(4, requires_grad=True)
        ),
        r"row_weight has shape \(3,\); pass \(4,\)": lambda: SF.sinkhorn_bias(rows, weight, row_weight=torch.ones(3)),
        "pass at least one prototype": lambda: SF.sinkhorn_bias(rows, weight[:0]),
        "no rank holds a row": lambda: SF.sinkhorn_bias(rows[:0], weight),
        "pass one number for each prototype": lambda: SF.center_update_(torch.zeros(4), rows, weight),
    }
    for sentence, call in wrong.items():
        with pytest.raises(ValueError, match=sentence):
            call()


def test_no_breaks_under_compile() -> None:
    (student, weight, teacher, targets), options = problem((2, 5, 20, 8, 5), torch.float32)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(student: Tensor, weight: Tensor) -> Tensor:
        bias = SF.sinkhorn_bias(teacher, targets, 0.4)
        return SF.prototype_cross_entropy(student, weight, teacher, targets, bias=bias)

    bias = SF.sinkhorn_bias(teacher, targets, 0.4)
    wanted = SF.prototype_cross_entropy(student, weight, teacher, targets, bias=bias)
    for one, other in zip(
        *(torch.autograd.grad(x, (student, weight)) for x in (step(student, weight), wanted)), strict=True
    ):
        torch.testing.assert_close(one, other)
