"""Joins equal lines of several ranks into one."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """Text of one stream that one or more ranks have written.

    Attributes
    ----------
    ranks : tuple of int
        Who wrote it.
    stream : str
        ``"stdout"``, ``"stderr"``, or ``"rich"`` for something else than text.
    text : str
        Line end included, unless the line is not complete; what is equal for equal rich outputs.
    """

    ranks: tuple[int, ...]
    stream: str
    text: str


class Folder:
    """Holds lines back for a moment, to see whether other ranks write the same.

    Lines of a rank keep their order. A pure state machine: times are given to it.

    Parameters
    ----------
    ranks : collection of int
        Whose lines are shown.
    patience_s : float
        How long a line waits for its like.
    """

    def __init__(self, ranks: Collection[int], patience_s: float = 0.25) -> None:
        self._lines: dict[int, deque[tuple[float, str, str]]] = {
            rank: deque() for rank in sorted(ranks)
        }
        self._patience_s = patience_s

    def add(self, rank: int, stream: str, text: str, now: float) -> None:
        """Take what a rank has written."""
        lines = self._lines[rank]
        for piece in text.splitlines(keepends=True):
            if lines and lines[-1][1] == stream and not lines[-1][2].endswith(("\n", "\r")):
                since, _, begun = lines.pop()
                lines.append((since, stream, begun + piece))
            else:
                lines.append((now, stream, piece))

    def add_rich(self, rank: int, key: str, now: float) -> None:
        """Take something that a rank has displayed; `key` is equal for what looks alike."""
        self._lines[rank].append((now, "rich", key))

    def take(self, now: float, *, everything: bool = False) -> list[Line]:
        """Return the lines that need not wait any more.

        Parameters
        ----------
        now : float
            In seconds.
        everything : bool
            Nothing more comes, or it must not wait: return all.
        """
        taken: list[Line] = []
        while heads := {rank: lines[0] for rank, lines in self._lines.items() if lines}:
            oldest = min(heads, key=lambda rank: heads[rank][0])
            since, stream, text = heads[oldest]
            like = tuple(rank for rank, head in heads.items() if head[1:] == (stream, text))
            complete = stream == "rich" or text.endswith(("\n", "\r"))
            all_agree = complete and len(like) == len(self._lines)
            if not (everything or all_agree or now - since >= self._patience_s):
                break
            for rank in like:
                self._lines[rank].popleft()
            taken.append(Line(like, stream, text))
        return taken


def ranks_label(ranks: Collection[int]) -> str:
    """Return ``"rank 1"``, ``"ranks 0-3"`` or ``"ranks 0, 2-3"``."""
    spans: list[list[int]] = []
    for rank in sorted(ranks):
        if spans and spans[-1][-1] == rank - 1:
            spans[-1][1:] = [rank]
        else:
            spans.append([rank])
    text = ", ".join("-".join(map(str, span)) for span in spans)
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {text}"
