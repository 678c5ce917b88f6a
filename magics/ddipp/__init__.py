"""DistributedDataParallel training without leaving the notebook.

``%load_ext ddipp`` brings the magics; :class:`ddipp.Group` is the same for scripts.
"""

from __future__ import annotations

from typing import Any

from .errors import CellFailed, CellInterrupted, DdippError

__all__ = ["CellFailed", "CellInterrupted", "DdippError", "Group"]
__version__ = "0.1.0"

_magics: Any = None


def __getattr__(name: str) -> Any:
    # The ranks import this package too and need no client.
    if name == "Group":
        from .group.group import Group

        _show_here()
        return Group
    raise AttributeError(name)


def _show_here() -> None:
    """Let groups show what they do, and their output, in this process."""
    from .group import announcer
    from .notebook.announcer import NotebookAnnouncer

    announcer.set_default(NotebookAnnouncer())


def load_ipython_extension(shell: Any) -> None:
    """Register the magics; called by ``%load_ext ddipp``."""
    from .notebook.magics import DdippMagics

    global _magics
    if _magics is not None:
        return
    _show_here()
    _magics = DdippMagics(shell)
    shell.register_magics(_magics)


def unload_ipython_extension(shell: Any) -> None:
    """End the group; called by ``%unload_ext ddipp``."""
    global _magics
    if _magics is not None:
        magics, _magics = _magics, None
        magics.unload()
