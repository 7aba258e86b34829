# SPDX-License-Identifier: Apache-2.0
"""Lines for a terminal, from text that a user's files and variables may have brought."""

from __future__ import annotations

import os
import sys


def printable(text: str) -> str:
    """``text`` on one line, without what a terminal would obey or an encoding refuse.

    >>> printable("a \\x1b[31mred\\x1b[0m\\nfile")
    'a \\\\x1b[31mred\\\\x1b[0m\\\\nfile'
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def say(line: str) -> None:
    """Print ``line`` at once. Once nobody can read it, further lines go nowhere: whoever works goes on working."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(printable(line).encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        silence()
        print(f"sslkernels: the output cannot be written ({error.strerror}); the work goes on.", file=sys.stderr)


def silence() -> None:
    """Let standard output go nowhere; the interpreter would complain of what is left in its buffer at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
