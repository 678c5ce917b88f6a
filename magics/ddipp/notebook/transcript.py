"""What several ranks have shown, in one order, with what they show alike as one entry."""

from __future__ import annotations

import bisect
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

#: The stream of what is not text.
RICH = "rich"


class Entry:
    """A line, or something rich, that one or more ranks have shown.

    Attributes
    ----------
    ranks : frozenset of int
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

    __slots__ = ("begun", "closed", "ranks", "since", "stream", "text")

    def __init__(self, ranks: frozenset[int], stream: str, text: str, since: float) -> None:
        self.ranks = ranks
        self.stream = stream
        self.text = text
        self.since = since
        self.begun = False
        self.closed = False

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
    changed : list of range
        Places of entries that are new, have grown, or that more or fewer ranks have shown.
    joined : list of tuple
        A rank, and the places of entries of others that it has now shown too, in order.
    """

    changed: list[range] = field(default_factory=list)
    joined: list[tuple[int, range]] = field(default_factory=list)


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
        self._indexed = 0  # how many entries are among them
        self._alone = {rank: frozenset((rank,)) for rank in ranks}
        self._changes = Changes()

    def add(self, rank: int, stream: str, text: str, now: float) -> None:
        """Take text that a rank has written."""
        of = self._ranks[rank]
        lines = _lines(text.replace("\r\n", "\n"))
        if of.growing >= 0 and lines:
            self._add_piece(rank, stream, lines.pop(0), now)
        at, whole = 0, len(lines) if "\r" not in text else 0
        if whole and not lines[-1].endswith("\n"):
            whole -= 1
        while at < whole:
            at = self._join_run(rank, stream, lines, at, whole, now)
            if at < whole and of.last == len(self.entries) - 1:  # nobody is ahead of it
                self._append_run(rank, stream, lines[at:whole], now)
                at = whole
            elif at < whole:
                self._add_piece(rank, stream, lines[at], now)
                at += 1
        for piece in lines[whole:]:
            self._add_piece(rank, stream, piece, now)

    def _join_run(
        self, rank: int, stream: str, lines: list[str], at: int, end: int, now: float
    ) -> int:
        """Let lines join the entries that follow, as long as they are equal; return the next."""
        of = self._ranks[rank]
        first = place = of.last + 1
        oldest = now - self._fold_s
        count = len(self.entries)
        while at < end and place < count:
            entry = self.entries[place]
            if entry.text != lines[at] or entry.stream != stream or entry.since < oldest:
                break
            if entry.closed or not entry.ranks or rank in entry.ranks:
                break
            entry.ranks |= self._alone[rank]
            place += 1
            at += 1
        if place > first:
            of.last = place - 1
            self._changes.changed.append(range(first, place))
            self._changes.joined.append((rank, range(first, place)))
        return at

    def _append_run(self, rank: int, stream: str, lines: list[str], now: float) -> None:
        alone, first = self._alone[rank], len(self.entries)
        self.entries.extend([Entry(alone, stream, line, now) for line in lines])
        self._changes.changed.append(range(first, len(self.entries)))
        self._ranks[rank].last = len(self.entries) - 1

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
        self._changes.changed.append(range(place, place + 1))
        if not entry.complete:
            return
        of.growing = -1
        if not entry.begun and self._join(rank, entry.stream, entry.text, of.before, now):
            entry.ranks -= self._alone[rank]
        elif place < self._indexed:
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
        for entry in self.entries:
            if rank in entry.ranks:
                entry.ranks -= self._alone[rank]
        self._changes.changed.append(range(len(self.entries)))
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
        self._index()
        places = self._places.get((stream, text), [])
        begin = bisect.bisect_right(places, after)
        for place in places[begin : begin + 8]:
            entry = self.entries[place]
            open_to_all = bool(entry.ranks) and not entry.closed
            if open_to_all and rank not in entry.ranks and now - entry.since <= self._fold_s:
                entry.ranks |= self._alone[rank]
                self._ranks[rank].last = place
                self._changes.changed.append(range(place, place + 1))
                self._changes.joined.append((rank, range(place, place + 1)))
                return True
        return False

    def _index(self) -> None:
        for place in range(self._indexed, len(self.entries)):
            entry = self.entries[place]
            if entry.complete:
                self._places.setdefault((entry.stream, entry.text), []).append(place)
        self._indexed = len(self.entries)

    def _append(self, rank: int, stream: str, text: str, now: float) -> None:
        entry = Entry(self._alone[rank], stream, text, now)
        place = len(self.entries)
        self.entries.append(entry)
        self._changes.changed.append(range(place, place + 1))
        of = self._ranks[rank]
        of.before, of.last = of.last, place
        if not entry.complete:
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
    label: frozenset[int] = frozenset()
    complete = True
    for entry in entries:
        if not entry.ranks:
            continue
        if not complete:
            pieces.append("\n")
        if entry.ranks is not label and entry.ranks != label:
            pieces.append(f"[{ranks_label(entry.ranks)}]\n")
        label = entry.ranks
        pieces.append(entry.text.rstrip("\r"))
        complete = entry.text.endswith("\n")
    return "".join(pieces).removesuffix("\n")
