# SPDX-License-Identifier: Apache-2.0
"""Update teachers in one pass over all tensors of a model, and queues; see `sslkernels.functional.ema_update_`."""

from sslkernels.ops.ema.pairs import pairs_of
from sslkernels.ops.ema.schema import EMA, enqueue, move, update

__all__ = ["EMA", "enqueue", "move", "pairs_of", "update"]
