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

    Handlers that the caller has set himself stay, and so do those outside the main thread, which has no say in them.

    Raises:
        KeyboardInterrupt: after SIGINT. SystemExit: with code 143, after SIGTERM.
    """
    replaced = []
    if threading.current_thread() is threading.main_thread():
        replaced = [number for number, handler in USUAL.items() if signal.getsignal(number) == handler]
    try:
        for number in replaced:
            signal.signal(number, _stop)
        yield
    except Stopped as stopped:
        if stopped.number == signal.SIGTERM:
            raise SystemExit(128 + stopped.number) from None
        raise KeyboardInterrupt from None
    finally:
        for number in replaced:
            signal.signal(number, USUAL[number])


def _stop(number: int, frame: Any) -> None:
    raise Stopped(number)
