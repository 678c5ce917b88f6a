"""One cell on all ranks: live output, and an end in every case.

When a rank fails, peers that wait for it in a collective can't succeed and are freed
(:mod:`ddipp.group.peers`); peers that still compute go on until a grace time is over and are
interrupted then; a rank that waits in a collective among living peers is cut off from outside.
"""

from __future__ import annotations

import queue
import signal
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import CellFailed, CellInterrupted
from ..notebook.display import OutputView, ranks_text, say
from ..shared.consequences import INTERRUPTS, is_consequence
from .calls import is_death
from .interrupts import Interrupts
from .peers import NcclPeers, Peers
from .report import RankReport, table

if TYPE_CHECKING:
    from ipyparallel import AsyncResult

    from .group import Group


class CellRun:
    """A cell that runs on the ranks of a group.

    Parameters
    ----------
    group : Group
        Where it runs.
    code : str
        The cell.
    view : OutputView
        Shows the output.
    interrupts : Interrupts
        In whose ``with`` block this is made and waits.
    ranks : sequence of int, optional
        Where it runs; on all when not given.
    timeout_s : float, optional
        The cell is interrupted when it has not ended after so many seconds.
    """

    _POLL_S = 0.05
    _GIVE_UP_AFTER = 3  # interrupts
    _INSIST_S = 2.0  # between the interrupts of a cell that is out of time

    def __init__(
        self,
        group: Group,
        code: str,
        view: OutputView,
        interrupts: Interrupts,
        ranks: Sequence[int] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self._group = group
        self._pressed = interrupts
        self._view = view
        self._grace_s = group.limits.grace_s
        self._peers = NcclPeers(group) if group.backend == "nccl" else Peers(group)
        # None wakes the loop: a rank is done.
        self._messages: queue.SimpleQueue[tuple[int, dict[str, Any]] | None] = queue.SimpleQueue()
        interrupts.wake = lambda: self._messages.put(None)
        self._hang_watch = HangWatch(group)
        self._failed_order: list[int] = []
        self._interrupts = 0
        self._interrupt_at: float | None = None
        self._cut_at: float | None = None
        self._timeout_s = timeout_s
        self._timed_out = False
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._results: dict[int, AsyncResult] = {
            rank: group.ranks.execute(rank, code)
            for rank in (range(group.world_size) if ranks is None else ranks)
        }
        for rank, result in self._results.items():
            self._listen(rank, result)

    # --- output ------------------------------------------------------------------------------

    def _listen(self, rank: int, result: AsyncResult) -> None:
        """Receive the output of a rank from the client's io thread, none lost, none twice."""
        (future,) = result._children
        client = self._group.client

        def listen() -> None:
            # Not client.metadata: it has let go of a request that has ended by now.
            metadata = future.output.metadata
            for name in ("stdout", "stderr"):
                if metadata[name]:
                    self._put(rank, "stream", {"name": name, "text": metadata[name]})
            for output in metadata["outputs"]:
                self._put(rank, "display_data", output)
            if metadata["execute_result"]:
                self._put(rank, "execute_result", metadata["execute_result"])
            future.iopub_callbacks.append(lambda message: self._messages.put((rank, message)))
            result.add_done_callback(lambda _: self._messages.put(None))

        # Messages are dispatched on that thread too, so none comes between reading and listening.
        client._io_loop.add_callback(listen)

    def _put(self, rank: int, msg_type: str, content: dict[str, Any]) -> None:
        self._messages.put((rank, {"header": {"msg_type": msg_type}, "content": content}))

    def _show_output(self, wait_s: float) -> None:
        try:
            item = self._messages.get(timeout=wait_s)
            while True:
                if item is not None:
                    self._view.show(*item)
                item = self._messages.get_nowait()
        except queue.Empty:
            self._view.tick()

    # --- the end -----------------------------------------------------------------------------

    def wait(self) -> None:
        """Show output until every rank is done.

        Raises
        ------
        CellFailed
            When a rank failed. CellInterrupted when the user interrupted the cell.
        """
        while self._pending() and self._interrupts < self._GIVE_UP_AFTER:
            self._show_output(self._POLL_S)
            if self._pressed.take():
                self._on_interrupt()
            self._free_peers_of_failed_ranks()
            self._hang_watch.look()
            self._mind_the_time()
        done = [result for result in self._results.values() if result.ready()]
        for result in done:
            result.wait_for_output(1)
        self._flush_callbacks()
        self._show_output(0)
        self._view.tick(everything=True)
        self._note_failures()
        stuck = self._pending()
        errors = self._errors()
        self._group.ranks.forget(done)
        self._peers.forget()
        if stuck:
            self._group.generations.abandon(stuck)
            raise CellInterrupted(
                f"{ranks_text(stuck)} did not react to {self._interrupts} interrupts; %makedip "
                f"--renew gives {'it a new process' if len(stuck) == 1 else 'them new processes'}, "
                "the others keep their variables",
                errors,
                [],
            )
        if errors:
            self._raise(errors)

    def _flush_callbacks(self) -> None:
        """Wait for the client's io thread to have handed over what it has received."""
        done: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._group.client._io_loop.add_callback(lambda: done.put(None))
        try:
            done.get(timeout=5)
        except queue.Empty:
            return

    def _note_failures(self) -> list[int]:
        """Return the ranks that failed since the last call."""
        new = [
            rank
            for rank, result in self._results.items()
            if rank not in self._failed_order and result.ready() and not result.successful()
        ]
        # Ranks that fail because of another come after it.
        new.sort(key=lambda rank: _is_secondary(self._error(rank)))
        self._failed_order.extend(new)
        return new

    def _pending(self) -> list[int]:
        return [rank for rank, result in self._results.items() if not result.ready()]

    def _free_peers_of_failed_ranks(self) -> None:
        now = time.monotonic()
        new = self._note_failures()
        pending = self._pending()
        if not pending:
            return
        if new:
            self._peers.failed([rank for rank in new if not is_death(self._error(rank))])
            if self._interrupt_at is None:
                self._interrupt_at = now + self._grace_s
        if self._failed_order:
            self._peers.free(pending, self._failed_order)
        if self._interrupt_at is not None and now >= self._interrupt_at:
            self._group.signal(signal.SIGINT, pending)
            self._interrupt_at = now + self._grace_s
            if self._cut_at is None:
                self._cut_at = now + 1
        if self._cut_at is not None and now >= self._cut_at:
            self._group.cut(pending)
            self._cut_at = now + self._grace_s

    def _mind_the_time(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline and self._pending():
            self._timed_out = True
            self._deadline = time.monotonic() + self._INSIST_S
            self._on_interrupt()

    def _on_interrupt(self) -> None:
        """SIGINT to all; ranks that wait in a collective are cut off from it a moment later.

        The third interrupt gives up waiting.
        """
        self._interrupts += 1
        pending = self._pending()
        self._group.signal(signal.SIGINT, pending)
        if self._interrupts > 1:
            self._group.cut(pending)
        now = time.monotonic()
        self._interrupt_at = now + max(1.0, self._peers.CUT_AFTER_S)
        self._cut_at = now + self._peers.CUT_AFTER_S

    # --- errors ------------------------------------------------------------------------------

    def _error(self, rank: int) -> Exception:
        return self._results[rank].exception()

    def _errors(self) -> dict[int, Exception]:
        """Return all failures, causes before consequences."""
        # A peer of a rank that died fails before the death is known.
        order = sorted(self._failed_order, key=lambda rank: _is_secondary(self._error(rank)))
        return {rank: self._error(rank) for rank in order}

    def _raise(self, errors: dict[int, Exception]) -> None:
        reports = self._group.ranks.reports(stack=False)
        summary = summarize(errors, reports, bool(self._interrupts), self._peers.aborted)
        if self._timed_out:
            summary = f"not done after {self._timeout_s:g} s: {summary}"
        first = errors[next(iter(errors))]
        kind = CellInterrupted if self._interrupts else CellFailed
        traceback = [] if self._interrupts else _traceback_lines(first)
        raise kind(summary, errors, traceback)


class HangWatch:
    """Shows the report once when no rank makes progress while collectives wait.

    Progress is a collective that begins or ends on any rank.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._after_s = group.limits.hang_after_s
        self._period_s = min(5.0, (self._after_s or 0) / 4)
        self._seen: list[tuple[int, bool]] = []
        self._since = time.monotonic()
        self._next_look = self._since + self._period_s
        self._shown = False

    def look(self) -> None:
        """Look from time to time; to be called often."""
        now = time.monotonic()
        if self._after_s is None or now < self._next_look:
            return
        self._next_look = now + self._period_s
        reports = self._group.ranks.reports(stack=False)
        seen = [(report.collectives, report.waiting) for report in reports]
        if seen != self._seen:
            self._seen, self._since, self._shown = seen, now, False
        elif not self._shown and now - self._since >= self._after_s and self._waits(reports):
            self._shown = True
            say(
                f"no rank has made progress for {now - self._since:.0f} s; Ctrl-C ends the cell "
                f"and keeps all variables\n{table(self._group.ranks.reports())}"
            )

    def _waits(self, reports: Sequence[RankReport]) -> bool:
        if self._group.backend == "nccl":
            # It enqueues and goes on, so what a rank waits for shows in the numbers only.
            return len({report.collectives for report in reports}) > 1
        return any(report.waiting for report in reports)


def _name(error: Exception) -> str:
    return str(getattr(error, "ename", type(error).__name__))


def _value(error: Exception) -> str:
    return str(getattr(error, "evalue", error))


def _is_secondary(error: Exception) -> bool:
    return is_consequence(_name(error), _value(error))


def _traceback_lines(error: Exception) -> list[str]:
    text = getattr(error, "traceback", None)
    return text.splitlines() if text else [f"{_name(error)}: {_value(error)}"]


def summarize(
    errors: dict[int, Exception],
    reports: Sequence[RankReport],
    interrupted: bool,
    aborted: Mapping[int, int] | None = None,
) -> str:
    """Say in one line what happened on which rank.

    Parameters
    ----------
    errors : dict of int to Exception
        By rank, the one that failed first in front.
    reports : sequence of RankReport
        Of all ranks, taken after the cell.
    interrupted : bool
        Whether the user asked for it.
    aborted : mapping of int to int, optional
        Ranks that an interrupt has told of the abort of their collective; its number, or 0.
    """
    aborted = aborted or {}
    if interrupted:
        return (
            f"interrupted; {ranks_text(list(errors))} of {len(reports)} stopped, all variables kept"
        )
    first, *others = errors
    name = _name(errors[first])
    if name == "EngineError":
        # "Engine 1 died while running task '...': it was killed by signal 9 (SIGKILL)"
        _, separator, cause = _value(errors[first]).partition("': ")
        because = "died"
        parts = [f"rank {first} died{': ' if separator else ''}{cause}"]
    else:
        because = f"raised {name}"
        parts = [f"rank {first} {because}"]
    same = [
        rank for rank in others if _name(errors[rank]) == name and not _is_secondary(errors[rank])
    ]
    stopped = [rank for rank in others if _is_secondary(errors[rank])]
    different = [rank for rank in others if rank not in same and rank not in stopped]
    if same:
        parts.append(f"{ranks_text(same)} too")
    calls: dict[str, list[int]] = {}
    for rank in stopped:
        call = reports[rank].call
        if aborted.get(rank, 0) not in (0, reports[rank].number):
            call = f"collective #{aborted[rank]}"  # others were queued behind it
        elif _name(errors[rank]) in INTERRUPTS and rank not in aborted:
            call = ""
        calls.setdefault(call, []).append(rank)
    for call, ranks in calls.items():
        doing = f"aborted in {call}" if call else "stopped"
        parts.append(f"{ranks_text(ranks)} {doing} because rank {first} {because}")
    parts.extend(f"rank {rank} raised {_name(errors[rank])}" for rank in different)
    return "; ".join(parts)
