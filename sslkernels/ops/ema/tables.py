# SPDX-License-Identifier: Apache-2.0
"""Keep the tables from which kernels on a GPU read the addresses of what they update.

A table is an array of int64 on the device. It stays valid while addresses, sizes and dtypes are the same, which
`Pairs.table` says; a step then copies nothing to the device.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from sslkernels.capture import is_captured
from sslkernels.ops.ema.pairs import Pairs

# The last tables are kept. A model needs one for each backend, and another when the address of a tensor has changed. A
# training that makes new tensors at every step would otherwise fill the device with tables.
TABLES = 32

# Both find a table by backend, pairs and device, together with what the host must know of it. The one used last is at
# the end.
_recent: OrderedDict[tuple[str, bytes, torch.device], tuple[Tensor, Any]] = OrderedDict()
_captured: dict[tuple[str, bytes, torch.device], _Captured] = {}


class _Captured(NamedTuple):
    """A table that a CUDA graph reads whenever it is replayed, and the memory that the graph writes."""

    table: tuple[Tensor, Any]
    targets: list[StorageWeakRef]


def device_table(backend: str, pairs: Pairs, build: Callable[[bytes], tuple[np.ndarray, Any]]) -> tuple[Tensor, Any]:
    """Return the array that ``build`` makes of the pairs' table, on their device, and whatever it makes beside that.

    The last `TABLES` of them are kept. Those that a CUDA graph reads are kept until the memory of all their targets was
    given back, since the graph cannot be replayed any more then.
    """
    x = pairs.targets[0]
    key = (backend, pairs.table, x.device)
    if key in _captured:
        return _captured[key].table
    found = _recent.get(key)
    if is_captured(x):
        if found is None:
            raise RuntimeError(
                "ema_update_: a CUDA graph is being captured and these tensors have not been updated before, or not "
                f"within the last {TABLES} sets of tensors; call it once with the same tensors before the capture."
            )
        for other in [other for other, kept in _captured.items() if all(t.expired() for t in kept.targets)]:
            del _captured[other]
        _captured[key] = _Captured(found, [StorageWeakRef(target.untyped_storage()) for target in pairs.targets])
    elif found is None:
        array, plan = build(pairs.table)
        found = _recent[key] = _sent(torch.from_numpy(array), x), plan
        if len(_recent) > TABLES:
            _recent.popitem(last=False)
    else:
        _recent.move_to_end(key)
        if x.is_cuda:  # its memory may be given away only when this stream, too, has read it
            found[0].record_stream(torch.cuda.current_stream(x.device))
    return found


def _sent(array: Tensor, x: Tensor) -> Tensor:
    """Copy to the device of ``x`` in the order of its current stream, without a wait: only pinned memory allows that.

    A stream that reads the copy later need not wait either. Whoever lets two streams write the same targets must put
    them in order, and this copy comes before the first of the writes.
    """
    if not x.is_cuda:
        return array
    with torch.cuda.device_of(x):
        return array.pin_memory().to(x.device, non_blocking=True)
