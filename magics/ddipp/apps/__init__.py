"""Apps: what a client library needs on the ranks before its notebooks run under DDP.

An app is a class with the methods of :class:`App`, found by an entry point of the group
``ddipp.apps``.
"""

from __future__ import annotations

import sys
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


_active: App | None = None


def start_here(name: str) -> None:
    """Prepare this rank for a library, in place of what it was prepared for."""
    import os

    from IPython import get_ipython

    global _active
    stop_here()
    app = load_app(name)
    # Libraries ask the builtin get_ipython, which there is while a cell runs, for the front end.
    with get_ipython().builtin_trap:
        app.start(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    _active = app


def is_active() -> bool:
    """Tell whether this rank is prepared for a library."""
    return _active is not None


def stop_here() -> None:
    """Undo `start_here`."""
    global _active
    if _active is not None:
        _active.stop()
        _active = None


def app_for_imports() -> str:
    """Return the app for the libraries that this process has imported; ``"torch"`` for none."""
    if "fastai" in sys.modules:
        version = str(getattr(sys.modules["fastai"], "__version__", "2"))
        return "fastai_v1" if version.startswith("1.") else "fastai_v2"
    for module, app in (
        ("lightning", "lightning"),
        ("pytorch_lightning", "lightning"),
        ("accelerate", "accelerate"),
    ):
        if module in sys.modules:
            return app
    return "torch"


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
