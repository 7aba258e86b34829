# SPDX-License-Identifier: Apache-2.0
"""Lets Ctrl-C and SIGTERM stop a run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

USUAL: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Stopped(BaseException):
    """Says that a signal came. It is no KeyboardInterrupt: after one, the engine ignores every further Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stopping() -> Iterator[None]:
    """Let each SIGINT and SIGTERM stop the work inside the block; it leaves as one of Python's own exceptions.

    A handler of the caller's own is not replaced, and at the end all are as before. Only the main thread may set
    handlers; in others nothing changes.

    Raises:
        KeyboardInterrupt: after SIGINT. SystemExit: with code 143, after SIGTERM.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in USUAL}
    try:
        for number, handler in before.items():
            if handler == USUAL[number]:
                signal.signal(number, _stop)
        yield
    except Stopped as stopped:
        if stopped.number == signal.SIGTERM:
            raise SystemExit(128 + stopped.number) from None
        raise KeyboardInterrupt from None
    finally:
        for number, handler in before.items():
            if handler is not None:  # Python cannot set a handler that it did not set itself
                signal.signal(number, handler)


def _stop(number: int, frame: Any) -> None:
    raise Stopped(number)
