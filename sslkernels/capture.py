# SPDX-License-Identifier: Apache-2.0
"""Launch kernels on the device of a tensor, and say in a sentence what the capture of a CUDA graph forbids."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_captured(x: Tensor) -> bool:
    """Say if a CUDA graph is being captured from the current stream of the device of ``x``, which need not be current.

    >>> import torch
    >>> is_captured(torch.ones(1))
    False
    """
    if not x.is_cuda:
        return False
    with torch.cuda.device_of(x):
        return torch.cuda.is_current_stream_capturing()


class launching(torch.cuda.device_of):
    """Enter the device of ``x`` to launch kernels of ``family``.

    A kernel is loaded, and perhaps compiled, when it first runs with some dtypes. The driver may refuse that during the
    capture of a graph; then the error says what to do.

        with launching("tokens", x):
            kernel[grid](x, ...)
    """

    def __init__(self, family: str, x: Tensor) -> None:
        super().__init__(x)
        self.family, self.x = family, x

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        captured = isinstance(error, Exception) and is_captured(self.x)
        super().__exit__(kind, error, trace)
        if captured:
            raise RuntimeError(
                f"sslkernels: a kernel of the {self.family} family cannot be launched while a CUDA graph is captured "
                f"({error}); if it has not run before, call the function once with the same dtypes and options before "
                "the capture, so that it is loaded."
            ) from error
