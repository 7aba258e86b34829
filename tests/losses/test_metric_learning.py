# SPDX-License-Identifier: Apache-2.0
"""Losses of metric learning give the values and gradients of pytorch-metric-learning, and of dense formulas."""

from __future__ import annotations

import copy
import inspect
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import sslkernels.functional as SF
from sslkernels.losses import metric_learning
from sslkernels.losses.metric_learning import CrossBatchMemory, NTXentLoss, SupConLoss
from sslkernels.peak_memory import peak_memory

NAMES = ("NTXentLoss", "SupConLoss")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
ORIGINAL = "pytorch-metric-learning is missing; pip install --no-deps pytorch-metric-learning brings it"
# Labels of the rows, and of references.
LABELS = {
    "two views": (list(range(6)) * 2, [0, 0, 3]),
    "classes": ([0, 1, 2, 0, 1, 2, 0, 7], [2, 1, 0, 0, 1, 9, 2, 2, 1]),
    "one pair": ([0, 0, 1, 2], [0, 1, 5]),
    "one class": ([3] * 4, [3] * 3),
    "all unlike": ([0, 1, 2, 3], [5, 6]),
    "one of each": ([0, 1], [0]),
    "one row": ([0], [0, 1]),
    "one reference": ([0, 1, 0], [0]),
}


def original(name: str) -> Any:
    return getattr(pytest.importorskip("pytorch_metric_learning.losses", reason=ORIGINAL), name)


def rows_of(labels: Tensor, dtype: torch.dtype, d: int = 5) -> Tensor:
    means = torch.randn(10, d, dtype=torch.float64)
    return (means[labels] + torch.randn(len(labels), d, dtype=torch.float64)).to(dtype).requires_grad_()


def compare(found: Tensor, expected: Tensor, *leaves: Tensor) -> None:
    tolerance = TOLERANCE[leaves[0].dtype]
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=tolerance, atol=tolerance)
    slopes = [
        torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True) for value in (found, expected)
    ]
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=10 * tolerance, atol=10 * tolerance)


def nt_xent(x: Tensor, labels: Tensor, t: float) -> Tensor:
    """Write out each pair's cross-entropy."""
    s = (F.normalize(x) @ F.normalize(x).T) / t
    terms = []
    for i in range(len(x)):
        others = s[i][labels != labels[i]]
        terms += [
            torch.cat([s[i, p, None], others]).logsumexp(0) - s[i, p]
            for p in range(len(x))
            if p != i and labels[p] == labels[i]
        ]
    return torch.stack(terms).mean()


@pytest.mark.parametrize("t", [0.07, 0.5, 2.0])
def test_nt_xent_is_the_mean_over_positive_pairs(t: float) -> None:
    labels = torch.tensor(LABELS["classes"][0])
    x = rows_of(labels, torch.float64)
    compare(NTXentLoss(t)(x, labels), nt_xent(x, labels, t), x)


def test_two_views_are_simclr() -> None:
    z0, z1 = torch.randn(2, 9, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(9).repeat(2)
    compare(NTXentLoss(0.3)(torch.cat([z0, z1]), labels), SF.nt_xent(z0, z1, temperature=0.3), z0, z1)


def test_sup_con_is_the_function() -> None:
    labels = torch.tensor(LABELS["classes"][0])
    x = rows_of(labels, torch.float64)
    compare(SupConLoss(0.2)(x, labels), SF.sup_con(x, labels, temperature=0.2), x)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", LABELS)
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_the_originals(name: str, case: str, dtype: torch.dtype) -> None:
    labels, ref_labels = (torch.tensor(each) for each in LABELS[case])
    for options in ({}, {"temperature": 0.5}, {"temperature": 2.0}):
        ours, theirs = getattr(metric_learning, name)(**options), original(name)(**options)
        x, y = rows_of(labels, dtype), rows_of(ref_labels, dtype)
        compare(ours(x, labels), theirs(x, labels), x)
        given = {"ref_emb": y, "ref_labels": ref_labels}
        compare(ours(x, labels, **given), theirs(x, labels, **given), x, y)
        z = rows_of(labels, dtype)
        same = {"ref_emb": z, "ref_labels": labels}
        compare(ours(x, labels, **same), theirs(x, labels, **same), x, z)
        same["ref_labels"] = labels.clone()  # then row i and reference i are a pair
        compare(ours(x, labels, **same), theirs(x, labels, **same), x, z)


def lists(kind: str, labels: Tensor, ref_labels: Tensor) -> tuple[Tensor, ...]:
    """Draw what a miner might list, with repeats, rows without any, and rows with pairs of one kind alone."""
    alike = labels[:, None] == ref_labels
    positive, negative = alike.nonzero(), (~alike).nonzero()
    if kind == "triplets":
        triplets = [(a, p, q) for a, p in positive.tolist() for b, q in negative.tolist() if a == b and a != 1]
        return tuple(torch.tensor(triplets)[torch.randperm(len(triplets))[:9]].T)
    drawn = [each[torch.randint(0, len(each), (7,))] for each in (positive, negative)]
    if kind == "no negatives":
        drawn[1] = drawn[1][:0]
    return *drawn[0].T, *drawn[1].T


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", ["pairs", "triplets", "no negatives"])
@pytest.mark.parametrize("name", NAMES)
def test_listed_pairs_are_the_originals(name: str, kind: str, dtype: torch.dtype) -> None:
    labels, ref_labels = (torch.tensor(each) for each in LABELS["classes"])
    ours, theirs = getattr(metric_learning, name)(0.3), original(name)(0.3)
    for _ in range(4):
        x, y = rows_of(labels, dtype), rows_of(ref_labels, dtype)
        indices = lists(kind, labels, ref_labels)
        compare(ours(x, None, indices, y), theirs(x, None, tuple(each.clone() for each in indices), y), x, y)
        indices = lists(kind, labels, labels)
        compare(ours(x, labels, indices), theirs(x, labels, indices), x)


def test_one_triplet_alone_counts_for_nothing_as_in_the_original() -> None:
    x, one = torch.randn(3, 4), tuple(torch.tensor([place]) for place in range(3))
    assert NTXentLoss()(x, None, one) == 0 == original("NTXentLoss")()(x, None, one)


def test_pairs_of_both_kinds_are_refused() -> None:
    both = tuple(torch.tensor([0, 1]) for _ in range(4))
    with pytest.raises(ValueError, match="^SupConLoss: indices_tuple has a pair that is both positive and negative"):
        SupConLoss()(torch.randn(3, 4), None, both)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("argument", ["distance", "reducer", "embedding_regularizer"])
def test_other_parts_of_the_original_are_refused(name: str, argument: str) -> None:
    assert argument in inspect.signature(metric_learning.PairLoss).parameters
    with pytest.raises(
        TypeError, match=f"^{name}: {argument} is a Linear, and .* is all there is; leave {argument} out"
    ):
        getattr(metric_learning, name)(**{argument: torch.nn.Linear(1, 1)})


@pytest.mark.parametrize("name", NAMES)
def test_far_pairs_keep_their_gradient(name: str) -> None:
    """The original's loss of a pair stops at 87 in float32."""
    labels = torch.tensor([0, 0, 1, 1])
    x = torch.tensor([[1.0, 0], [-1, 0.1], [1, 0.1], [-1, 0]], requires_grad=True)
    loss = getattr(metric_learning, name)(0.005)
    value = loss(x, labels)
    value.backward()
    assert value > 300 and x.grad.abs().max() > 1
    torch.testing.assert_close(value.double(), loss(x.double(), labels))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_rows_of_16_bits_give_float32(name: str, dtype: torch.dtype) -> None:
    labels = torch.tensor(LABELS["classes"][0])
    x = rows_of(labels, dtype)
    loss = getattr(metric_learning, name)()
    value = loss(x, labels.int())
    value.backward()
    assert value.dtype == torch.float32 and x.grad.dtype == dtype
    torch.testing.assert_close(value, loss(x.float(), labels))
    assert loss(x[:1], labels[:1]).dtype == torch.float32


def test_a_temperature_that_learns_gets_its_gradient() -> None:
    labels = torch.tensor(LABELS["classes"][0])
    x = rows_of(labels, torch.float64)
    for kind in (NTXentLoss, SupConLoss):
        temperature = torch.nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
        (slope,) = torch.autograd.grad(kind(temperature)(x, labels), temperature)
        above, below = kind(0.4 + 1e-5)(x, labels), kind(0.4 - 1e-5)(x, labels)
        torch.testing.assert_close(slope, (above - below).detach() / 2e-5, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n, d, classes, most", [(512, 128, 8, 5e6), (4096, 64, 2048, 9e6)], ids=str)
def test_memory_does_not_grow_with_pairs_times_pairs(n: int, d: int, classes: int, most: float) -> None:
    """The original makes of 512 rows in 8 classes 32,256 positive times 229,376 negative pairs, 7.4e9 numbers.

    There a matrix of all pairs is 1 MB. Of the 4,096 rows it is 67 MB, and rows, unit rows and gradients 1 MB each.
    """
    labels = torch.arange(n) % classes
    x = torch.randn(n, d, requires_grad=True)

    def call() -> None:
        NTXentLoss()(x, labels).backward()

    call()
    peak = peak_memory(call, x.device)
    if peak is None:
        pytest.skip("the system does not tell the peak of memory")
    assert peak < most


Step = dict[str, Any]


def steps(kind: str, dtype: torch.dtype) -> list[Step]:
    """Draw batches that fill a memory of 10 rows and go round in it."""
    made = []
    for place in range(7):
        n = 4 if place % 2 else 3
        labels = torch.randint(0, 3, (n,))
        step: Step = {"embeddings": rows_of(labels, dtype), "labels": labels}
        if kind == "mask":
            step["enqueue_mask"] = torch.rand(n) < 0.6
            step["enqueue_mask"][0] = True
        if kind == "triplets":
            step["indices_tuple"] = tuple(torch.randint(0, 3, (3, 5)))
        made.append(step)
    return made


def hardest(embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor) -> tuple[Tensor, ...]:
    """Mine all positives, and negatives with a cosine above 0."""
    cosines = F.normalize(embeddings.detach()) @ F.normalize(ref_emb).T
    alike = labels[:, None] == ref_labels
    return *alike.nonzero(as_tuple=True), *(~alike & (cosines > 0)).nonzero(as_tuple=True)


def triplets(embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor) -> tuple[Tensor, ...]:
    alike = labels[:, None] == ref_labels
    return (alike[:, :, None] & ~alike[:, None]).nonzero(as_tuple=True)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("miner", [None, hardest, triplets], ids=["all pairs", "hard pairs", "triplets"])
@pytest.mark.parametrize(
    "kind, name", [*((kind, name) for kind in ("batches", "mask") for name in NAMES), ("triplets", "NTXentLoss")]
)
def test_the_memory_is_the_originals(name: str, kind: str, miner: Any, dtype: torch.dtype) -> None:
    ours = CrossBatchMemory(getattr(metric_learning, name)(0.3), 5, 10, miner)
    theirs = original("CrossBatchMemory")(original(name)(0.3), 5, 10, miner)
    for step in steps(kind, dtype):
        compare(ours(**step), theirs(**step), step["embeddings"])
        torch.testing.assert_close(ours.embedding_memory, theirs.embedding_memory)
        assert torch.equal(ours.label_memory, theirs.label_memory)
        assert int(ours.queue_idx) == theirs.queue_idx and bool(ours.has_been_filled) == theirs.has_been_filled


def test_the_memory_resumes_where_it_was() -> None:
    batches = steps("batches", torch.float32)
    loss = CrossBatchMemory(NTXentLoss(), 5, 10)
    for step in batches[:2]:
        loss(**step)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    resumed = CrossBatchMemory(NTXentLoss(), 5, 10)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    copied = copy.deepcopy(loss)
    for step in batches[2:]:
        assert loss(**step) == resumed(**step) == copied(**step)
    assert list(loss.state_dict()) == ["embedding_memory", "label_memory", "queue_idx", "has_been_filled"]
    assert list(loss.buffers()) == []


def test_a_checkpoint_of_the_original_starts_empty_with_one_warning() -> None:
    theirs = original("CrossBatchMemory")(original("NTXentLoss")(), 5, 10)
    first, second = steps("batches", torch.float32)[:2]
    theirs(**first)
    loss = CrossBatchMemory(NTXentLoss(), 5, 10)
    loss(**first)
    with pytest.warns(UserWarning, match="the checkpoint holds no place in the memory") as caught:
        loss.load_state_dict(theirs.state_dict())
    assert len(caught) == 1
    compare(loss(**second), CrossBatchMemory(NTXentLoss(), 5, 10)(**second), second["embeddings"])


def test_a_mask_of_nobody_leaves_the_memory_as_it_is() -> None:
    """The original takes it for filled then, and compares with rows of zeros."""
    loss = CrossBatchMemory(NTXentLoss(), 5, 10)
    x, labels = torch.randn(4, 5, requires_grad=True), torch.tensor([0, 0, 1, 1])
    value = loss(x, labels, enqueue_mask=torch.zeros(4, dtype=torch.bool))
    value.backward()
    assert value == 0 and not loss.has_been_filled and loss.queue_idx == 0
    assert loss(x, labels, enqueue_mask=torch.ones(4, dtype=torch.bool)) == 0
    assert loss.queue_idx == 4


def test_more_rows_than_the_memory_has_leave_the_newest() -> None:
    loss = CrossBatchMemory(SupConLoss(), 5, 4)
    x, labels = torch.randn(7, 5), torch.arange(7)
    mask = torch.ones(7, dtype=torch.bool)
    mask[6] = False
    loss(x, labels, enqueue_mask=mask)
    assert sorted(loss.label_memory.tolist()) == [2, 3, 4, 5] and loss.has_been_filled
    assert torch.equal(loss.embedding_memory, x[loss.label_memory])


def test_a_backward_may_come_after_the_next_batch() -> None:
    loss = CrossBatchMemory(NTXentLoss(), 5, 6)
    first, second = steps("batches", torch.float32)[:2]
    before = CrossBatchMemory(NTXentLoss(), 5, 6)
    (expected,) = torch.autograd.grad(before(**first), first["embeddings"])
    value = loss(**first)
    loss(**second)
    (found,) = torch.autograd.grad(value, first["embeddings"])
    assert torch.equal(found, expected)


def test_what_the_memory_cannot_take_gets_a_sentence() -> None:
    loss = CrossBatchMemory(NTXentLoss(), 5, 4, triplets)
    x, labels = torch.randn(4, 5), torch.tensor([0, 0, 1, 1])
    pairs = tuple(torch.tensor([0, 1]) for _ in range(4))
    with pytest.raises(ValueError, match="^CrossBatchMemory: indices_tuple has pairs where the miner gives triplets"):
        loss(x, labels, pairs)
    with pytest.raises(ValueError, match="^CrossBatchMemory: embeddings has shape .* and the memory 4 rows"):
        loss(torch.cat([x, x]), torch.cat([labels, labels]))
    with pytest.raises(ValueError, match="^CrossBatchMemory: indices_tuple came with enqueue_mask; pass one"):
        loss(x, labels, pairs, torch.ones(4, dtype=torch.bool))
    with pytest.raises(TypeError, match="^CrossBatchMemory: loss is a MSELoss; pass this module's NTXentLoss or"):
        CrossBatchMemory(torch.nn.MSELoss(), 5)  # type: ignore[arg-type]
