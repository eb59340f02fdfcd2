"""A polite end: the first signal asks, the second one insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether somebody asked this process to stop."""

    def __init__(self) -> None:
        self.requested = False

    def receive(self, number: int, _: FrameType | None) -> None:
        """Note the first signal; at the second, leave at once with the exit code shells give to it.

        Raises:
            SystemExit: It is the second; what is half written is removed on the way out.
        """
        if self.requested:
            raise SystemExit(128 + number)
        self.requested = True


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Yield a request that SIGTERM and SIGINT fill in; who listened before listens again afterwards.

    Only the main thread of a program hears signals; elsewhere the request stays empty.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.receive) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            # None: a handler that was not set from Python and cannot be given back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
