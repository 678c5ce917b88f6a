"""Failures that a rank has only because another one failed first, or because the user interrupted.

Both sides judge alike: the notebook names their cause in one line instead of showing them, so the
ranks need not spend a tenth of a second on a traceback for people.
"""

from __future__ import annotations

import traceback
from typing import Any

INTERRUPTS = ("KeyboardInterrupt", "CancelledError")
_KINDS = ("RuntimeError", "DistBackendError")
_HINTS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Socket",
    "NCCL",
    "aborted",
)


def is_consequence(name: str, value: object) -> bool:
    """Tell whether an exception of that class, with that value or text, has its cause elsewhere."""
    return name in INTERRUPTS or (name in _KINDS and any(hint in str(value) for hint in _HINTS))


def shorten_tracebacks(shell: Any) -> None:
    """Let a shell format consequences as plain Python does.

    Parameters
    ----------
    shell : IPython.InteractiveShell
        Of a rank.
    """
    formatter = shell.InteractiveTB
    rich = formatter.structured_traceback
    if getattr(rich, "shortens", False):
        return

    # The names of its parameters are not the same in all versions of IPython.
    def structured_traceback(*args: Any, **kwargs: Any) -> list[str]:
        kind, value, trace = (*args, None, None, None)[:3]
        if kind is None or not is_consequence(kind.__name__, value):
            return list(rich(*args, **kwargs))
        # The first frame is the shell's own.
        return traceback.format_exception(kind, value, trace and trace.tb_next)

    structured_traceback.shortens = True  # type: ignore[attr-defined]
    formatter.structured_traceback = structured_traceback
