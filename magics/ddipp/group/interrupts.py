"""Ctrl-C while something runs that must not be left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any


class Interrupts:
    """Counts Ctrl-C inside a ``with`` block, instead of raising at whatever line has been reached.

    One that nobody has taken is raised at the end of the block. In a thread other than the main
    one, which Python does not interrupt, it counts nothing.

    Attributes
    ----------
    wake : callable
        Called at each; may be set to what ends a wait.
    """

    def __init__(self) -> None:
        self._count = 0
        self._taken = 0
        self._before: Any = None
        self.wake: Callable[[], None] = lambda: None

    def take(self) -> bool:
        """Tell whether there is one that was not taken, and take it."""
        if self._taken == self._count:
            return False
        self._taken += 1
        return True

    def _note(self, *_: object) -> None:
        self._count += 1
        self.wake()

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        unknown = self._before is None  # it was not set from Python
        signal.signal(signal.SIGINT, signal.default_int_handler if unknown else self._before)
        if kind is None and self.take():
            raise KeyboardInterrupt
