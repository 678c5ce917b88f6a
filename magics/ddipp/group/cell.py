"""One cell on all ranks: live output, and an end in every case.

What is done when a rank fails, dies or is interrupted is decided by
:class:`ddipp.recovery.cell.CellFate`; this carries it out.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import CellFailed, CellInterrupted
from ..recovery.cell import CellFate
from ..recovery.facts import Outcome
from ..recovery.hang import HangWatch
from ..shared.text import ranks_text
from ..shared.wire import CellPlace, Facts
from .announcer import View
from .carrier import Carrier
from .failures import (
    facts_of,
    is_death,
    outcome_of,
    shown_failure,
    summarize,
    traceback_lines,
)
from .generations import policy_of
from .interrupts import Interrupts

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
    view : View
        Shows the output.
    interrupts : Interrupts
        In whose ``with`` block this is made and waits.
    ranks : sequence of int, optional
        Where it runs; on all when not given.
    timeout_s : float, optional
        The cell is interrupted when it has not ended after so many seconds.
    place : CellPlace, optional
        What tracebacks call it.
    """

    _POLL_S = 0.05

    def __init__(
        self,
        group: Group,
        code: str,
        view: View,
        interrupts: Interrupts,
        ranks: Sequence[int] | None = None,
        timeout_s: float | None = None,
        place: CellPlace | None = None,
    ) -> None:
        self._group = group
        self._pressed = interrupts
        self._view = view
        # None wakes the loop: a rank is done.
        self._messages: queue.SimpleQueue[tuple[int, dict[str, Any]] | None] = queue.SimpleQueue()
        interrupts.wake = lambda: self._messages.put(None)
        now = time.monotonic()
        policy, conduct = policy_of(group.limits, group.backend), group.kind.conduct
        where = range(group.world_size) if ranks is None else ranks
        self._timeout_s = timeout_s
        self.fate = CellFate(
            where, group.generation, policy, conduct, None if timeout_s is None else now + timeout_s
        )
        self._hang_watch = HangWatch(group.generation, group.limits.hang_after_s, conduct, now)
        self._errors: dict[int, Exception] = {}
        self._outcomes: dict[int, Outcome] = {}
        self._results: dict[int, AsyncResult] = {}
        self._carrier = Carrier(
            group.ranks,
            group.announcer,
            group.generations,
            self._results,
            conduct=conduct,
            wake=interrupts.wake,
        )
        group.ranks.grace_s = policy.grace_s
        try:
            for rank in where:
                self._results[rank] = group.ranks.execute(rank, code, place)
        except BaseException:
            self._carrier.interrupt(list(self._results))  # those where it was started
            raise
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
        due_in = self._view.due_in()
        try:
            item = self._messages.get(timeout=wait_s if due_in is None else min(wait_s, due_in))
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
        self._note_results()
        while self.fate.pending:
            self._show_output(self._POLL_S)
            self._step(time.monotonic())
        done = [result for result in self._results.values() if result.ready()]
        for result in done:
            result.wait_for_output(1)
        self._flush_callbacks()
        self._show_output(0)
        self._learn_causes()
        self._view.end(self._errors.values())
        self._take_payloads()
        requests = {rank: result.msg_ids[0] for rank, result in self._results.items()}
        self._group.ranks.forget(done)
        self._group.late.follow(requests, self._view.show_late)
        self._carrier.forget()
        if self.fate.abandoned:
            self._raise_abandoned(self.fate.abandoned)
        if self._errors:
            self._raise()
        if self.fate.failed:
            raise CellFailed(
                f"the controller was started again; the cell was ended on "
                f"{ranks_text(self.fate.failed)}, all variables kept",
                {},
                [],
            )

    def _step(self, now: float) -> None:
        fate, carrier = self.fate, self._carrier
        self._note_results()
        if self._pressed.take():
            carrier.perform(fate.press(now))
        fate.settled(carrier.settled())
        if self._group.ranks.controller_replaced():
            carrier.perform(fate.controller_replaced(now))
        carrier.perform(fate.tick(now))
        if fate.wants_sights(now) or self._hang_watch.wants_sights(now):
            carrier.look()
        if (sights := carrier.sights()) is not None:
            if fate.wants_sights(now):
                carrier.perform(fate.sights(sights, now))
            if self._hang_watch.wants_sights(now):
                carrier.perform(self._hang_watch.sights(sights, now))

    def _note_results(self) -> None:
        """Tell the machine of the ranks that have ended since the last call."""
        new: dict[int, Outcome] = {}
        for rank in self._pending():
            result = self._results[rank]
            if not result.ready():
                continue
            error = result.exception() if not result.successful() else shown_failure(result.r)
            if error is not None:
                self._errors[rank] = error
                new[rank] = outcome_of(error, rank in self._carrier.interrupted)
            else:
                new[rank] = Outcome.OK
        if new:
            self._outcomes |= new
            self._carrier.perform(self.fate.results(new, time.monotonic()))

    def _learn_causes(self) -> None:
        """Ask for the causes of deaths that the client has heard of in another way."""
        for rank, error in self._errors.items():
            if is_death(error) and Facts.DEATH not in facts_of(error):
                self._errors[rank] = self._group.ranks.told_of(self._results[rank]) or error

    def _pending(self) -> list[int]:
        return list(self.fate.pending)

    def _take_payloads(self) -> None:
        for rank, result in self._results.items():
            if result.ready() and result.successful():
                for payload in result.r._content.get("payload") or ():
                    self._view.take_payload(rank, payload)

    def _flush_callbacks(self) -> None:
        """Wait for the client's io thread to have handed over what it has received."""
        done: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._group.client._io_loop.add_callback(lambda: done.put(None))
        try:
            done.get(timeout=5)
        except queue.Empty:
            return

    # --- errors ------------------------------------------------------------------------------

    def _ordered_errors(self) -> dict[int, Exception]:
        """Return all failures, causes before consequences."""
        # A peer of a rank that died fails before the death is known.
        order = sorted(
            (rank for rank in self.fate.failed if rank in self._errors),
            key=lambda rank: self._outcomes[rank] is Outcome.CONSEQUENCE,
        )
        return {rank: self._errors[rank] for rank in order}

    def _raise_abandoned(self, stuck: Sequence[int]) -> None:
        one = len(stuck) == 1
        raise CellInterrupted(
            f"{ranks_text(stuck)} did not react to {self.fate.presses} interrupts; %makedip "
            f"--renew gives {'it a new process' if one else 'them new processes'}, "
            "the others keep their variables",
            self._ordered_errors(),
            [],
        )

    def _raise(self) -> None:
        errors = self._ordered_errors()
        interrupted = self.fate.presses > 0
        summary = summarize(
            errors,
            self._outcomes,
            self._group.ranks.reports(stack=False),
            interrupted,
            self.fate.aborted,
        )
        if self.fate.timed_out:
            summary = f"not done after {self._timeout_s:g} s: {summary}"
        first = errors[next(iter(errors))]
        kind = CellInterrupted if interrupted else CellFailed
        raise kind(summary, errors, [] if interrupted else traceback_lines(first))
