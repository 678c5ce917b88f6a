"""What several ranks have shown, in one order, with what they show alike as one entry."""

from __future__ import annotations

import bisect
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

#: The stream of what is not text.
RICH = "rich"


@dataclass(eq=False)
class Entry:
    """A line, or something rich, that one or more ranks have shown.

    Attributes
    ----------
    ranks : set of int
        Who has shown it; nobody any more after a rank has cleared its output.
    stream : str
        ``"stdout"``, ``"stderr"``, or :data:`RICH`.
    text : str
        Line end included, unless the line is not complete; what is equal for equal rich outputs.
    since : float
        When it came.
    begun : bool
        Some of it is on a stream already, so it can't become one with an equal entry.
    closed : bool
        No other rank may join it any more.
    """

    ranks: set[int]
    stream: str
    text: str
    since: float
    begun: bool = False
    closed: bool = False

    @property
    def complete(self) -> bool:
        """Whether it does not grow any more."""
        return self.stream == RICH or self.text.endswith("\n")


@dataclass
class _Rank:
    last: int = -1  # its last entry
    growing: int = -1  # its entry that is not complete
    before: int = -1  # its last entry before that


@dataclass
class Changes:
    """What is different since it was asked for last.

    Attributes
    ----------
    changed : set of int
        Entries, by their place, that are new, have grown, or that more or fewer ranks have shown.
    joined : list of tuple
        A rank, and the place of the entry of others that it has now shown too, in order.
    """

    changed: set[int] = field(default_factory=set)
    joined: list[tuple[int, int]] = field(default_factory=list)


class Transcript:
    """Merges what ranks show: the order of each rank is kept, equal lines become one.

    A pure state machine: times are given to it.

    Parameters
    ----------
    ranks : collection of int
        Whose output it is.
    fold_s : float
        How long after an entry another rank may join it.
    """

    def __init__(self, ranks: Collection[int], fold_s: float) -> None:
        self.entries: list[Entry] = []
        self._ranks = {rank: _Rank() for rank in sorted(ranks)}
        self._fold_s = fold_s
        self._places: dict[tuple[str, str], list[int]] = {}  # of entries that are complete
        self._changes = Changes()

    def add(self, rank: int, stream: str, text: str, now: float) -> None:
        """Take text that a rank has written."""
        text = text.replace("\r\n", "\n")
        for piece in text.splitlines(keepends=True) if "\r" not in text else _lines(text):
            self._add_piece(rank, stream, piece, now)

    def _add_piece(self, rank: int, stream: str, piece: str, now: float) -> None:
        of = self._ranks[rank]
        if of.growing >= 0 and self.entries[of.growing].stream == stream:
            return self._grow(rank, of.growing, piece, now)
        of.growing = -1  # what it has written to the other stream stays as it is
        line = _overwritten(piece)
        if not line.endswith("\n") or not self._join(rank, stream, line, of.last, now):
            self._append(rank, stream, line, now)

    def _grow(self, rank: int, place: int, piece: str, now: float) -> None:
        of = self._ranks[rank]
        entry = self.entries[place]
        entry.text = _overwritten(entry.text + piece)
        self._changes.changed.add(place)
        if not entry.complete:
            return
        of.growing = -1
        if not entry.begun and self._join(rank, entry.stream, entry.text, of.before, now):
            entry.ranks.discard(rank)
        else:
            bisect.insort(self._places.setdefault((entry.stream, entry.text), []), place)

    def add_rich(self, rank: int, key: str, now: float) -> int:
        """Take something that a rank has displayed; `key` is equal for what looks alike.

        Returns
        -------
        int
            The place of its entry.
        """
        of = self._ranks[rank]
        of.growing = -1
        if not self._join(rank, RICH, key, of.last, now):
            self._append(rank, RICH, key, now)
        return of.last

    def clear(self, rank: int) -> None:
        """Forget what a rank has shown."""
        for place, entry in enumerate(self.entries):
            if rank in entry.ranks:
                entry.ranks.discard(rank)
                self._changes.changed.add(place)
        self._ranks[rank] = _Rank()

    def is_shown(self) -> bool:
        """Tell whether something is left that was not cleared."""
        return any(entry.ranks for entry in self.entries)

    def changes(self) -> Changes:
        """Return what has changed since the last call."""
        changes, self._changes = self._changes, Changes()
        return changes

    def shown_by_all(self, entry: Entry) -> bool:
        """Tell whether every rank has shown an entry."""
        return len(entry.ranks) == len(self._ranks)

    def _join(self, rank: int, stream: str, text: str, after: int, now: float) -> bool:
        """Make a rank one of those that have shown an entry that comes after its last one."""
        places = self._places.get((stream, text), [])
        begin = bisect.bisect_right(places, after)
        for place in places[begin : begin + 8]:
            entry = self.entries[place]
            open_to_all = bool(entry.ranks) and not entry.closed
            if open_to_all and rank not in entry.ranks and now - entry.since <= self._fold_s:
                entry.ranks.add(rank)
                self._ranks[rank].last = place
                self._changes.changed.add(place)
                self._changes.joined.append((rank, place))
                return True
        return False

    def _append(self, rank: int, stream: str, text: str, now: float) -> None:
        entry = Entry({rank}, stream, text, now)
        place = len(self.entries)
        self.entries.append(entry)
        self._changes.changed.add(place)
        of = self._ranks[rank]
        of.before, of.last = of.last, place
        if entry.complete:
            self._places.setdefault((stream, text), []).append(place)
        else:
            of.growing = place


def _lines(text: str) -> list[str]:
    """Split at line ends only, not at the carriage returns of bars."""
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _overwritten(line: str) -> str:
    """Return what is seen of a line after its carriage returns."""
    if "\r" not in line:
        return line
    end = "\n" if line.endswith("\n") else ""
    body = line.removesuffix("\n")
    seen = body.rstrip("\r").rpartition("\r")[2]
    # One at the end takes effect with what comes next.
    return seen + ("\r" if body.endswith("\r") and not end else "") + end


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


def as_text(entries: Sequence[Entry]) -> str:
    """Return lines below labels that say who has written them; without the last line end."""
    pieces: list[str] = []
    label: set[int] = set()
    for entry in entries:
        if not entry.ranks:
            continue
        if pieces and not pieces[-1].endswith("\n"):
            pieces.append("\n")
        if entry.ranks != label:
            label = set(entry.ranks)
            pieces.append(f"[{ranks_label(label)}]\n")
        pieces.append(entry.text.rstrip("\r"))
    return "".join(pieces).removesuffix("\n")
