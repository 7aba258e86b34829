# SPDX-License-Identifier: Apache-2.0
"""Check what is particular to the losses of sampled pairs; tests/test_one_call.py holds them to their formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import formulas
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import sslkernels.functional as SF


def value_and_gradients(loss: Callable[..., Tensor], *leaves: Tensor) -> tuple[Tensor, ...]:
    leaves = tuple(leaf.detach().clone().requires_grad_() for leaf in leaves)
    value = loss(*leaves)
    return value.detach(), *torch.autograd.grad(value, leaves)


def assert_close(loss: Callable[..., Tensor], exact: Callable[..., Tensor], *leaves: Tensor) -> None:
    """Compare with the formula in float64, value and gradients."""
    wanted = value_and_gradients(lambda *x: exact(*x).mean(), *(leaf.double() for leaf in leaves))
    for one, other in zip(value_and_gradients(loss, *leaves), wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-5, atol=2e-6 * float(other.abs().max()) + 1e-9)


def pairs(n: int, d: int, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    anchors = torch.randn(n, d)
    return anchors, anchors + noise * torch.randn(n, d)


@pytest.mark.parametrize("normalize", (True, False))
@pytest.mark.parametrize("equal", ("exclude", "keep"))
def test_wav2vec_samples_negatives_from_the_other_targets(backend: str, normalize: bool, equal: str) -> None:
    """Targets come from a codebook of 9 rows, so that many negatives are their positives."""
    query, codes = torch.randn(40, 16), torch.randn(9, 16)
    targets = codes[torch.randint(0, 9, (40,))]
    index = torch.randint(-1, 40, (40, 25), dtype=torch.int32)
    options = {"temperature": 0.4 if normalize else 3.0, "normalize": normalize, "equal": equal}
    assert_close(
        lambda q, t: SF.sampled_info_nce(q, t, t, index, **options, backend=backend),
        lambda q, t: formulas.sampled_info_nce(q, t, t, index.long(), **options),
        query, targets,
    )  # fmt: skip


def test_with_every_other_key_it_is_info_nce(backend: str) -> None:
    query, key = pairs(12, 7)
    others = torch.arange(12).repeat(12, 1)[~torch.eye(12, dtype=torch.bool)].view(12, 11)
    for reduction in ("mean", "sum", "none"):
        sampled = SF.sampled_info_nce(query, key, key, others, reduction=reduction, backend=backend)
        torch.testing.assert_close(sampled, SF.info_nce(query, key, reduction=reduction, backend=backend))


def test_a_row_without_negatives_has_loss_zero(backend: str) -> None:
    query, key = pairs(3, 4)
    index = torch.tensor([[-1, -1], [1, 1], [0, -1]])  # none, twice its positive, and another
    value, *gradients = value_and_gradients(
        lambda q, k: SF.sampled_info_nce(q, k, k, index, reduction="none", backend=backend)[:2].sum(), query, key
    )
    assert value == 0 and all((gradient == 0).all() for gradient in gradients)
    losses = SF.sampled_info_nce(query, key, key, index[:, :0], reduction="none", backend=backend)
    assert torch.equal(losses, torch.zeros(3))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.float16), ids=str)
def test_rows_are_equal_only_if_all_their_bits_are(dtype: torch.dtype) -> None:
    """Rows with one bit changed anywhere, with two signs changed, or with turned features differ in fingerprints."""
    from sslkernels.functional.sampled import _fingerprints

    row, width = torch.randn(48).to(dtype), 8 * dtype.itemsize
    bits = row.view({16: torch.int16, 32: torch.int32, 64: torch.int64}[width])
    flips = torch.bitwise_left_shift(torch.ones(width, dtype=bits.dtype), torch.arange(width).to(bits.dtype))
    one_bit = bits ^ (torch.eye(48, dtype=bits.dtype)[:, None] * flips[:, None]).flatten(0, 1)
    signs = torch.eye(48, dtype=torch.bool)
    two_signs = torch.stack([row.where(~(signs[a] | signs[b]), -row) for a in range(48) for b in range(a)])
    turned = torch.stack([row.roll(turn) for turn in range(1, 48)])
    rows = torch.cat([row[None], one_bit.view(dtype), two_signs, turned])
    found = _fingerprints(rows)
    assert len(found.unique()) == len(rows) == 1 + 48 * width + 1128 + 47
    assert torch.equal(_fingerprints(torch.cat([rows, rows], 1)[:, :48]), found)  # strides do not matter


def test_many_random_rows_have_fingerprints_of_their_own() -> None:
    from sslkernels.functional.sampled import _fingerprints

    rows = torch.randint(0, 2, (100_000, 24)).float()  # few distinct numbers, some rows equal
    assert len(_fingerprints(rows).unique()) == len(rows.unique(dim=0))


def official_mil_nce(video: Tensor, text: Tensor) -> Tensor:
    """Compute the authors' loss: row i and column i of the logits joined, with each positive in both."""
    n = len(video)
    x = (video @ text.T).view(n, n, -1)
    own = x.diagonal().T
    every = torch.cat([x.flatten(1), x.transpose(0, 1).flatten(1)], 1)
    return every.logsumexp(1) - own.logsumexp(1)


def test_mil_nce_differs_from_the_authors_code_by_the_positives_alone(backend: str) -> None:
    """theirs = log(e^ours + 1): the positives are once more in the sum over all pairs, and all else is alike."""
    video, text = torch.randn(8, 5), torch.randn(24, 5)
    ours = SF.mil_nce(video, text, torch.arange(24).view(8, 3), reduction="none", backend=backend)
    torch.testing.assert_close(torch.log(ours.exp() + 1), official_mil_nce(video, text))


@pytest.mark.parametrize("normalize", (True, False))
def test_mil_nce_of_odd_sets(backend: str, normalize: bool) -> None:
    """Captions are shared, come twice, or belong to nobody; a clip has none, and another has all."""
    video, text = torch.randn(5, 6), torch.randn(7, 6)
    positive = torch.tensor([[0, 1, -1], [1, 2, 2], [-1, -1, -1], [5, 0, 3], [4, -1, 4]], dtype=torch.int32)
    every = torch.arange(7).expand(5, 7).masked_fill(torch.tensor([[1], [1], [0], [1], [1]]) == 1, -1).clone()
    for sets in (positive, every, torch.cat([every, positive.long()], 1)):
        assert_close(
            lambda v, t, sets=sets: SF.mil_nce(v, t, sets, normalize=normalize, backend=backend),
            lambda v, t, sets=sets: formulas.mil_nce(v, t, sets, normalize=normalize),
            video, text,
        )  # fmt: skip
    alone = value_and_gradients(lambda v, t: SF.mil_nce(v, t, torch.arange(7)[None], backend=backend), video[:1], text)
    assert all((x == 0).all() for x in alone)


def test_a_graph_of_two_views_is_nt_xent(backend: str) -> None:
    z0, z1 = pairs(9, 6)
    neighbours = torch.arange(18).roll(9)[:, None]
    for reduction in ("mean", "sum", "none"):
        got = SF.graph_nt_xent(torch.cat([z0, z1]), neighbours, reduction=reduction, backend=backend)
        torch.testing.assert_close(got, SF.nt_xent(z0, z1, reduction=reduction, backend=backend))


@pytest.mark.parametrize("weighed", (True, False))
def test_graphs_of_odd_neighbours(backend: str, weighed: bool) -> None:
    """A neighbour comes twice or three times, is the row itself, or is missing; a row has none; one has all."""
    z = torch.randn(6, 5)
    positive = torch.tensor(
        [[1, 1, 2, 1], [1, -1, 0, 5], [-1, -1, -1, -1], [3, 3, 3, 3], [0, 5, 0, 5], [4, 3, 2, 1]], dtype=torch.int32
    )
    every = torch.arange(6).expand(6, 6)
    for sets in (positive, every, positive[:, :1], torch.full((6, 2), -1)):
        leaves = (z, torch.rand(sets.shape)) if weighed else (z,)
        assert_close(
            lambda *x, sets=sets: SF.graph_nt_xent(x[0], sets, *x[1:], temperature=0.4, backend=backend),
            lambda *x, sets=sets: formulas.graph_nt_xent(x[0], sets.long(), *x[1:], temperature=0.4),
            *leaves,
        )
    alone = SF.graph_nt_xent(z[:1], torch.zeros(1, 3, dtype=torch.int64), backend=backend)
    assert alone == 0
    assert SF.graph_nt_xent(z, positive[:, :0], backend=backend) == 0


def test_aligned_neighbours_keep_their_gradient(backend: str) -> None:
    """At temperature 0.03 the loss is 1e-10. A difference of logits would be noise, and its gradient 0.6 off."""
    anchors = torch.randn(64, 128)
    z = torch.cat([anchors, anchors + 0.05 * torch.randn(64, 128)])
    neighbours = torch.arange(128).roll(64)[:, None]

    def exact(z: Tensor) -> Tensor:
        z = F.normalize(z, dim=1)
        logits = z @ z.T / 0.03
        left_out = torch.eye(128).bool() | torch.eye(128).roll(64, 1).bool()
        return F.softplus(
            logits.masked_fill(left_out, -torch.inf).logsumexp(1) - logits.diagonal(64).repeat(2), threshold=99
        )

    wanted, slope = value_and_gradients(lambda z: exact(z).mean(), z.double())
    assert 0 < wanted < 1e-6
    got, gradient = value_and_gradients(lambda z: SF.graph_nt_xent(z, neighbours, temperature=0.03, backend=backend), z)
    torch.testing.assert_close(got.double(), wanted, rtol=2e-5, atol=0)
    assert (gradient - slope).norm() < 1e-4 * slope.norm()


@pytest.mark.parametrize("neighbours", (1, 3))
def test_aligned_neighbours_in_bfloat16_are_no_worse_than_eager(neighbours: int, backend: str) -> None:
    """At temperature 0.1, where lse - logit would have the gradient 0.6 to 0.9 off."""
    views, n = neighbours + 1, 64
    anchors = torch.randn(n, 128)
    z = torch.cat([anchors + 0.05 * torch.randn(n, 128) for _ in range(views)]).bfloat16()
    rows = torch.arange(views * n)
    positive = torch.stack([(rows + turn * n) % (views * n) for turn in range(1, views)], 1)
    _, slope = value_and_gradients(lambda z: formulas.graph_nt_xent(z, positive).mean(), z.double())
    _, eager = value_and_gradients(lambda z: formulas.graph_nt_xent(z, positive).mean(), z)
    _, ours = value_and_gradients(lambda z: SF.graph_nt_xent(z, positive, backend=backend), z)
    error, theirs = ((gradient.double() - slope).norm() / slope.norm() for gradient in (ours, eager))
    assert error < 0.1 and error < theirs


def test_no_breaks_under_compile() -> None:
    query, key = pairs(6, 5)
    index = torch.randint(0, 6, (6, 4))

    def loss(query: Tensor, key: Tensor) -> Tensor:
        return (
            SF.sampled_info_nce(query, key, key, index, backend="cpu")
            + SF.mil_nce(query, key, index, backend="cpu")
            + SF.graph_nt_xent(key, index, index / 3, backend="cpu")
        )

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for one, other in zip(
        value_and_gradients(compiled, query, key), value_and_gradients(loss, query, key), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_errors_name_the_loss_and_the_argument() -> None:
    z, index = torch.randn(4, 3), torch.zeros(4, 2, dtype=torch.int64)
    calls: tuple[tuple[type[Exception], str, Callable[[], Any]], ...] = (
        (IndexError, "sampled_info_nce: index holds 9", lambda: SF.sampled_info_nce(z, z, z, index + 9)),
        (IndexError, "mil_nce: positive holds 9", lambda: SF.mil_nce(z, z, index + 9)),
        (IndexError, "graph_nt_xent: positive holds -2", lambda: SF.graph_nt_xent(z, index - 2)),
        (ValueError, r"graph_nt_xent: weight has shape \(4, 1\)", lambda: SF.graph_nt_xent(z, index, torch.ones(4, 1))),
        (ValueError, "mil_nce: video has shape .*at least one row", lambda: SF.mil_nce(z[:0], z, index[:0])),
        (ValueError, "graph_nt_xent: z has shape .*at least one row", lambda: SF.graph_nt_xent(z[:0], index[:0])),
        (ValueError, "sampled_info_nce: equal is 'none'", lambda: SF.sampled_info_nce(z, z, z, index, equal="none")),
    )
    for kind, sentence, call in calls:
        with pytest.raises(kind, match=sentence):
            call()
