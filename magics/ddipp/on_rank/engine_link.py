"""The engine below this process, or a stand-in where it is a stock one.

A group of stock engines forms and fails as torch lets it; what is missing is that a rank can be
freed from outside.
"""

from __future__ import annotations

import json
from typing import Any


class StockEngine:
    """What there is of ``_ddipp_engine`` in an engine of ipyparallel: nothing that acts."""

    is_ours = False

    def options(self) -> str:
        """Return no options."""
        return "{}"

    def begin_generation(self, generation: int) -> None:
        """Know no generation."""

    def guard_sockets(self, fds: list[int]) -> None:
        """Guard nothing."""

    def guard_gloo(self) -> str:
        """Say nothing."""
        return ""

    def allow_waits(self) -> None:
        """Allow what is allowed."""

    def cut_sockets(self, generation: int) -> int:
        """Cut nothing."""
        return 0

    def group_state(self) -> tuple[bool, bool, list[str]]:
        """Know of no cut."""
        return False, False, []

    def log(self, level: int, text: str) -> None:
        """Have no log."""


def engine() -> Any:
    """Return the module ``_ddipp_engine``, or a :class:`StockEngine`.

    Asked each time: a process may be loaded before it becomes an engine.
    """
    try:
        import _ddipp_engine
    except ImportError:
        return StockEngine()
    return _ddipp_engine


def is_ours() -> bool:
    """Tell whether this process is an engine of ddipp."""
    return not isinstance(engine(), StockEngine)


def connection() -> dict[str, Any]:
    """Return how the engine reaches its controller; empty for a stock engine."""
    found: dict[str, Any] = json.loads(engine().options()).get("connection", {})
    return found
