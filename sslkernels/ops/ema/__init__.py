# SPDX-License-Identifier: Apache-2.0
"""Teachers and queues: one pass over every tensor of a model, and a ring write; `sslkernels.functional.ema_update_`."""

from sslkernels.ops.ema.autograd import queue_update, run, update
from sslkernels.ops.ema.pairs import pairs_of
from sslkernels.ops.registry import is_plain

__all__ = ["is_plain", "pairs_of", "queue_update", "run", "update"]
