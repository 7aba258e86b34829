# SPDX-License-Identifier: Apache-2.0
"""Prints lines on a terminal, even if their text comes from a user's files or variables."""

from __future__ import annotations

import os
import sys


def printable(text: str) -> str:
    """Put ``text`` on one line, with escapes for what a terminal would obey or an encoding refuse.

    >>> printable("a \\x1b[31mred\\x1b[0m\\nfile")
    'a \\\\x1b[31mred\\\\x1b[0m\\\\nfile'
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def say(line: str) -> None:
    """Print ``line`` at once. Once nobody can read the output, further lines are dropped and the work goes on."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(printable(line).encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        silence()
        print(f"sslkernels: the output cannot be written ({error.strerror}); the work goes on.", file=sys.stderr)


def silence() -> None:
    """Drop all further output; otherwise the interpreter would complain of the full buffer at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
