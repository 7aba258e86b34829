# SPDX-License-Identifier: Apache-2.0
"""NTXentLoss, SupConLoss and CrossBatchMemory as in pytorch-metric-learning.

They have a module of their own, as lightly's NTXentLoss has the same name:

    - from pytorch_metric_learning.losses import CrossBatchMemory, NTXentLoss, SupConLoss
    + from sslkernels.losses.metric_learning import CrossBatchMemory, NTXentLoss, SupConLoss
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sslkernels.arguments import (
    WHOLE_DTYPES,
    came,
    check_alike,
    check_callable,
    check_count,
    check_kind,
    check_rows,
    check_temperature,
    check_tensor,
    described,
    shape_of,
)
from sslkernels.functional import queue_update_
from sslkernels.losses.pairs import (
    Indices,
    Pairs,
    Products,
    all_pairs,
    as_pairs,
    check_indices,
    without_own,
    without_repeats,
)
from sslkernels.modules import Module, Remembering
from sslkernels.ops.softplus import softplus

__all__ = ["CrossBatchMemory", "NTXentLoss", "SupConLoss"]

_FIXED = {
    "distance": "products of unit rows",
    "reducer": "the original's default",
    "embedding_regularizer": "none",
}


class PairLoss(Module):
    """Compare rows with rows of their own class and of others; a subclass says what the loss of the pairs is."""

    def __init__(
        self,
        temperature: float,
        *,
        distance: None = None,
        reducer: None = None,
        embedding_regularizer: None = None,
    ) -> None:
        super().__init__()
        function = type(self).__name__
        self.temperature = check_temperature(function, temperature)
        given = {"distance": distance, "reducer": reducer, "embedding_regularizer": embedding_regularizer}
        for name, value in given.items():
            if value is not None:
                raise TypeError(
                    f"{function}: {name} is {described(value)}, and {_FIXED[name]} is all there is; leave {name} out."
                )

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: Indices | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        function = type(self).__name__
        check_rows(function, "embeddings", embeddings)
        n = embeddings.shape[0]
        if n == 0:
            raise ValueError(
                f"{function}: embeddings has shape {shape_of(embeddings)}; pass a batch of at least one row."
            )
        same = ref_emb is None or ref_labels is labels  # the original goes by the tensor too
        row_labels = None if labels is None else _check_labels(function, "labels", labels, embeddings)
        if ref_emb is not None:
            check_alike(
                function, "ref_emb", check_rows(function, "ref_emb", ref_emb), "embeddings", embeddings, rows=False
            )
        if ref_labels is None:
            col_labels = row_labels if ref_emb is None else None
        elif ref_emb is None:
            raise ValueError(f"{function}: ref_labels came without ref_emb; pass both, or neither.")
        else:
            col_labels = _check_labels(function, "ref_labels", ref_labels, ref_emb)
        if indices_tuple is not None:
            m = n if ref_emb is None else ref_emb.shape[0]
            indices = check_indices(function, "indices_tuple", indices_tuple, n, m, embeddings.device)
            return self.of_pairs(embeddings, ref_emb, self.listed(indices, n, m))
        if row_labels is None:
            raise ValueError(f"{function}: labels and indices_tuple are both None; pass one of them.")
        if col_labels is None:
            raise ValueError(f"{function}: ref_labels is None; pass the labels of ref_emb, or indices_tuple.")
        own = torch.arange(n, device=embeddings.device) if same else None
        return self.of_pairs(embeddings, ref_emb, Pairs.by_class(row_labels, col_labels, own))

    def of_pairs(self, embeddings: Tensor, references: Tensor | None, pairs: Pairs) -> Tensor:
        """Return the loss of these pairs, 0 where there are too few."""
        if pairs.too_few:
            return (0 * embeddings).sum(dtype=torch.promote_types(embeddings.dtype, torch.float32))
        return self.loss(Products.of(embeddings, references, self.temperature), pairs)

    def listed(self, indices: Indices, n: int, m: int) -> Pairs:
        return Pairs.listed(indices, n)

    def loss(self, products: Products, pairs: Pairs) -> Tensor:
        raise NotImplementedError


class NTXentLoss(PairLoss):
    """NT-Xent of labelled rows, as in pytorch-metric-learning: a loss for each positive pair.

    ``from sslkernels.losses.metric_learning import NTXentLoss`` is the whole change. With s the cosines over the
    temperature, the loss is the mean over pairs (i, p) of one class of ``softplus(lse_i - s_ip)``, lse_i the
    log-sum-exp of s_ij over all j of other classes.

    Args:
        temperature: non-zero number or one-element tensor, which receives its gradient.
        distance, reducer, embedding_regularizer: only None, which stands for the original's defaults.

    ``forward(embeddings, labels=None, indices_tuple=None, ref_emb=None, ref_labels=None)``: rows ``(N, D)``, whole
    numbers ``(N,)``; a miner's pairs ``(a1, p, a2, n)`` or triplets ``(a, p, n)`` instead of all that the labels make;
    references ``(M, D)`` that rows are compared with instead of each other. If ``ref_labels`` is the same tensor as
    ``labels``, row i and reference i are no pair. The loss is 0 without positive or without negative pairs.

    The original adds the least number of the dtype to probabilities, so that no pair's loss exceeds 87 in float32 and
    pairs beyond have no gradient. Ours goes on. A loss of 16-bit rows is float32.

    Memory: ``O((N + M)*D)`` and about 50 bytes for each of ``N*P`` places, P the most positives that a row has: 1 for
    two views of unlike samples, N/8 for eight classes. The original takes 9 bytes and more for every couple of a
    positive and a negative pair, ``8*N^3`` of them for N samples in two views. Pairs that are listed take the same for
    each place of ``N*Q`` too, Q the most negatives that a row has in the list.

    >>> import torch
    >>> from sslkernels.losses.metric_learning import NTXentLoss
    >>> NTXentLoss(temperature=0.5)(torch.eye(4), torch.tensor([0, 0, 1, 1]))
    tensor(1.0986)
    """

    def __init__(self, temperature: float = 0.07, **options: Any) -> None:
        super().__init__(temperature, **options)

    def loss(self, products: Products, pairs: Pairs) -> Tensor:
        none = pairs.positive < 0
        logits = products.logits(pairs.positive).masked_fill(none, 0)
        losses = softplus(products.negatives(pairs)[:, None] - logits)
        return losses.masked_fill(none, 0).sum() / pairs.counts[0]


class SupConLoss(PairLoss):
    """Supervised contrastive loss (Khosla et al. 2020, eq. 2), as in pytorch-metric-learning.

    ``from sslkernels.losses.metric_learning import SupConLoss`` is the whole change. With s the cosines over the
    temperature, ``loss_i = lse_i - mean_p s_ip``, lse_i the log-sum-exp of s_ij over all pairs of row i, p over its
    positives. The loss is the mean of those that are above 0; rows without positives have 0.
    `sslkernels.functional.sup_con` is the same without references and lists, for ranks too, and without a table.

    Args:
        temperature, distance, reducer, embedding_regularizer: as in `NTXentLoss`.

    ``forward`` takes what that of `NTXentLoss` takes; a pair that is listed twice counts once. Memory: as there.

    >>> import torch
    >>> from sslkernels.losses.metric_learning import SupConLoss
    >>> SupConLoss(temperature=0.5)(torch.eye(4), torch.tensor([0, 0, 1, 1]))
    tensor(1.0986)
    """

    def __init__(self, temperature: float = 0.1, **options: Any) -> None:
        super().__init__(temperature, **options)

    def listed(self, indices: Indices, n: int, m: int) -> Pairs:
        return Pairs.listed(without_repeats(indices, m), n)

    def loss(self, products: Products, pairs: Pairs) -> Tensor:
        none = pairs.positive < 0
        counts = (~none).sum(1)
        means = products.logits(pairs.positive).masked_fill(none, 0).sum(1) / counts.clamp_min(1)
        everything = products.everything(pairs)
        losses = everything.masked_fill(counts == 0, 0) - means
        counted = (counts > 0) & (losses > 0)
        return losses.masked_fill(~counted, 0).sum() / counted.sum().clamp_min(1)


class CrossBatchMemory(Remembering):
    """Compare rows with those of the last batches too (XBM, Wang et al. 2020), as in pytorch-metric-learning.

    ``from sslkernels.losses.metric_learning import CrossBatchMemory`` is the whole change.

    Args:
        loss: an `NTXentLoss` or a `SupConLoss` of this module.
        embedding_size: features per row.
        memory_size: rows kept.
        miner: called with ``(embeddings, labels, memory, memory_labels)``, returns ``(a1, p, a2, n)`` or ``(a, p, n)``.

    ``forward(embeddings, labels, indices_tuple=None, enqueue_mask=None)``: the batch enters the memory first, and its
    rows are then compared with all of the memory but themselves. Rows of ``indices_tuple`` are added to these pairs;
    their columns are places in the memory. With ``enqueue_mask (N,)`` the marked rows enter the memory, and the others
    are compared with it.

    Memory, labels, ``queue_idx`` (the next place) and ``has_been_filled`` are in ``state_dict()`` and resume; the
    original saves the first two, and its checkpoints load with a warning, and start empty. They are no buffers: inside
    DistributedDataParallel every rank keeps its own. The memory has the dtype of the last batch. A mask that marks no
    row does not fill the memory, as it does there. A batch of one row is not compared with itself, as it is there.

    >>> import torch
    >>> from sslkernels.losses.metric_learning import CrossBatchMemory, NTXentLoss
    >>> loss = CrossBatchMemory(NTXentLoss(temperature=0.5), embedding_size=4, memory_size=8)
    >>> loss(torch.eye(4), torch.tensor([0, 0, 1, 1]))
    tensor(1.0986)
    >>> int(loss.queue_idx), bool(loss.has_been_filled)
    (4, False)
    """

    embedding_memory: Tensor
    label_memory: Tensor
    queue_idx: Tensor
    has_been_filled: Tensor
    remembered = ("embedding_memory", "label_memory", "queue_idx", "has_been_filled")

    def __init__(
        self,
        loss: PairLoss,
        embedding_size: int,
        memory_size: int = 1024,
        miner: Callable[..., Indices] | None = None,
    ) -> None:
        super().__init__()
        function = "CrossBatchMemory"
        self.loss = check_kind(function, "loss", loss, PairLoss, "this module's NTXentLoss or SupConLoss")
        self.miner = None if miner is None else check_callable(function, "miner", miner)
        self.embedding_size = check_count(function, "embedding_size", embedding_size, 1)
        self.memory_size = check_count(function, "memory_size", memory_size, self.embedding_size)
        self.reset_queue()

    def reset_queue(self) -> None:
        """Forget all rows."""
        with torch.inference_mode(False):  # tensors made in inference mode cannot be written outside it
            self.embedding_memory = torch.zeros(self.memory_size, self.embedding_size)
            self.label_memory = torch.zeros(self.memory_size, dtype=torch.int64)
            self.queue_idx = torch.zeros((), dtype=torch.int64)
            self.has_been_filled = torch.zeros((), dtype=torch.bool)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Indices | None = None,
        enqueue_mask: Tensor | None = None,
    ) -> Tensor:
        function = "CrossBatchMemory"
        if check_rows(function, "embeddings", embeddings).shape[1] != self.embedding_size:
            raise ValueError(
                f"{function}: embeddings has shape {shape_of(embeddings)}; expected (N, {self.embedding_size})."
            )
        labels = _check_labels(function, "labels", labels, embeddings)
        own = None
        if enqueue_mask is None:
            if not 0 < len(embeddings) <= self.memory_size:
                raise ValueError(
                    f"{function}: embeddings has shape {shape_of(embeddings)} and the memory {self.memory_size} rows; "
                    "pass a batch of at least one row that fits it."
                )
            places = torch.arange(len(embeddings), device=embeddings.device)
            own = (int(self.queue_idx) + places) % self.memory_size
            self._enqueue(embeddings, labels)
        else:
            if indices_tuple is not None:
                raise ValueError(f"{function}: indices_tuple came with enqueue_mask; pass one of them.")
            mask = _check_mask(function, enqueue_mask, embeddings)
            self._enqueue(embeddings[mask], labels[mask])
            embeddings, labels = embeddings[~mask], labels[~mask]
        filled = self.memory_size if self.has_been_filled else int(self.queue_idx)
        memory, memory_labels = self.embedding_memory[:filled], self.label_memory[:filled]
        if self.miner is None and indices_tuple is None:
            pairs = Pairs.by_class(labels, memory_labels, own)
        else:
            indices = self._indices(embeddings, labels, memory, memory_labels, indices_tuple, own)
            pairs = self.loss.listed(indices, len(embeddings), filled)
        return self.loss.of_pairs(embeddings, memory, pairs)

    @torch.no_grad()
    def _enqueue(self, rows: Tensor, labels: Tensor) -> None:
        self._agreed_device(rows)
        self.has_been_filled |= self.queue_idx + len(rows) >= self.memory_size
        queue_update_(self.embedding_memory, rows.detach(), int(self.queue_idx))
        kept = torch.arange(len(rows), device=rows.device)[-self.memory_size :]
        self.label_memory[(self.queue_idx + kept) % self.memory_size] = labels[kept]
        self.queue_idx.copy_((self.queue_idx + len(rows)) % self.memory_size)

    def _agreed_device(self, rows: Tensor) -> None:
        """Move the memory to the rows' device, and its rows to their dtype."""
        self.embedding_memory = self.embedding_memory.to(rows)
        for name in self.remembered[1:]:
            setattr(self, name, getattr(self, name).to(rows.device))

    def _indices(
        self,
        embeddings: Tensor,
        labels: Tensor,
        memory: Tensor,
        memory_labels: Tensor,
        given: Indices | None,
        own: Tensor | None,
    ) -> Indices:
        """Return what the miner finds, or else all pairs, and the pairs that were given."""
        function, sizes = "CrossBatchMemory", (len(embeddings), len(memory), embeddings.device)
        if self.miner is None:
            indices = all_pairs(labels, memory_labels)
        else:
            mined = self.miner(embeddings, labels, memory, memory_labels)
            indices = check_indices(function, "the result of miner", mined, *sizes)
        if own is not None:
            indices = without_own(indices, own)
        if given is None:
            return indices
        given = check_indices(function, "indices_tuple", given, *sizes)
        if len(given) > len(indices):
            raise ValueError(
                f"{function}: indices_tuple has pairs where the miner gives triplets; pass triplets (a, p, n) too."
            )
        if len(indices) == 4:
            given = as_pairs(given)
        return tuple(torch.cat(both) for both in zip(indices, given, strict=True))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        position, filled = f"{prefix}queue_idx", f"{prefix}has_been_filled"
        if f"{prefix}embedding_memory" in state_dict and position not in state_dict:
            warnings.warn(
                "the checkpoint holds no place in the memory (pytorch-metric-learning saves none): it starts empty.",
                stacklevel=2,
            )
            state_dict[position] = torch.zeros_like(self.queue_idx)  # type: ignore[index]
            state_dict[filled] = torch.zeros_like(self.has_been_filled)  # type: ignore[index]
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def _check_labels(function: str, name: str, value: object, x: Tensor) -> Tensor:
    """Check whole numbers, one for each row of ``x``, and return them as int64 on its device."""
    labels = check_tensor(function, name, value, "(N,), whole numbers, one for each row")
    if labels.dtype not in WHOLE_DTYPES:
        raise TypeError(f"{function}: {name} has dtype {labels.dtype}; pass whole numbers, {name}.long().")
    if labels.shape != x.shape[:1]:
        raise ValueError(f"{function}: {name} has shape {shape_of(labels)}; expected ({x.shape[0]},), one each.")
    return labels.to(x.device, torch.int64)


def _check_mask(function: str, value: object, x: Tensor) -> Tensor:
    mask = check_tensor(function, "enqueue_mask", value, "(N,), True for each row that enters the memory")
    if mask.dtype != torch.bool or mask.shape != x.shape[:1]:
        raise ValueError(f"{function}: enqueue_mask is {came(mask)}; pass ({x.shape[0]},) of dtype torch.bool.")
    return mask.to(x.device)
