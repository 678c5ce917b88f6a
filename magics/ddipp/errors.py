"""What can go wrong, each as one line for the person at the notebook."""

from __future__ import annotations

import re


class DdippError(Exception):
    """A problem with a remedy. Shown as its one line, without a traceback."""

    def _render_traceback_(self, *_: object) -> list[str]:
        return [f"ddipp: {self}"]


class RankTraceback(Exception):
    """The traceback of a rank, as text; Python shows it above the exception that it caused."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(lines)

    def __str__(self) -> str:
        return "\n" + re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(self.args[0]))


class CellFailed(DdippError):
    """A cell failed on at least one rank.

    Attributes
    ----------
    errors : dict of int to Exception
        The failure of each rank that failed, by rank.
    """

    def __init__(self, summary: str, errors: dict[int, Exception], traceback: list[str]) -> None:
        super().__init__(summary)
        self.errors = errors
        self._traceback = traceback
        if traceback:
            self.__cause__ = RankTraceback(traceback)  # a script has nobody else to show it

    def _render_traceback_(self, *_: object) -> list[str]:
        return [*self._traceback, f"ddipp: {self}"]


class CellInterrupted(CellFailed):
    """A cell was interrupted from the notebook."""


class DevicesLost(DdippError):
    """Ranks whose process can't use its GPU any more, until it is started again.

    Attributes
    ----------
    ranks : list of int
        Which.
    """

    def __init__(self, causes: dict[int, str]) -> None:
        self.ranks = sorted(causes)
        one = len(causes) == 1
        named = ", ".join(map(str, self.ranks))
        super().__init__(
            f"{'rank' if one else 'ranks'} {named} can't use {'its GPU' if one else 'their GPUs'} "
            f"any more ({next(iter(causes.values()))}). What is in main memory is there: save what "
            f"you need with %dipull -r {self.ranks[0]} name, then let %makedip --renew start "
            f"{'it' if one else 'them'} again"
        )


class RanksLost(DdippError):
    """Ranks have died since the last cell and lost their variables; nothing was run."""
