"""Directs every cell to the group, except those that ask to stay."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

#: A cell with a line that ends with this comment runs in the notebook.
LOCAL_MARK = "#dip_locally"
_LOCAL = re.compile(r"# ?dip_locally$")  # with the space that formatters insert

#: Cells that begin with one of these are for the notebook by their nature.
OWN_MAGICS = (
    "%makedip",
    "%dipstat",
    "%dipush",
    "%dipull",
    "%dipsync",
    "%dipper",
    "%dip ",
    "%autodip",
    "%load_ext",
    "%reload_ext",
)

#: On a rank these would end the rank.
EXITS = ("exit", "quit", "exit()", "quit()")


def directed_lines(lines: list[str], flags: str) -> list[str]:
    """Put ``%%dip`` in front of a cell unless it names its place itself.

    Parameters
    ----------
    lines : list of str
        The cell as IPython's transformers take it, line ends included.
    flags : str
        Passed on to ``%%dip``.
    """
    text = [line.strip() for line in lines]
    first = next((line for line in text if line), "")
    stays = (
        first.startswith(("%%", *OWN_MAGICS))
        or first in EXITS
        or any(_LOCAL.search(line) for line in text)
    )
    if not first or stays:
        return lines
    return [f"%%dip remote {flags}".rstrip() + "\n", *lines]


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

    @property
    def on(self) -> bool:
        """Whether cells go to the ranks."""
        return self.flags is not None

    def direct(self, lines: list[str]) -> list[str]:
        """Return the lines of a cell with ``%%dip`` above them if they are to go to the ranks."""
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
