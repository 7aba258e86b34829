# SPDX-License-Identifier: Apache-2.0
"""The work of the kernels that serve every family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sslkernels.ops.work import Count, Work, size_of


def _times(launch: Mapping[str, Any]) -> Work:
    names = ("first", "second", "third", "fourth")
    return Work(
        bytes_read=size_of(launch["number"], *(launch[name] for name in names)),
        bytes_written=size_of(*(launch[f"{name}_out"] for name in names)),
    )


WORK: dict[str, Count] = {"times_kernel": _times}
