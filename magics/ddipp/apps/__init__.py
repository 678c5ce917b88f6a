"""Apps: what a client library needs on the ranks before its notebooks run under DDP.

An app is a class with the methods of :class:`App`, found by an entry point of the group
``ddipp.apps``.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Protocol

from ..errors import DdippError


class App(Protocol):
    """What an app provides. Its methods run on the ranks."""

    def start(self, rank: int, world_size: int) -> None:
        """Prepare this rank; called once after the first group was formed."""

    def stop(self) -> None:
        """Undo `start`."""


def known_apps() -> list[str]:
    """Return the names of the installed apps."""
    return sorted(entry.name for entry in entry_points(group="ddipp.apps"))


def load_app(name: str) -> App:
    """Return the app of that name.

    Raises
    ------
    DdippError
        When no such app is installed.
    """
    for entry in entry_points(group="ddipp.apps"):
        if entry.name == name:
            return entry.load()()
    raise DdippError(
        f"there is no app {name!r}; installed are: {', '.join(known_apps()) or 'none'}"
    )
