# SPDX-License-Identifier: Apache-2.0
"""Let the rows of each rank meet those of every rank without gathering them: blocks travel round a ring.

A rank keeps its own rows. Its block of travelling rows visits every rank, and what the visits add up, such as the
block's gradient, comes home. Two copies of each block travel in opposite directions and share the visits:

    batch 0         the own block leaves both ways;                      meanwhile it meets its own rows
    batch t         visitor t goes on, the next one arrives, and what
                    visits before added up to follows a step behind;     meanwhile visitor t meets the own rows
    last batch      sums go home from the last rank that was visited

Transfers of a batch are posted before a block meets rows, and waited for after it. So with W ranks there are
(W - 1) / 2 rounds, rounded up, and a rank holds two visitors and the two that arrive, whatever W is. Each rank sends
W - 1 blocks, and as many sums. Sizes are known to all, and an empty block is not sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sslkernels.distributed import Shard

# Takes the tensors of a visitor, and its rank. Returns what the visit adds to each of the visitor's sums.
Visit = Callable[[Sequence[Tensor], int], Sequence[Tensor]]
Add = Callable[[Tensor, Tensor], Tensor]


def travel(
    block: Sequence[Tensor], visit: Visit, sums: Sequence[Tensor], shard: Shard, add: Add = torch.add
) -> list[Tensor]:
    """Let ``block`` and those of all other ranks visit each rank, and return the sums that belong to ``block``.

    The tensors of a block have a row for each of ``shard.sizes``, and the same widths and dtypes on every rank. A visit
    returns one tensor for each of ``sums``, whose width and dtype it has, and a row for each of the visitor's; an empty
    list lets nothing travel home. ``add`` joins what two visits return, in any order. Every rank must call with the
    same ``sums`` and ``add``.
    """
    block = [x.contiguous() for x in block]
    ways = _Way(1, shard.ranks // 2), _Way(-1, (shard.ranks - 1) // 2)
    journeys = [_Journey(way, block, sums, add, shard) for way in ways if way.visits]
    home: list[Tensor] = []
    for time in range(max((journey.way.visits for journey in journeys), default=0) + 2):
        messages = [message for journey in journeys for message in journey.messages(time)]
        sent = _started(messages, shard)
        if time == 0:
            home = list(visit(block, shard.rank))
        added = [journey.visited(time, visit) for journey in journeys]
        for request in sent:
            request.wait()
        for journey, some in zip(journeys, added, strict=True):
            journey.arrived(time, some)
    for journey in journeys:
        home = _joined(add, home, journey.home)
    return home


class _Way(NamedTuple):
    step: int  # to the next rank: 1 or -1
    visits: int  # of other ranks


class _Message(NamedTuple):
    """Hold a tensor that is sent to a rank of the group, or received from it.

    Both ends list the messages of a pair of ranks in one order, since NCCL knows no tags.
    """

    tensor: Tensor
    peer: int
    sends: bool
    tag: int


class _Journey:
    """Hold what one rank sees of the blocks that travel one way: the visitor, the next one, and what sums arrive."""

    def __init__(self, way: _Way, block: list[Tensor], sums: Sequence[Tensor], add: Add, shard: Shard) -> None:
        self.way, self.shard, self.sums, self.add = way, shard, sums, add
        self.visitor = block
        self.following: list[Tensor] = []  # the visitor of the next batch, while it arrives
        self.left: list[Tensor] = []  # sums of the visitor before, which follow it
        self.before: list[Tensor] = []  # sums that the visitor brings from other ranks
        self.home: list[Tensor] = []  # sums of the own block

    def messages(self, time: int) -> list[_Message]:
        """List what is sent and received while visitor ``time`` meets the rows; visitor 0 is the own block."""
        visits, found = self.way.visits, []
        ahead, behind = self._rank(1), self._rank(-1)
        if time < visits:
            self.following = self._like(self.visitor, self._rank(-time - 1))
            found += self._both(self.visitor, ahead, self.following, behind, 0)
        if 2 <= time <= visits:
            self.before = self._like(self.sums, self._rank(-time))
            found += self._both(self.left, ahead, self.before, behind, 1)
        elif time == visits + 1:
            self.home = self._like(self.sums, self.shard.rank)
            found += self._both(self.left, self._rank(-visits), self.home, self._rank(visits), 2)
        return found

    def visited(self, time: int, visit: Visit) -> list[Tensor]:
        return list(visit(self.visitor, self._rank(-time))) if 1 <= time <= self.way.visits else []

    def arrived(self, time: int, added: list[Tensor]) -> None:
        """Take in what the messages of this ``time`` brought, and what its visit added."""
        if 1 <= time <= self.way.visits:
            self.left = _joined(self.add, added, self.before) if self.before else added
            self.before = []
        if time < self.way.visits:
            self.visitor, self.following = self.following, []

    def _rank(self, steps: int) -> int:
        return (self.shard.rank + steps * self.way.step) % self.shard.ranks

    def _like(self, tensors: Sequence[Tensor], rank: int) -> list[Tensor]:
        """Make room for such tensors with the rows of a rank."""
        return [x.new_empty((self.shard.sizes[rank], *x.shape[1:])) for x in tensors]

    def _both(self, sent: list[Tensor], to: int, received: list[Tensor], of: int, kind: int) -> list[_Message]:
        places = range(max(len(sent), len(received)))
        tags = [(kind * 2 + (self.way.step > 0)) * 16 + place for place in places]
        return [
            *(_Message(x, to, True, tag) for x, tag in zip(sent, tags, strict=False)),
            *(_Message(x, of, False, tag) for x, tag in zip(received, tags, strict=False)),
        ]


def _joined(add: Add, mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> list[Tensor]:
    return [add(one, other) for one, other in zip(mine, theirs, strict=True)]


def _started(messages: Sequence[_Message], shard: Shard) -> Sequence[Any]:
    """Start all transfers together. Sent one by one, NCCL would have every rank wait for the next one to receive."""
    wanted = [
        dist.P2POp(dist.isend if m.sends else dist.irecv, m.tensor, group=shard.group, tag=m.tag, group_peer=m.peer)
        for m in messages
        if m.tensor.numel()
    ]
    return dist.batch_isend_irecv(wanted) if wanted else ()
