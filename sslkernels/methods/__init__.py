# SPDX-License-Identifier: Apache-2.0
"""Reference methods: modules that read like their paper and know nothing of loops, devices or files."""

from __future__ import annotations

from collections.abc import Callable

from sslkernels.methods.method import Method
from sslkernels.methods.simclr import SimCLR

METHODS: dict[str, Callable[..., Method]] = {"simclr": SimCLR}


def available() -> list[str]:
    """Names of the methods, as ``sslkernels train`` takes them.

    >>> import sslkernels.methods
    >>> sslkernels.methods.available()
    ['simclr']
    """
    return sorted(METHODS)


__all__ = ["METHODS", "Method", "SimCLR", "available"]
