# SPDX-License-Identifier: Apache-2.0
"""`Journal`: a result file that grows while the benchmark runs, so that a kill loses the case in progress and no other.

It stands beside the result file until that is written whole. The same command, run again, goes on from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from sslkernels.bench.records import MOST_BYTES, Record, read
from sslkernels.files import naming, open_regular

# The fields that are the same wherever one case may stand in for another.
_SAME = ("format", "commit", "versions", "device", "threads", "allocator", "precision")


class Journal:
    """The records of the cases that are done, in ``path``, which `records.read` reads at any moment."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def beside(cls, out: Path) -> Journal:
        """The journal of the result file ``out``."""
        return cls(out.with_name(f"{out.name}.part"))

    def append(self, records: Iterable[Record]) -> None:
        """Add lines, and come back when they are on the disk."""
        text = "".join(json.dumps(record) + "\n" for record in records)
        with naming(self.path), open(self.path, "ab+") as file:
            _cut_torn_line(file.fileno())
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def records(self) -> list[Record]:
        """Read the records of an earlier run; there are none if it was killed at its first line."""
        try:
            with open_regular(self.path) as file:
                begun = b"\n" in file.read(MOST_BYTES)
        except OSError:
            return []
        return read(self.path) if begun else []

    def cases(self, shared: Record) -> dict[tuple[str, str, str], Record]:
        """The records by (workload, dtype, provider) that were made where and with what ``shared`` says."""
        return {
            (record["workload"], record["dtype"], record["provider"]): record
            for record in self.records()
            if all(record.get(name) == shared[name] for name in _SAME)
        }

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _cut_torn_line(descriptor: int) -> None:
    """Cut what follows the last newline: a process was killed as it wrote that."""
    size = os.fstat(descriptor).st_size
    torn = size - (os.pread(descriptor, size, 0).rfind(b"\n") + 1)
    if torn:
        os.ftruncate(descriptor, size - torn)
