# SPDX-License-Identifier: Apache-2.0
"""InfoNCE gives the values and gradients of info-nce-pytorch, and of a dense cross-entropy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.losses.info_nce import InfoNCE

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}
MODES = ("in the batch", "unpaired", "paired")


def problem(mode: str, dtype: torch.dtype, n: int = 6, m: int = 9, d: int = 5) -> list[Tensor]:
    shapes = [(n, d), (n, d), *{"unpaired": [(m, d)], "paired": [(n, m, d)]}.get(mode, [])]
    return [(2 * torch.randn(shape)).to(dtype).requires_grad_() for shape in shapes]


def module(kind: Any, mode: str, **options: Any) -> nn.Module:
    return kind(negative_mode="paired" if mode == "paired" else "unpaired", **options)


def dense(mode: str, temperature: float, reduction: str, query: Tensor, key: Tensor, *given: Tensor) -> Tensor:
    query, key, *negatives = (F.normalize(x.double(), dim=-1) for x in (query, key, *given))
    if not negatives:
        return F.cross_entropy(query @ key.T / temperature, torch.arange(len(query)), reduction=reduction)
    others = query @ negatives[0].T if mode == "unpaired" else (query[:, None] * negatives[0]).sum(-1)
    logits = torch.cat([(query * key).sum(1, keepdim=True), others], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64), reduction=reduction)


def compare(found: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    tolerance = TOLERANCE[leaves[0].dtype]
    torch.testing.assert_close(found.double(), expected.double(), rtol=tolerance, atol=tolerance)
    weights = torch.rand(found.shape)
    slopes = [torch.autograd.grad((weights * value).sum(), leaves) for value in (found, expected)]
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("mode", MODES)
def test_it_is_the_library_s_and_the_formula(mode: str, reduction: str, dtype: torch.dtype) -> None:
    original = pytest.importorskip("info_nce", reason="info-nce-pytorch is missing; pip install --no-deps brings it")
    for temperature in (0.1, 0.7, 0.03):
        options = {"temperature": temperature, "reduction": reduction}
        leaves = problem(mode, dtype)
        found = module(InfoNCE, mode, **options)(*leaves)
        compare(found, module(original.InfoNCE, mode, **options)(*leaves), leaves)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("mode", MODES)
def test_it_is_a_cross_entropy(mode: str, reduction: str) -> None:
    leaves = problem(mode, torch.float64, n=3, m=1)
    compare(module(InfoNCE, mode, reduction=reduction)(*leaves), dense(mode, 0.1, reduction, *leaves), leaves)


@pytest.mark.parametrize("mode", MODES[1:])
def test_no_negatives_at_all_give_zero(mode: str) -> None:
    leaves = problem(mode, torch.float32, m=0)
    value = module(InfoNCE, mode)(*leaves)
    value.backward()
    assert value == 0 and leaves[0].grad.abs().max() == 0


def test_a_temperature_that_learns_is_a_parameter() -> None:
    loss = InfoNCE(nn.Parameter(torch.tensor(0.2)))  # type: ignore[arg-type]
    loss(*problem("unpaired", torch.float32)).backward()
    (temperature,) = loss.parameters()
    assert temperature.grad is not None and temperature.grad.abs() > 0


def test_negatives_of_another_batch_are_refused() -> None:
    query, key, negatives = problem("paired", torch.float32)
    with pytest.raises(ValueError, match="^InfoNCE: query has shape .* and negative_keys .*; with negative_mode"):
        InfoNCE(negative_mode="paired")(query, key, negatives[:2])
    with pytest.raises(
        ValueError, match=rf"^InfoNCE: query has shape .* and negative_keys \({len(query)}, .*same rows and"
    ):
        InfoNCE(negative_mode="paired")(query, key, negatives[..., 1:])
    with pytest.raises(ValueError, match=r"^InfoNCE: negative_keys has shape \(6, 9, 5\); expected \(M, D\)"):
        InfoNCE()(query, key, negatives)
