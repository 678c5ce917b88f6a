"""To whom a group says what it does: handed in, so that a group knows of no notebook."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from typing import Any, Protocol


class View(Protocol):
    """Shows what ranks print and display."""

    def show(self, rank: int, message: dict[str, Any]) -> None:
        """Show one iopub message."""

    def due_in(self) -> float | None:
        """Return the seconds until :meth:`tick` has something to do, None for nothing known."""

    def tick(self, *, everything: bool = False) -> None:
        """Show what is due, or everything."""

    def end(self, errors: Iterable[Exception] = ()) -> None:
        """Show what is left; the cell has ended, and these errors are going to be raised."""

    def show_late(self, rank: int, message: dict[str, Any]) -> None:
        """Show one iopub message that came after the end; from any thread."""

    def take_payload(self, rank: int, payload: dict[str, Any]) -> None:
        """Do what the reply of a rank asks the front end for."""


class Announcer(Protocol):
    """Where a group's user sits."""

    def say(self, text: str) -> None:
        """Show a line of ours."""

    def view(self, see: Collection[int] | None, world_size: int, quiet: bool) -> View:
        """Return what shows the output of a cell."""

    def is_rich(self) -> bool:
        """Tell whether rich output is shown."""

    def restarts(self) -> bool:
        """Tell whether this process ends because it is to be started again."""


class Silent:
    """Shows nothing but our own lines, on stderr."""

    def say(self, text: str) -> None:
        """Show a line of ours."""
        print(f"ddipp: {text}", file=sys.stderr)

    def view(self, see: Collection[int] | None, world_size: int, quiet: bool) -> View:
        """Return what shows no output."""
        return _NoView()

    def is_rich(self) -> bool:
        """Tell that rich output is not shown."""
        return False

    def restarts(self) -> bool:
        """Tell that this process ends for good."""
        return False


class _NoView:
    def show(self, rank: int, message: dict[str, Any]) -> None:
        """Show nothing."""

    def due_in(self) -> float | None:
        """Know of nothing."""
        return None

    def tick(self, *, everything: bool = False) -> None:
        """Show nothing."""

    def end(self, errors: Iterable[Exception] = ()) -> None:
        """Show nothing."""

    def show_late(self, rank: int, message: dict[str, Any]) -> None:
        """Show nothing."""

    def take_payload(self, rank: int, payload: dict[str, Any]) -> None:
        """Do nothing."""


_default: Announcer = Silent()


def set_default(announcer: Announcer) -> None:
    """Choose who hears of groups that are made without an announcer of their own."""
    global _default
    _default = announcer


def default() -> Announcer:
    """Return who hears of groups that are made without an announcer of their own."""
    return _default
