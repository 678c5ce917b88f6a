"""sys.stdout and sys.stderr of an engine."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import _ddipp_engine as host


class EngineStream(io.TextIOBase):
    """Text that belongs to the request that runs when it is written.

    Parameters
    ----------
    fd : int
        1 for stdout, 2 for stderr; what is written to the descriptor itself reaches clients too.
    pack_parent : callable
        Turns a request into its packed header.
    """

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, fd: int, pack_parent: Callable[[Any], bytes]) -> None:
        super().__init__()
        self._fd = fd
        self._pack_parent = pack_parent
        self._parent = b"{}"
        self.name = {1: "stdout", 2: "stderr"}[fd]

    def set_parent(self, parent: Any) -> None:
        """Attribute what is written from now on to `parent`."""
        self._parent = self._pack_parent(parent)

    def write(self, text: str) -> int:
        """Queue `text`; waits only when output comes faster than it can be sent."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        host.write(self._fd, text.encode("utf-8", "replace"), self._parent)
        return len(text)

    def flush(self) -> None:
        """Send what was written, without waiting for it to arrive."""
        host.flush()

    def fileno(self) -> int:
        """Return the captured descriptor, for subprocesses."""
        return self._fd

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return False."""
        return False

    def close(self) -> None:
        """Do nothing: the stream lives as long as the engine."""
