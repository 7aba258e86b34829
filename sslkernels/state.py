# SPDX-License-Identifier: Apache-2.0
"""Modules whose state is saved: the teacher that follows a student, the queue of keys, the bank, and the centre."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.arguments import (
    INDEX_DTYPES,
    check_count,
    check_device,
    check_number,
    check_rows,
    check_temperature,
    check_tensor,
    shape_of,
)
from sslkernels.backends import check_backend
from sslkernels.distributed import GroupLike, all_rows, shard_of
from sslkernels.functional import center_update_, queue_update_
from sslkernels.modules import Remembering
from sslkernels.ops.dtypes import wide
from sslkernels.teacher import EMA, update_momentum

__all__ = ["EMA", "Center", "MemoryBank", "MemoryQueue", "update_momentum"]


class MemoryQueue(Remembering):
    """A ring of the last ``size`` keys, saved with the model. Batches may have any size; none is cut at the ring's end.

    Args:
        size: rows kept.
        dim: features per row.
        backend: see `sslkernels.functional.queue_update_`.

    The ring starts with random unit rows, as MoCo's does. Reading ``keys (size, dim)`` makes no copy, and `info_nce`
    keeps none for its backward, so keys may be enqueued between forward and backward. ``keys`` and ``position`` are in
    ``state_dict()`` and move with the module. They are no buffers: inside DistributedDataParallel every rank keeps its
    own.

    >>> import torch, sslkernels as sk
    >>> queue = sk.MemoryQueue(size=4, dim=2)
    >>> queue.enqueue(torch.ones(6, 2))
    >>> queue.keys.sum().item(), int(queue.position)
    (8.0, 2)
    """

    keys: Tensor
    position: Tensor
    remembered = ("keys", "position")

    def __init__(self, size: int, dim: int, *, backend: str | None = None) -> None:
        super().__init__()
        dim = check_count("MemoryQueue", "dim", dim, 1)
        size = check_count("MemoryQueue", "size", size, dim)
        self.backend = check_backend(backend)
        with torch.inference_mode(False):  # tensors made in inference mode cannot be written outside it
            self.keys = F.normalize(torch.randn(size, dim), dim=1)
            self.position = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def enqueue(self, keys: Tensor, *, group: GroupLike = None) -> None:
        """Write rows ``(N, dim)`` at the ring's position. If the batch is longer than the ring, its newest rows stay.

        With a ``group`` the rows of every rank are written in the order of the ranks, so that all queues are the same.
        They begin as that of the group's first rank (see `agree`). Ranks may hold different N.
        """
        dim = self.keys.shape[1]
        if check_rows("MemoryQueue", "keys", keys).shape[1] != dim:
            raise ValueError(f"MemoryQueue: keys has shape {shape_of(keys)}; expected (N, {dim}).")
        self.agree(group)
        shard = shard_of(group, "MemoryQueue", keys, size=len(self.keys), position=self.position)
        queue_update_(self.keys, all_rows(keys, shard), self.position, backend=self.backend)


class MemoryBank(Remembering):
    """One unit row for each training sample, which follows the sample's embeddings (Wu et al. 2018; PIRL).

    Args:
        samples: rows, one for each training sample.
        dim: features per row.
        momentum: share of the old row that an update keeps, from 0 to 1.

    The bank starts with random unit rows. Reading ``rows (samples, dim)`` makes no copy. ``rows`` are in
    ``state_dict()`` and move with the module. They are no buffer: inside DistributedDataParallel every rank keeps its
    own.

    >>> import torch, sslkernels as sk
    >>> bank = sk.MemoryBank(samples=4, dim=2, momentum=0.0)
    >>> bank.update(torch.tensor([2]), torch.tensor([[3.0, 4.0]]))
    >>> bank.rows[2]
    tensor([0.6000, 0.8000])
    """

    rows: Tensor
    remembered = ("rows",)

    def __init__(self, samples: int, dim: int, momentum: float = 0.5) -> None:
        super().__init__()
        dim = check_count("MemoryBank", "dim", dim, 1)
        samples = check_count("MemoryBank", "samples", samples, dim)
        self.momentum = check_number("MemoryBank", "momentum", momentum, least=0, most=1)
        with torch.inference_mode(False):  # tensors made in inference mode cannot be written outside it
            self.rows = F.normalize(torch.randn(samples, dim), dim=1)

    @torch.no_grad()
    def update(self, index: Tensor, rows: Tensor, *, group: GroupLike = None) -> None:
        """Move the rows of some samples: ``new_i = normalise(m * old_i + (1 - m) * rows_i)``.

        Args:
            index: int64 or int32 ``(N,)``, the samples. Of a sample that comes several times the last row alone counts.
            rows: the samples' embeddings ``(N, dim)``, blended as given: pass unit rows. Any floating-point dtype.
            group: with it the rows of every rank are written, in the order of the ranks, so that all banks are the
                same. They begin as that of the group's first rank (see `agree`). Ranks may hold different N.

        Raises:
            IndexError: a sample outside ``[0, samples)``, checked on the CPU; on a GPU torch's own assertion stops it.
            ValueError, TypeError: shapes, dtypes or devices that do not match.

        Cost: ``N`` rows are read and written; sorting the index takes ``O(N log N)``.
        """
        index = self.check_index(index, rows)
        self.agree(group)
        shard = shard_of(group, "MemoryBank", rows, samples=len(self.rows), momentum=self.momentum)
        index, rows = all_rows(index, shard), all_rows(rows, shard)
        # All copies of a sample write the row of its last one, so that the order of writing does not matter.
        ordered, order = index.sort(stable=True)
        rows = rows[order[torch.searchsorted(ordered, index, right=True) - 1]]
        dtype = wide(self.rows.dtype)
        blended = torch.lerp(rows.to(dtype), self.rows[index].to(dtype), self.momentum)
        self.rows[index] = F.normalize(blended, dim=1).to(self.rows.dtype)

    def check_index(self, index: Tensor, rows: Tensor) -> Tensor:
        """Check samples ``(N,)`` and their rows ``(N, dim)`` as `update` does; the samples come back as int64."""
        dim = self.rows.shape[1]
        if check_rows("MemoryBank", "rows", rows).shape[1] != dim:
            raise ValueError(f"MemoryBank: rows has shape {shape_of(rows)}; expected (N, {dim}).")
        check_device("MemoryBank", "rows", rows, "the bank", self.rows)
        index = check_tensor("MemoryBank", "index", index, "(N,), int64 or int32")
        if index.dtype not in INDEX_DTYPES:
            raise TypeError(f"MemoryBank: index has dtype {index.dtype}; accepted are int64 and int32.")
        if index.shape != rows.shape[:1]:
            raise ValueError(
                f"MemoryBank: index has shape {shape_of(index)} and rows {shape_of(rows)}; expected (N,) and (N, D)."
            )
        check_device("MemoryBank", "index", index, "rows", rows)
        if index.device.type == "cpu" and index.numel():
            low, high = (int(bound) for bound in index.aminmax())
            if low < 0 or high >= len(self.rows):
                raise IndexError(
                    f"MemoryBank: index holds {low if low < 0 else high}; samples run from 0 to {len(self.rows) - 1}."
                )
        return index.long()


class Center(Remembering):
    """The running mean of a teacher's logits, which DINO takes off them so that no prototype gets all rows.

    ``center <- m * center + (1 - m) * mean_i(t_i) @ weight.T``, over all rows t since the last update: the mean of
    linear logits is the logit of the mean row, so that no logits are computed (Caron et al. 2021, arXiv 2104.14294).

    Args:
        num: number of prototypes, K.
        momentum: share of the old centre that an update keeps, from 0 to 1.

    `collect` rows after each forward, `update` once after the optimizer's step: the micro-batches of an accumulation
    then move the centre once, as one batch would. ``center (1, K)`` begins at zero, has the name and shape of official
    checkpoints, is in ``state_dict()`` and moves with the module. It is no buffer: inside DistributedDataParallel every
    rank keeps its own. Rows that no update has used are not saved.

    >>> import torch, sslkernels as sk
    >>> center = sk.Center(num=2, momentum=0.5)
    >>> center.collect(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> center.update(weight=torch.eye(2))
    >>> center.bias(temperature=0.5)
    tensor([-0.5000, -0.5000])
    """

    center: Tensor
    remembered = ("center",)

    def __init__(self, num: int, momentum: float = 0.9) -> None:
        super().__init__()
        num = check_count("Center", "num", num, 1)
        self.momentum = check_number("Center", "momentum", momentum, least=0, most=1)
        with torch.inference_mode(False):  # tensors made in inference mode cannot be written outside it
            self.center = torch.zeros(1, num)
        self._rows: list[Tensor] = []

    def collect(self, teacher: Tensor) -> None:
        """Keep the teacher's rows ``(N, D)``, those that enter its last layer, until the next `update`."""
        self._rows.append(check_rows("Center", "teacher", teacher).detach())

    @torch.no_grad()
    def update(self, weight: Tensor, *, group: GroupLike = None) -> None:
        """Move the centre by the rows that were collected; without any it stays.

        Args:
            weight: the prototypes ``(K, D)`` with which the teacher had the rows: before the teacher moves.
            group: with it the rows of every rank count, and all ranks have one centre. It begins as that of the group's
                first rank (see `agree`). Ranks may hold different N.
        """
        if not self._rows:
            return
        self.agree(group)
        center_update_(self.center[0], torch.cat(self._rows), weight, self.momentum, group=group)
        self._rows.clear()

    def bias(self, temperature: float | Tensor) -> Tensor:
        """Give ``-center / temperature``, ``(K,)``: what `prototype_cross_entropy` adds to the teacher's logits."""
        return -self.center[0] / check_temperature("Center", temperature)
