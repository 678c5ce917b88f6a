"""One cell on all ranks: live output, and an end in every case.

When a rank fails, peers that wait for it in a collective can't succeed. The failed rank leaves the
group, which closes its connections, so they fail at once; peers that still compute go on until a
grace time is over and are interrupted then; a rank that waits in a collective among living peers is
cut off from outside.
"""

from __future__ import annotations

import queue
import signal
import time
from typing import TYPE_CHECKING, Any

from .display import OutputView
from .errors import CellFailed, CellInterrupted

if TYPE_CHECKING:
    from ipyparallel import AsyncResult

    from .group import Group

#: Failures that a rank has only because another one failed first.
SECONDARY_HINTS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Socket",
    "NCCL",
    "aborted",
)

INTERRUPTS = ("KeyboardInterrupt", "CancelledError")


class CellRun:
    """A cell that runs on every rank of a group.

    Parameters
    ----------
    group : Group
        Where it runs.
    code : str
        The cell.
    view : OutputView
        Shows the output.
    grace_s : float
        How long peers may go on computing after a rank failed.
    """

    _POLL_S = 0.05
    _GIVE_UP_AFTER = 3  # interrupts

    def __init__(self, group: Group, code: str, view: OutputView, grace_s: float) -> None:
        self._group = group
        self._view = view
        self._grace_s = grace_s
        self._messages: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
        self._failed_order: list[int] = []
        self._interrupts = 0
        self._interrupt_at: float | None = None
        self._cut_at: float | None = None
        client = group.client
        self._results: list[AsyncResult] = [
            client[engine].execute(code, silent=False, block=False) for engine in group.engine_ids
        ]
        for rank, result in enumerate(self._results):
            self._listen(rank, result)

    # --- output ------------------------------------------------------------------------------

    def _listen(self, rank: int, result: AsyncResult) -> None:
        """Receive the output of a rank from the client's io thread, none lost, none twice."""
        (future,) = result._children
        client = self._group.client

        def listen() -> None:
            metadata = client.metadata[future.msg_id]
            for name in ("stdout", "stderr"):
                if metadata[name]:
                    self._put(rank, "stream", {"name": name, "text": metadata[name]})
            for output in metadata["outputs"]:
                self._put(rank, "display_data", output)
            if metadata["execute_result"]:
                self._put(rank, "execute_result", metadata["execute_result"])
            future.iopub_callbacks.append(lambda message: self._messages.put((rank, message)))

        # Messages are dispatched on that thread too, so none comes between reading and listening.
        client._io_loop.add_callback(listen)

    def _put(self, rank: int, msg_type: str, content: dict[str, Any]) -> None:
        self._messages.put((rank, {"header": {"msg_type": msg_type}, "content": content}))

    def _show_output(self, wait_s: float) -> None:
        try:
            rank, message = self._messages.get(timeout=wait_s)
            while True:
                self._view.show(rank, message)
                rank, message = self._messages.get_nowait()
        except queue.Empty:
            return

    # --- the end -----------------------------------------------------------------------------

    def wait(self) -> None:
        """Show output until every rank is done.

        Raises
        ------
        CellFailed
            When a rank failed. CellInterrupted when the user interrupted the cell.
        """
        while self._pending() and self._interrupts < self._GIVE_UP_AFTER:
            try:
                self._show_output(self._POLL_S)
                self._free_peers_of_failed_ranks()
            except KeyboardInterrupt:
                self._on_interrupt()
        done = [result for result in self._results if result.ready()]
        for result in done:
            result.wait_for_output(1)
        self._flush_callbacks()
        self._show_output(0)
        self._note_failures()
        stuck = self._pending()
        errors = self._errors()
        self._group.client.purge_local_results(done)
        if stuck:
            self._group.abandon(stuck)
            raise CellInterrupted(
                f"{_ranks_text(stuck)} did not react to {self._interrupts} interrupts; start again "
                "with %makedip -r",
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
            for rank, result in enumerate(self._results)
            if rank not in self._failed_order and result.ready() and not result.successful()
        ]
        # Ranks that fail because of another come after it.
        new.sort(key=lambda rank: _is_secondary(self._error(rank)))
        self._failed_order.extend(new)
        return new

    def _pending(self) -> list[int]:
        return [rank for rank, result in enumerate(self._results) if not result.ready()]

    def _free_peers_of_failed_ranks(self) -> None:
        now = time.monotonic()
        new = self._note_failures()
        pending = self._pending()
        if not pending:
            return
        if new:
            self._group.leave(new)
            if self._interrupt_at is None:
                self._interrupt_at = now + self._grace_s
        if self._interrupt_at is not None and now >= self._interrupt_at:
            self._group.signal(signal.SIGINT, pending)
            self._interrupt_at = now + self._grace_s
            if self._cut_at is None:
                self._cut_at = now + 1
        if self._cut_at is not None and now >= self._cut_at:
            self._group.cut(pending)
            self._cut_at = now + self._grace_s

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
        self._interrupt_at = now + 1
        self._cut_at = now + 0.3

    # --- errors ------------------------------------------------------------------------------

    def _error(self, rank: int) -> Exception:
        return self._results[rank].exception()

    def _errors(self) -> dict[int, Exception]:
        """Return all failures, causes before consequences."""
        # A peer of a rank that died fails before the death is known.
        order = sorted(self._failed_order, key=lambda rank: _is_secondary(self._error(rank)))
        return {rank: self._error(rank) for rank in order}

    def _raise(self, errors: dict[int, Exception]) -> None:
        summary = summarize(errors, len(self._results), bool(self._interrupts))
        first = errors[next(iter(errors))]
        kind = CellInterrupted if self._interrupts else CellFailed
        traceback = [] if self._interrupts else _traceback_lines(first)
        raise kind(summary, errors, traceback)


def _name(error: Exception) -> str:
    return str(getattr(error, "ename", type(error).__name__))


def _value(error: Exception) -> str:
    return str(getattr(error, "evalue", error))


def _is_secondary(error: Exception) -> bool:
    if _name(error) in INTERRUPTS:
        return True
    return _name(error) in ("RuntimeError", "DistBackendError") and any(
        hint in _value(error) for hint in SECONDARY_HINTS
    )


def _traceback_lines(error: Exception) -> list[str]:
    text = getattr(error, "traceback", None)
    return text.splitlines() if text else [f"{_name(error)}: {_value(error)}"]


def _ranks_text(ranks: list[int]) -> str:
    word = "rank" if len(ranks) == 1 else "ranks"
    return f"{word} {', '.join(map(str, sorted(ranks)))}"


def summarize(errors: dict[int, Exception], world_size: int, interrupted: bool) -> str:
    """Say in one line what happened on which rank.

    Parameters
    ----------
    errors : dict of int to Exception
        By rank, the one that failed first in front.
    world_size : int
        Number of ranks.
    interrupted : bool
        Whether the user asked for it.
    """
    if interrupted:
        return (
            f"interrupted; {_ranks_text(list(errors))} of {world_size} stopped, all variables kept"
        )
    first, *others = errors
    name = _name(errors[first])
    if name == "EngineError":
        # "Engine 1 died while running task '...': it was killed by signal 9 (SIGKILL)"
        _, separator, cause = _value(errors[first]).partition("': ")
        parts = [f"rank {first} died{': ' if separator else ''}{cause}"]
    else:
        parts = [f"rank {first} raised {name}"]
    same = [
        rank for rank in others if _name(errors[rank]) == name and not _is_secondary(errors[rank])
    ]
    stopped = [rank for rank in others if _is_secondary(errors[rank])]
    different = [rank for rank in others if rank not in same and rank not in stopped]
    if same:
        parts.append(f"{_ranks_text(same)} too")
    if stopped:
        parts.append(f"{_ranks_text(stopped)} stopped because of it")
    parts.extend(f"rank {rank} raised {_name(errors[rank])}" for rank in different)
    return "; ".join(parts)
