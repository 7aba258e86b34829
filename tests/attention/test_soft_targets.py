# SPDX-License-Identifier: Apache-2.0
"""Check what is particular to losses whose targets a bank carries; test_one_call.py holds them to their formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import formulas
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import sslkernels.functional as SF

TAUGHT = {"similarity_distillation": SF.similarity_distillation, "ressl": SF.ressl}


def problem(n: int = 9, m: int = 40, d: int = 16, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    anchors = torch.randn(n, d, dtype=dtype)
    query, key = (anchors + 0.5 * torch.randn_like(anchors) for _ in range(2))
    return query, key, F.normalize(torch.cat([key[: n // 2], torch.randn(m, d, dtype=dtype)]), dim=1)


def value_and_gradient(loss: Callable[..., Tensor], query: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    query = query.detach().clone().requires_grad_()
    value = loss(query, *others)
    return value.detach(), torch.autograd.grad(value.sum(), query)[0]


@pytest.mark.parametrize("name", TAUGHT)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_papers_temperatures(backend: str, name: str, dtype: torch.dtype) -> None:
    for shape in ((1, 1, 3), (9, 40, 16), (33, 300, 64)):
        rows = problem(*shape, dtype=dtype)
        found = value_and_gradient(lambda *x: TAUGHT[name](*x, reduction="none", backend=backend), *rows)
        exact = value_and_gradient(getattr(formulas, name), *(x.double() for x in rows))
        close = 1e-10 if dtype == torch.float64 else 2e-5
        for one, other in zip(found, exact, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=close, atol=close)


def test_with_the_key_alone_as_target_it_is_info_nce(backend: str) -> None:
    query, key, bank = problem()
    for reduction in ("mean", "sum", "none"):
        found = SF.similarity_distillation(query, key, bank, coefficient=1.0, reduction=reduction, backend=backend)
        exact = SF.info_nce(query, key, negatives=bank, reduction=reduction, backend=backend)
        torch.testing.assert_close(found, exact)


def test_aligned_pairs_keep_their_gradient(backend: str) -> None:
    """At temperature 0.03 the loss is 1e-10 or less; a difference of logits would be noise."""
    key, bank = torch.randn(20, 64), F.normalize(torch.randn(50, 64), dim=1)
    query = key + 0.05 * torch.randn(20, 64)
    options = {"temperature": 0.03, "coefficient": 1.0}
    found = value_and_gradient(
        lambda *x: SF.similarity_distillation(*x, **options, reduction="none", backend=backend), query, key, bank
    )
    query, key, bank = query.double(), key.double(), bank.double()

    def exact(query: Tensor, key: Tensor, bank: Tensor) -> Tensor:
        query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
        return F.softplus(((query @ bank.T) / 0.03).logsumexp(1) - (query * key).sum(1) / 0.03, threshold=99)

    wanted = value_and_gradient(exact, query, key, bank)
    assert wanted[0].max() < 1e-5
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() < 1e-4 * other.norm()


@pytest.mark.parametrize("name", TAUGHT)
def test_the_teacher_gets_no_gradient(backend: str, name: str) -> None:
    query, key, bank = problem()
    temperature = torch.tensor(0.05, requires_grad=True)
    loss = TAUGHT[name](
        query.requires_grad_(), key.requires_grad_(), bank, target_temperature=temperature, backend=backend
    )
    loss.backward()
    assert query.grad is not None and key.grad is None and temperature.grad is None
    with pytest.raises(ValueError, match=rf"^{name}: bank requires a gradient, and .*; pass bank.detach\(\)\.$"):
        TAUGHT[name](query, key, bank.requires_grad_())


def test_a_student_that_is_its_teacher_has_the_teachers_entropy(backend: str) -> None:
    query, _, bank = problem()
    found = SF.ressl(query, query, bank, temperature=0.1, target_temperature=0.1, reduction="none", backend=backend)
    share = torch.softmax(F.normalize(query, dim=1) @ bank.T / 0.1, 1)
    torch.testing.assert_close(found, -(share * share.log()).sum(1))


@pytest.mark.parametrize("normalize", [True, False])
def test_labels_are_yes_or_no(backend: str, normalize: bool) -> None:
    """A positive that is listed twice counts once; a row may have none, or all."""
    query, _, dictionary = problem(4, 5)
    m = len(dictionary)
    positive = torch.full((4, m + 1), -1, dtype=torch.int32)
    positive[0, :3], positive[2, :m] = torch.tensor([2, 2, 0]), torch.arange(m)
    positive[3, 4] = 6
    labels = torch.zeros(4, m, dtype=torch.float64)
    labels[0, [0, 2]], labels[2], labels[3, 6] = 1, 1, 1

    def exact(query: Tensor, dictionary: Tensor) -> Tensor:
        logits = (F.normalize(query, dim=1) if normalize else query) @ dictionary.T / 0.3
        return -(labels * logits.sigmoid().log() + (1 - labels) * (1 - logits.sigmoid()).log()).mean(1)

    def ours(query: Tensor, dictionary: Tensor) -> Tensor:
        return SF.multi_label_bce(
            query, dictionary, positive, temperature=0.3, normalize=normalize, reduction="none", backend=backend
        )

    for rows in ((query, dictionary), (dictionary[:4].clone(), dictionary)):
        for one, other in zip(value_and_gradient(ours, *rows), value_and_gradient(exact, *rows), strict=True):
            torch.testing.assert_close(one, other)
    none = SF.multi_label_bce(query, dictionary, positive[:, :0], backend=backend)
    torch.testing.assert_close(none, SF.multi_label_bce(query, dictionary, torch.full((4, 1), -1), backend=backend))


def test_no_breaks_under_compile() -> None:
    query, key, bank = problem(6, 9, 5)
    index = torch.randint(0, len(bank), (6, 2))

    def loss(query: Tensor, key: Tensor, bank: Tensor) -> Tensor:
        return (
            SF.similarity_distillation(query, key, bank, backend="cpu")
            + SF.ressl(query, key, bank, backend="cpu")
            + SF.multi_label_bce(query, bank, index, backend="cpu")
        )

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for one, other in zip(
        value_and_gradient(compiled, query, key, bank), value_and_gradient(loss, query, key, bank), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_errors_name_the_loss_and_the_argument() -> None:
    z, index = torch.randn(4, 3), torch.zeros(4, 2, dtype=torch.int64)
    calls: tuple[tuple[type[Exception], str, Callable[[], Any]], ...] = (
        (ValueError, r"ressl: bank has shape \(0, 3\); pass at least one row", lambda: SF.ressl(z, z, z[:0])),
        (
            ValueError,
            r"multi_label_bce: dictionary has shape \(0, 3\); pass",
            lambda: SF.multi_label_bce(z, z[:0], index),
        ),
        (ValueError, r"multi_label_bce: query has shape \(0, 3\)", lambda: SF.multi_label_bce(z[:0], z, index[:0])),
        (IndexError, "multi_label_bce: positive holds 4", lambda: SF.multi_label_bce(z, z, index + 4)),
        (
            ValueError,
            "similarity_distillation: coefficient is 2",
            lambda: SF.similarity_distillation(z, z, z, coefficient=2),
        ),
        (ValueError, "ressl: target_temperature is 0", lambda: SF.ressl(z, z, z, target_temperature=0)),
        (
            ValueError,
            "similarity_distillation: query .*5.* key",
            lambda: SF.similarity_distillation(z[:, [0] * 5], z, z),
        ),
    )
    for kind, sentence, call in calls:
        with pytest.raises(kind, match=sentence):
            call()
