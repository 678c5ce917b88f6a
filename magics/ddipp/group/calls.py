"""The engines of a group, by rank: calling functions on them, and what they are doing."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal as signals
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..on_rank import process as rank_process
from .interrupts import Interrupts
from .report import RankReport


def is_death(error: BaseException) -> bool:
    """Tell whether a call failed because an engine has died."""
    names = [one[0] for one in getattr(error, "elist", [])]
    return "EngineError" in (getattr(error, "ename", ""), type(error).__name__, *names)


@contextlib.contextmanager
def _gone_is_death() -> Iterator[None]:
    """Let a call to an engine that the client has just struck off fail as one to a dead engine."""
    import ipyparallel.error

    try:
        yield
    except (KeyError, IndexError, ipyparallel.error.NoEnginesRegistered) as error:
        raise ipyparallel.error.EngineError(f"an engine is gone: {error}") from None


class Ranks:
    """Engines by rank.

    Parameters
    ----------
    client : ipyparallel.Client
        Connected to them.
    engine_ids : sequence of int
        The engine of each rank.
    gpus : sequence of str, optional
        The GPU of each rank, its UUID; for reports.
    """

    _PATIENCE_S = 3.0  # with a rank that is to end

    def __init__(
        self, client: Any, engine_ids: Sequence[int], gpus: Sequence[str] | None = None
    ) -> None:
        import ipyparallel.error

        self._no_engines = ipyparallel.error.NoEnginesRegistered
        self.client = client
        self.engine_ids = list(engine_ids)
        self._gpus = [""] * len(self.engine_ids) if gpus is None else list(gpus)
        self._views = [client[engine] for engine in self.engine_ids]
        self._uuids = [client._engines[engine] for engine in self.engine_ids]
        self._told: list[Any] = []  # results that nobody waits for
        self._processes = [("", 0)] * len(self.engine_ids)

    def __len__(self) -> int:
        return len(self.engine_ids)

    # --- life --------------------------------------------------------------------------------

    def gone(self) -> list[int]:
        """Return the ranks that have no engine now."""
        known = dict(self.client._engines)
        return [rank for rank, engine in enumerate(self.engine_ids) if engine not in known]

    def replaced(self) -> list[int]:
        """Return the ranks whose engine is another process than the one that was accepted."""
        known = dict(self.client._engines)
        return [
            rank
            for rank, engine in enumerate(self.engine_ids)
            if known.get(engine, self._uuids[rank]) != self._uuids[rank]
        ]

    def accept(self, ranks: Sequence[int]) -> None:
        """Take the present processes of these ranks for theirs."""
        for rank in ranks:
            self._uuids[rank] = self.client._engines[self.engine_ids[rank]]

    def living(self, ranks: Sequence[int]) -> list[int]:
        """Return those of `ranks` that have an engine now."""
        gone = set(self.gone())
        return [rank for rank in ranks if rank not in gone]

    def know_gpus(self, gpus: Sequence[str]) -> None:
        """Take what the ranks say of their GPUs: UUIDs, ``""`` where one does not know."""
        self._gpus = [new or old for new, old in zip(gpus, self._gpus)]

    def know_processes(self, processes: Sequence[tuple[str, int]]) -> None:
        """Take the host (:func:`ddipp.on_rank.process.host_name`) and the pid of each rank."""
        self._processes = list(processes)

    def view(self, rank: int) -> Any:
        """Return the ipyparallel view of a rank."""
        return self._views[rank]

    # --- calls -------------------------------------------------------------------------------

    def take(self, result: Any, timeout_s: float | None = None) -> Any:
        """Wait for a result and let the client forget it: it would keep every pulled model."""
        try:
            return result.get(timeout_s)
        finally:
            if result.ready():
                self.forget([result])

    def forget(self, results: Sequence[Any]) -> None:
        """Let the client forget results that are there."""
        if results:  # it does not take none
            self.client.purge_local_results(list(results))

    def start(self, rank: int, function: Any, *args: Any) -> Any:
        """Call a function on one rank and return at once."""
        with _gone_is_death():
            return self.view(rank).apply_async(function, *args)

    def tell(self, function: Any, *args: Any, ranks: Sequence[int] | None = None) -> None:
        """Call a function on ranks, all that live if not given; nobody waits for the answers."""
        import ipyparallel.error

        done = [result for result in self._told if result.ready()]
        self.forget(done)
        self._told = [result for result in self._told if result not in done]
        for rank in self.living(range(len(self)) if ranks is None else ranks):
            with contextlib.suppress(ipyparallel.error.EngineError):  # it has just died
                self._told.append(self.start(rank, function, *args))

    def execute(self, rank: int, code: str) -> Any:
        """Run a cell on one rank and return at once."""
        with _gone_is_death():
            return self.view(rank).execute(code, silent=False, block=False)

    def apply(self, function: Any, *args: Any) -> list[Any]:
        """Call a function on all ranks and return what each returned."""
        with _gone_is_death():
            result = self.client[self.engine_ids].apply_async(function, *args)
        return list(self.take(result))

    def apply_on(self, rank: int, function: Any, *args: Any) -> Any:
        """Call a function on one rank."""
        return self.take(self.start(rank, function, *args))

    def apply_each(
        self,
        function: Any,
        arguments: Sequence[tuple[Any, ...]],
        timeout_s: float | None = None,
        free_others: Callable[[], None] | None = None,
    ) -> list[Any]:
        """Call a function on all ranks at the same time, each with its own arguments.

        Parameters
        ----------
        function : callable
            What to call.
        arguments : sequence of tuple
            By rank.
        timeout_s : float, optional
            Seconds for all of them.
        free_others : callable, optional
            Called again and again once a rank has failed, the time is over or the user has
            interrupted, until the others have ended too: what makes them stop waiting for it.
        """
        results = [self.start(rank, function, *args) for rank, args in enumerate(arguments)]
        error: BaseException | None = None
        begin = time.monotonic()
        freed_at = None
        with Interrupts() as interrupts:
            while not all(result.ready() for result in results):
                concurrent.futures.wait(
                    results, 0.05, return_when=concurrent.futures.FIRST_EXCEPTION
                )
                if interrupts.take():
                    error = KeyboardInterrupt()
                now = time.monotonic()
                failed = error is not None or any(
                    result.ready() and not result.successful() for result in results
                )
                late = timeout_s is not None and now - begin > timeout_s
                if not failed and not late:
                    continue
                if free_others is None or (freed_at is not None and now - freed_at > 5):
                    break
                freed_at = freed_at or now
                free_others()
        return self._gather(results, error, timeout_s)

    def _gather(
        self, results: list[Any], error: BaseException | None, timeout_s: float | None
    ) -> list[Any]:
        done = [result for result in results if result.ready()]
        errors = [result.exception() for result in done if not result.successful()]
        # The death of a rank is the cause of what its peers say.
        errors.sort(key=lambda one: not is_death(one))
        values = [result.get() for result in done if result.successful()]
        self.forget(done)
        if error is not None:
            raise error
        if errors:
            raise errors[0]
        if len(values) < len(results):
            raise TimeoutError(f"no answer within {timeout_s:.0f} s")
        return values

    # --- beside Python -----------------------------------------------------------------------

    def signal(self, sig: signals.Signals, ranks: Sequence[int]) -> None:
        """Send a signal to ranks, without waiting."""
        for rank in self.living(ranks):
            self._ask(rank, "signal_request", {"sig": int(sig)})

    def restart(self, ranks: Sequence[int], timeout_s: float) -> list[int]:
        """Let ranks end and their supervisors start them again.

        A process that does not answer, stopped or stuck, is killed if it is on this host.

        Returns
        -------
        list of int
            Those that did not start again in time.
        """
        for rank in self.living(ranks):
            self._ask(rank, "shutdown_request", {"restart": True})
        begin = time.monotonic()
        kill_at = begin + self._PATIENCE_S
        while waiting := set(ranks) - set(self.replaced()):
            now = time.monotonic()
            if now - begin > timeout_s:
                break
            if now > kill_at:
                kill_at = begin + timeout_s
                for rank in self.living(sorted(waiting)):
                    host, pid = self._processes[rank]
                    if host == rank_process.host_name():
                        with contextlib.suppress(ProcessLookupError, PermissionError):
                            os.kill(pid, signals.SIGKILL)
            time.sleep(0.02)
        return sorted(waiting)

    def cut(self, generation: int, ranks: Sequence[int]) -> None:
        """End the collectives that ranks wait in, without waiting."""
        for rank in self.living(ranks):
            self._ask(rank, "ddipp_cut_request", {"generation": generation})

    def cut_any(self, ranks: Sequence[int]) -> None:
        """As `cut`, of the generation that each rank is in."""
        for report in self.reports(stack=False):
            if report.rank in ranks:
                self.cut(report.generation, [report.rank])

    def _ask(self, rank: int, msg_type: str, content: dict[str, Any]) -> Any:
        """Send a control request; returns a future of one message, or None for a dead rank."""
        try:
            return self.client._send_control_request(
                targets=[self.engine_ids[rank]], msg_type=msg_type, content=content, block=False
            )
        except (KeyError, IndexError, self._no_engines):
            return None

    def last_output(self, rank: int) -> list[dict[str, Any]]:
        """Return what the last cell with output has shown: ``msg_type`` and ``content`` of each."""
        answer = self._ask(rank, "ddipp_replay_request", {})
        return [] if answer is None else list(answer.result(10)[0]["content"]["outputs"])

    def reports(self, *, stack: bool = True, timeout_s: float = 2.0) -> list[RankReport]:
        """Return what each rank is doing.

        Parameters
        ----------
        stack : bool
            Whether to take the Python stack.
        timeout_s : float
            After that a rank counts as one that does not answer.
        """
        asked = {}
        for rank in self.living(range(len(self))):
            question = {"stack": stack, "gpu": self._gpus[rank]}
            answer = self._ask(rank, "ddipp_report_request", question)
            if answer is not None:
                asked[rank] = answer
        deadline = time.monotonic() + timeout_s
        reports = [RankReport(rank, "dead") for rank in range(len(self))]
        for rank, answer in asked.items():
            try:
                (message,) = answer.result(max(0.0, deadline - time.monotonic()))
                reports[rank] = RankReport.read(rank, message["content"])
            except (concurrent.futures.TimeoutError, TimeoutError, KeyError):
                reports[rank] = RankReport(rank, "no answer")
        return reports
