# SPDX-License-Identifier: Apache-2.0
"""Writes files so that they are whole or not there, and reads regular files only."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

# The ending of the temporary file that a killed process leaves.
PARTIAL = ".partial"


def write_atomically(path: Path, content: str | bytes | Callable[[BinaryIO], Any]) -> None:
    """Write ``path`` under a temporary name, then rename: whoever reads it sees the old file or the whole new one.

    Args:
        path: a regular file, or a name that is free; a symbolic link is followed.
        content: text (as UTF-8), bytes, or a function that writes them into the file that it is given.

    Raises:
        OSError: one sentence with the file and the cause, such as a full disk. The old file is then untouched, and no
            temporary file is left.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
    >>> write_atomically(path, "whole")
    >>> path.read_text()
    'whole'
    """
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        raise OSError(f"{path} is no regular file and cannot be written; pass another name.")
    # The name is random, since two processes may write the same file; a suffix might make a long name too long.
    temporary = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}{PARTIAL}")
    try:
        with naming(path, "; no older file was changed"):
            with open(temporary, "xb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content if isinstance(content, bytes) else content.encode())
                file.flush()
                os.fsync(file.fileno())  # or the rename may reach the disk before the content does
            os.replace(temporary, target)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


@contextmanager
def naming(path: Path, more: str = "") -> Iterator[None]:
    """Turn what goes wrong while ``path`` is written into one sentence that names it and the cause."""
    try:
        yield
    except Exception as error:
        cause = _os_error(error)
        if cause is None:
            raise
        raise type(cause)(f"{path} cannot be written: {cause.strerror or cause}{more}.") from error


def _os_error(error: BaseException | None) -> OSError | None:
    """Find the OSError that led to ``error``: torch.save hides a full disk behind a RuntimeError of its own."""
    found = None
    while error is not None:
        if isinstance(error, OSError):
            found = error
        error = error.__cause__ or error.__context__
    return found


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading. Anything else, such as a fifo, is refused before it can block or lose data.

    Raises:
        OSError: it holds the cause alone, such as "it is a fifo"; the caller names the file and what to do.

    >>> import tempfile
    >>> open_regular(tempfile.gettempdir())
    Traceback (most recent call last):
        ...
    OSError: it is a folder and no regular file
    """
    _check_regular(os.stat(path).st_mode)
    # The file may have been replaced since the check. Opened like this, a fifo does not wait for its writer.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))
    try:
        _check_regular(os.fstat(file.fileno()).st_mode)
    except OSError:
        file.close()
        raise
    return file


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "fifo", stat.S_IFDIR: "folder", stat.S_IFSOCK: "socket"}
        raise OSError(f"it is a {kinds.get(stat.S_IFMT(mode), 'device')} and no regular file")


def cause_of(error: Exception) -> str:
    """Put the words of an error on one line. A system error's number and file name are left to the caller."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(words.split()).rstrip(".") or type(error).__name__
