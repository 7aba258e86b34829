# SPDX-License-Identifier: Apache-2.0
"""Teachers and queues: one pass over every tensor of a model, and a ring write; `sslkernels.functional.ema_update_`."""

from sslkernels.ops.ema.pairs import pairs_of
from sslkernels.ops.ema.schema import EMA, enqueue, move, update

__all__ = ["EMA", "enqueue", "move", "pairs_of", "update"]
