"""Two ways to show a :class:`~ddipp.notebook.transcript.Transcript`: in place, and line by line."""

from __future__ import annotations

import bisect
import itertools
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .transcript import RICH, Changes, Entry, Transcript, as_text, ranks_label


@dataclass
class _Block:
    """Entries that are one output of the cell: those from `begin` to before `end`."""

    begin: int
    end: int
    rich: bool = False
    size: int = 0
    display_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    shown: str | None = None
    rich_shown: bool = False


class InPlace:
    """Shows entries in displays of a notebook, which are updated when other ranks say the same.

    Parameters
    ----------
    publish : callable
        Publishes ``(data, display id, whether it is an update)``.
    show_rich : callable
        Shows something rich, by the place of its entry.
    clear : callable
        Clears the output of the cell; takes whether it waits for something new.
    """

    FOLD_S = 10.0  # after that what another rank says alike is news

    SIZE = 16_000  # characters of a block, which are sent anew with each change
    BATCH = 256_000  # of what comes at once

    def __init__(
        self,
        publish: Callable[[dict[str, Any], str, bool], None],
        show_rich: Callable[[int], None],
        clear: Callable[[bool], None],
    ) -> None:
        self._publish = publish
        self._show_rich = show_rich
        self._clear = clear
        self._blocks: list[_Block] = []

    def clear(self, wait: bool) -> None:
        """Let all that is still in the transcript be shown anew, and nothing else."""
        self._clear(wait)
        self._blocks = []

    def render(self, transcript: Transcript, now: float, *, everything: bool) -> None:
        """Show what has changed."""
        entries = transcript.entries
        stale: set[int] = set()  # blocks
        for places in transcript.changes().changed:
            stale.update(self._blocks_of(places))
        stale.update(self._place(entries))
        for number in sorted(stale):
            self._show(self._blocks[number], entries)

    def _blocks_of(self, places: range) -> range:
        ends = [block.end for block in self._blocks]
        first = bisect.bisect_right(ends, places.start)
        return range(first, min(bisect.bisect_left(ends, places.stop) + 1, len(ends)))

    def _place(self, entries: Sequence[Entry]) -> set[int]:
        """Put new entries into blocks; return which have got some."""
        grown: set[int] = set()
        placed = self._blocks[-1].end if self._blocks else 0
        for place in range(placed, len(entries)):
            entry = entries[place]
            block = self._blocks[-1] if self._blocks else None
            rich = entry.stream == RICH
            limit = self.BATCH if len(self._blocks) - 1 in grown else self.SIZE
            if block is None or block.rich or rich or block.size > limit:
                block = _Block(place, place, rich)
                self._blocks.append(block)
            block.end = place + 1
            block.size += len(entry.text)
            grown.add(len(self._blocks) - 1)
        return grown

    def _show(self, block: _Block, entries: Sequence[Entry]) -> None:
        if block.rich:
            ranks = entries[block.begin].ranks
            text = f"[{ranks_label(ranks)}]" if ranks else ""
        else:
            text = as_text(entries[block.begin : block.end])
        if text != (block.shown or ""):
            self._publish({"text/plain": text}, block.display_id, block.shown is not None)
            block.shown = text
        if block.rich and not block.rich_shown and text:
            block.rich_shown = True
            self._show_rich(block.begin)


class LineByLine:
    """Writes entries to streams, which can't be changed afterwards.

    Parameters
    ----------
    write : callable
        Writes ``(stream, text)``.
    show_rich : callable
        Shows something rich, by the place of its entry.
    live : bool
        A person looks on: what comes is shown at once, and a line says who has written the same
        afterwards. Else lines wait for their like, since whoever reads them later wants few.
    """

    PATIENCE_S = 0.25

    def __init__(
        self,
        write: Callable[[str, str], None],
        show_rich: Callable[[int], None],
        live: bool,
    ) -> None:
        self._write = write
        self._show_rich = show_rich
        self._live = live
        self._placed = 0
        self._pending: list[int] = []  # entries that are not written to their end
        self._written: dict[int, str] = {}  # what was written of those
        self._cursor = -1  # the entry whose line has no end yet
        self._label: frozenset[int] = frozenset()
        self._too: dict[int, int] = {}  # rank to the number of lines that it has written too
        self._too_since = 0.0
        self._text: list[tuple[str, str]] = []  # to be written together

    def render(self, transcript: Transcript, now: float, *, everything: bool) -> None:
        """Write what need not wait any more."""
        self._note_joined(transcript.changes(), now)
        self._pending.extend(range(self._placed, len(transcript.entries)))
        self._placed = len(transcript.entries)
        blocked: set[int] = set()  # ranks with something that waits
        left: list[int] = []
        for place in self._pending:
            entry = transcript.entries[place]
            held = not self._live and bool(blocked) and place not in self._written
            ready = everything or self._is_ready(transcript, entry, place, now)
            if not ready or held or entry.ranks & blocked:
                blocked |= entry.ranks
                left.append(place)
                continue
            self._put(entry, place)
            if not entry.complete:
                left.append(place)
        self._pending = left
        if self._too and (everything or now - self._too_since >= self.PATIENCE_S):
            self._tell_too(self._too)
        self._flush()

    def _is_ready(self, transcript: Transcript, entry: Entry, place: int, now: float) -> bool:
        if place in self._written or now - entry.since >= self.PATIENCE_S:
            return True
        if self._live:
            # A second line without its end would tear the first apart.
            return entry.complete or self._cursor < 0
        return entry.complete and transcript.shown_by_all(entry)

    def _put(self, entry: Entry, place: int) -> None:
        before = self._written.get(place, "")
        text = entry.text.rstrip("\r")
        if not entry.ranks or (text == before and entry.stream != RICH):
            return
        at_cursor = self._cursor == place
        if not at_cursor:
            self._begin_line(entry)
        entry.begun = True
        entry.closed = not self._live
        if entry.stream == RICH:
            self._flush()
            return self._show_rich(place)
        rest = text[len(before) :] if text.startswith(before) else "\r" * at_cursor + text
        self._text.append((entry.stream, rest))
        self._cursor = -1 if entry.complete else place
        self._written[place] = text
        if entry.complete:
            self._written.pop(place)

    def _begin_line(self, entry: Entry) -> None:
        if too := {rank: self._too[rank] for rank in entry.ranks if rank in self._too}:
            self._tell_too(too)
        if self._cursor >= 0:
            self._text.append(("stdout", "\n"))
            self._cursor = -1
        if entry.ranks != self._label:
            self._label = entry.ranks
            self._text.append(("stdout", f"[{ranks_label(self._label)}]\n"))

    def _note_joined(self, changes: Changes, now: float) -> None:
        waiting = set(self._pending)
        for rank, places in changes.joined:
            written = sum(place < self._placed and place not in waiting for place in places)
            if written:
                if not self._too:
                    self._too_since = now
                self._too[rank] = self._too.get(rank, 0) + written

    def _tell_too(self, which: dict[int, int]) -> None:
        by_count: dict[int, list[int]] = {}
        for rank, count in which.items():
            by_count.setdefault(count, []).append(rank)
        if self._cursor >= 0:
            self._text.append(("stdout", "\n"))
            self._cursor = -1
        for count, ranks in by_count.items():
            what = "line" if count == 1 else f"{count} lines"
            self._text.append(("stdout", f"[{ranks_label(ranks)}: the same {what}]\n"))
        self._too = {rank: count for rank, count in self._too.items() if rank not in which}
        self._label = frozenset()

    def _flush(self) -> None:
        """Write what has gathered, as few pieces."""
        text, self._text = self._text, []
        for stream, pieces in itertools.groupby(text, key=lambda one: one[0]):
            self._write(stream, "".join(piece for _, piece in pieces))
