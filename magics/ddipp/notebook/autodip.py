"""Directs every cell to the group, except those that ask to stay."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

#: A cell with a line that ends with this comment runs in the notebook.
LOCAL_MARK = "#dip_locally"
_LOCAL = re.compile(r"# ?dip_locally$")  # with the space that formatters insert

#: Lines with one of these are for the notebook by their nature.
OWN_MAGICS = frozenset(
    (
        "makedip",
        "dipstat",
        "dipush",
        "dipull",
        "dipsync",
        "dipper",
        "dipdebug",
        "dip",
        "autodip",
        "load_ext",
        "reload_ext",
        "unload_ext",
    )
)

#: On a rank these would end the rank.
EXITS = ("exit", "quit", "exit()", "quit()")

#: What goes on with the statement above it, though it stands at its level.
_CONTINUES = ("else", "elif", "except", "finally", ")", "]", "}")


def directed_lines(lines: list[str], flags: str) -> list[str]:
    """Put ``%%dip`` in front of a cell unless it names its place itself.

    Statements with one of ddipp's own magics stay in the notebook, and what stands above and below
    them goes to the ranks.

    Parameters
    ----------
    lines : list of str
        The cell as IPython's transformers take it, line ends included.
    flags : str
        Passed on to ``%%dip``.
    """
    text = [line.strip() for line in lines]
    first = next((line for line in text if line), "")
    stays = first.startswith("%%") or first in EXITS or any(_LOCAL.search(line) for line in text)
    if not first or stays:
        return lines
    parts = _parts(lines)
    if not any(own for own, _ in parts):
        return [f"%%dip remote {flags}".rstrip() + "\n", *lines]
    directed: list[str] = []
    for own, part in parts:
        if own or not any(_says_something(line) for line in part):
            directed += part
            continue
        where = f"remote {flags}".rstrip()
        directed.append(f"get_ipython().run_cell_magic('dip', {where!r}, {''.join(part)!r})\n")
    return directed


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _parts(lines: list[str]) -> list[tuple[bool, list[str]]]:
    """Cut a cell at the statements that hold one of ddipp's own magics.

    Returns
    -------
    list of tuple
        Whether the part holds such magics, and its lines; all lines in their order.
    """
    statements = _statements(lines)
    parts: list[tuple[bool, list[str]]] = []
    for number, (start, own) in enumerate(statements):
        end = statements[number + 1][0] if number + 1 < len(statements) else len(lines)
        begin = start if number else 0
        if parts and parts[-1][0] == own:
            parts[-1][1].extend(lines[begin:end])
        else:
            parts.append((own, lines[begin:end]))
    return parts


def _statements(lines: list[str]) -> list[tuple[int, bool]]:
    """Return where each statement of a cell begins, and whether it holds one of our magics."""
    from IPython.core.inputtransformer2 import make_tokens_by_line

    found: list[tuple[int, bool]] = []
    decorated = False
    for tokens in make_tokens_by_line(lines):
        words = [one for one in tokens if one.string.strip() and not one.string.startswith("#")]
        if not words:
            continue
        first = words[0]
        is_magic = first.string == "%" and len(words) > 1 and words[1].string in OWN_MAGICS
        inside = first.start[1] > 0 or first.string in _CONTINUES or decorated
        if inside and found:
            start, own = found.pop()
            found.append((start, own or is_magic))
        else:
            found.append((first.start[0] - 1, is_magic))
        decorated = first.string == "@" and first.start[1] == 0
    return found


class Autodip:
    """Directs the cells of a shell to the ranks while it is on.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
        Of the notebook.

    Attributes
    ----------
    flags : str or None
        Passed on to ``%%dip``; None while it is off.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.flags: str | None = None
        self._suspended = False
        shell.input_transformers_cleanup.append(self.direct)
        # A cell magic is complete after an empty line only; what is typed should be as it reads.
        manager = shell.input_transformer_manager
        self._check_complete = manager.check_complete
        manager.check_complete = self._check_as_typed

    def describe(self) -> str:
        """Say where cells run."""
        if self.flags is None:
            return "cells run in the notebook"
        flags = f" as %%dip {self.flags}" if self.flags else ""
        return f"cells run on the ranks{flags}; those with {LOCAL_MARK} stay here"

    @property
    def on(self) -> bool:
        """Whether cells go to the ranks."""
        return self.flags is not None

    def direct(self, lines: list[str]) -> list[str]:
        """Return the lines of a cell with ``%%dip`` above them if they are to go to the ranks."""
        if lines and lines[0].startswith("%%dip") and not "".join(lines[1:]).strip():
            return [lines[0].rstrip("\n") + "\n", "#\n"]  # a cell without code is none of IPython's
        if self.flags is None or self._suspended:
            return lines
        return directed_lines(lines, self.flags)

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Leave cells as they are inside the block."""
        before, self._suspended = self._suspended, True
        try:
            yield
        finally:
            self._suspended = before

    def _check_as_typed(self, cell: str) -> Any:
        with self.suspended():
            return self._check_complete(cell)

    def remove(self) -> None:
        """Leave the shell as it was."""
        self._shell.input_transformers_cleanup.remove(self.direct)
        del self._shell.input_transformer_manager.check_complete
