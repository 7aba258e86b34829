# SPDX-License-Identifier: Apache-2.0
"""Builds every method at a small size, whatever its backbone and options."""

from __future__ import annotations

from typing import Any

from sslkernels.methods import METHODS, Method

SIZES = {"projection_dim": 4, "hidden_dim": 4, "queue_size": 8, "patch_size": 4}


def small_method(name: str, **arguments: Any) -> Method:
    """Build the method for images ``(N, 1, 8, 8)``. Options that `SIZES` does not name are as in its preset."""
    method = METHODS[name]
    options = {option: SIZES.get(option, method.preset[option]) for option in method.own_options()}
    return method.small(1, (8, 8), **options, **arguments)
