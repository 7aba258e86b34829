# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM while a run works."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

USUAL: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Stopped(BaseException):
    """A signal came. It is no KeyboardInterrupt, after which the engine ignores every further Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stopping() -> Iterator[None]:
    """Within, each SIGINT and SIGTERM raises, wherever the work is; what comes out is Python's own.

    A handler of the caller's own is not replaced, and all are as before in the end. Outside the main thread, which has
    the only say in them, nothing changes.

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
            if handler is not None:  # one that Python has not set cannot be set by it
                signal.signal(number, handler)


def _stop(number: int, frame: Any) -> None:
    raise Stopped(number)
