# SPDX-License-Identifier: Apache-2.0
"""Fused kernels for self-supervised learning, as functions, modules and reference methods."""

import torch  # noqa: F401  torch first: it brings the OpenMP runtime that _C then shares

try:
    import sslkernels._C  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        "sslkernels: the compiled module sslkernels._C is missing; install the package with `pip install .` "
        "and run Python from outside the source folder (or with PYTHONSAFEPATH=1)."
    ) from error

from sslkernels import functional, losses
from sslkernels.backends import info, release_workspace, use_backend
from sslkernels.prototypes import Prototypes
from sslkernels.state import EMA, Center, MemoryBank, MemoryQueue, update_momentum

__version__ = "0.1.0"

__all__ = [
    "EMA",
    "Center",
    "MemoryBank",
    "MemoryQueue",
    "Prototypes",
    "__version__",
    "functional",
    "info",
    "losses",
    "release_workspace",
    "update_momentum",
    "use_backend",
]
