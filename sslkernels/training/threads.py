# SPDX-License-Identifier: Apache-2.0
"""Finds by measuring how many threads of a processor make a training step fastest.

Small networks wait at the end of every operator for the slowest thread. With another job beside, MAE took 869 images of
the digits a second on one thread, and 35 on two.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

ROUNDS, STEPS = 3, 2
# More threads are taken only if they save this share of a step: those of a whole machine are not ours alone.
WORTH = 0.05


def fastest_threads(step: Callable[[], object], most: int, clock: Callable[[], float] = time.perf_counter) -> int:
    """Time ``step`` with 1, 2, 4, ... and ``most`` threads by turns; the fewest that are within 5 % of the fastest.

    The number of threads is as before when this returns.

    >>> from sslkernels.training.threads import fastest_threads
    >>> fastest_threads(lambda: None, 1)
    1
    """
    if most < 2:
        return 1
    counts = sorted({most, *(1 << power for power in range(most.bit_length()) if 1 << power < most)})
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    before = torch.get_num_threads()
    try:
        for _ in range(ROUNDS):
            for count in counts:
                torch.set_num_threads(count)
                step()  # threads that have slept wake up
                for _ in range(STEPS):
                    start = clock()
                    step()
                    seconds[count].append(clock() - start)
    finally:
        torch.set_num_threads(before)
    typical = {count: median(values) for count, values in seconds.items()}
    least = min(typical.values())
    return min(count for count in counts if typical[count] <= (1 + WORTH) * least)
