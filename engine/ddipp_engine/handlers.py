"""Signal handlers of user code: what they raise belongs to a request, and not to the engine.

torch's for SIGCHLD raises when a worker of a DataLoader has died. Between requests that would end
the event loop, and with it the engine; the loader notices its worker when it is used again.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from typing import Any

import _ddipp_engine as host

_NUMBERS = [
    getattr(signal, name)
    for name in ("SIGCHLD", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGUSR1", "SIGUSR2", "SIGHUP")
]


def guard(is_busy: Callable[[], bool]) -> None:
    """Keep handlers that were set since the last call from raising while nothing runs."""
    for number in _NUMBERS:
        handler = signal.getsignal(number)
        if callable(handler) and not hasattr(handler, "_ddipp_handler"):
            signal.signal(number, _guarded(handler, is_busy))


def _guarded(handler: Any, is_busy: Callable[[], bool]) -> Any:
    def handle(number: int, frame: Any) -> None:
        try:
            handler(number, frame)
        except BaseException as error:
            if is_busy():
                raise
            host.log(logging.WARNING, f"a handler of {signal.Signals(number).name}: {error!r}")

    handle._ddipp_handler = handler  # type: ignore[attr-defined]
    return handle
