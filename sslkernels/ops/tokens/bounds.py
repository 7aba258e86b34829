# SPDX-License-Identifier: Apache-2.0
"""Check the indices of tokens. On a CPU a wrong one is an IndexError before anything is read."""

from __future__ import annotations

from torch import Tensor


def check_bounds(index: Tensor, limit: int | None) -> None:
    """Raise an IndexError unless indices (..., B, K) run from 0 to ``limit`` - 1, or from 0 on without a limit."""
    wrong = index < 0
    if limit is not None:
        wrong = wrong | (index >= limit)
    if wrong.any():
        place = tuple(wrong.nonzero()[0].tolist())
        accepted = (
            "from 0 on" if limit is None else f"from 0 to {limit - 1}" if limit else "none, for there is no token"
        )
        raise IndexError(f"index{list(place[-2:])} is {int(index[place])}; accepted are {accepted}.")
