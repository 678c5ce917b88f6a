"""The engines of a group, by rank: calling functions on them, and what they are doing."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import secrets
import signal as signals
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..on_rank import beside
from ..on_rank import process as rank_process
from ..recovery.actions import Cut
from ..recovery.leftover import Formation
from ..recovery.policy import Policy
from ..shared import wire
from ..shared.wire import CellPlace
from .failures import is_death, keep_facts
from .interrupts import Interrupts
from .report import RankReport


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

    Attributes
    ----------
    grace_s : float or None
        What the controller lets other ranks compute when a cell has failed on one and nobody is
        there to see it.
    key : bytes
        By which ranks know who may ask them beside their main thread.
    """

    _PATIENCE_S = 3.0  # with a rank that is to end

    def __init__(
        self, client: Any, engine_ids: Sequence[int], gpus: Sequence[str] | None = None
    ) -> None:
        import ipyparallel.error

        self._no_engines = ipyparallel.error.NoEnginesRegistered
        keep_facts(client)
        self.client = client
        self.engine_ids = list(engine_ids)
        self._gpus = [""] * len(self.engine_ids) if gpus is None else list(gpus)
        self._views = [client[engine] for engine in self.engine_ids]
        self._uuids = [client._engines[engine] for engine in self.engine_ids]
        self._told: list[Any] = []  # results that nobody waits for
        self._processes = [("", 0)] * len(self.engine_ids)
        self._controller_replaced = False
        self.grace_s: float | None = None
        self.key = secrets.token_bytes(32)

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

    def pull_beside(self, rank: int, names: Sequence[str], timeout_s: float) -> dict[str, Any]:
        """Return variables of a rank on this host whose main thread is stuck.

        Raises
        ------
        ConnectionError
            When there is no way to them.
        """
        host, pid = self._processes[rank]
        if host != rank_process.host_name():
            raise ConnectionError("is on another host")
        return beside.pull(pid, self.key, list(names), timeout_s)

    def process_exists(self, rank: int) -> bool:
        """Tell whether the last known process of a rank is there, on this host."""
        host, pid = self._processes[rank]
        if host != rank_process.host_name():
            return False
        try:
            with open(f"/proc/{pid}/stat") as stat:
                state = stat.read().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state not in "ZX"

    def note_controller_replaced(self) -> None:
        """Take note that requests which were on their way will not be answered."""
        self._controller_replaced = True

    def controller_replaced(self) -> bool:
        """Tell, once, whether the controller was replaced."""
        replaced, self._controller_replaced = self._controller_replaced, False
        return replaced

    def processes(self) -> list[tuple[str, int]]:
        """Return the host and the pid of each rank."""
        return list(self._processes)

    def hosts(self) -> set[str]:
        """Return the hosts of the ranks (:func:`ddipp.on_rank.process.host_name`)."""
        return {host for host, _ in self._processes}

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

    def execute(self, rank: int, code: str, place: CellPlace | None = None) -> Any:
        """Run a cell on one rank and return at once.

        Parameters
        ----------
        rank : int
            Where.
        code : str
            What is run.
        place : CellPlace, optional
            What tracebacks call it.
        """
        from ipyparallel import AsyncResult

        engine = self.engine_ids[rank]
        terms = wire.cell_terms(self.grace_s, place)
        with _gone_is_death():
            # As the view's own, which takes no metadata.
            (identity,), _ = self.client._build_targets([engine])
            future = self.client.send_execute_request(
                self.view(rank)._socket,
                code,
                silent=False,
                ident=identity,
                metadata={"label": None, **terms},
            )
        return AsyncResult(self.client, future, fname="execute", targets=engine, owner=True)

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
        *,
        generation: int = -1,
        timeout_s: float = float("inf"),
        policy: Policy | None = None,
    ) -> list[Any]:
        """Call a function on all ranks at the same time, each with its own arguments.

        Once a rank has failed, the time is over or the user has interrupted, the others are taken
        out of what they wait in.

        Parameters
        ----------
        function : callable
            What to call.
        arguments : sequence of tuple
            By rank.
        generation : int
            Of the group that they form in it.
        timeout_s : float
            Seconds for all of them.
        policy : Policy, optional
            How patient.
        """
        results = [self.start(rank, function, *args) for rank, args in enumerate(arguments)]
        error: BaseException | None = None
        pending = set(range(len(results)))
        policy = policy or Policy()
        fate = Formation(pending, generation, policy, time.monotonic() + timeout_s)
        with Interrupts() as interrupts:
            while not fate.over:
                concurrent.futures.wait(
                    results, 0.05, return_when=concurrent.futures.FIRST_EXCEPTION
                )
                now = time.monotonic()
                if interrupts.take():
                    error = KeyboardInterrupt()
                    fate.press(now)
                for rank in [rank for rank in pending if results[rank].ready()]:
                    pending.discard(rank)
                    fate.result(rank, results[rank].successful(), now)
                for action in fate.tick(now):
                    if isinstance(action, Cut):
                        self.cut(action.generation, action.ranks)
        return self._gather(results, error, timeout_s)

    def _gather(
        self, results: list[Any], error: BaseException | None, timeout_s: float
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

    def signal(self, sig: signals.Signals, ranks: Sequence[int], msg_id: str = "") -> None:
        """Send a signal to ranks, without waiting.

        Parameters
        ----------
        sig : signal.Signals
            Which.
        ranks : sequence of int
            To whom.
        msg_id : str
            The request that SIGINT is for, which may not have begun; what runs when not given.
        """
        for rank in self.living(ranks):
            self._ask(rank, "signal_request", wire.interrupt(int(sig), msg_id))

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
                # Also one that the controller has struck off: it may only be stopped.
                for rank in sorted(waiting):
                    host, pid = self._processes[rank]
                    if host == rank_process.host_name():
                        with contextlib.suppress(ProcessLookupError, PermissionError):
                            os.kill(pid, signals.SIGKILL)
            time.sleep(0.02)
        return sorted(waiting)

    def cut(
        self,
        generation: int,
        ranks: Sequence[int],
        *,
        everything: bool = False,
        unanswered: bool = False,
    ) -> None:
        """End the collectives that ranks wait in, without waiting.

        Parameters
        ----------
        generation : int
            That is meant; nothing is done to a rank that is in another.
        ranks : sequence of int
            Whose.
        everything : bool
            Whether to shut down all connections of the process but the engine's own.
        unanswered : bool
            Whether to leave those alone that have taken the last interrupt.
        """
        content = wire.cut(generation, everything=everything, unanswered=unanswered)
        for rank in self.living(ranks):
            self._ask(rank, wire.CUT_REQUEST, content)

    def _ask(self, rank: int, msg_type: str, content: dict[str, Any]) -> Any:
        """Send a control request; returns a future of one message, or None for a dead rank."""
        try:
            return self.client._send_control_request(
                targets=[self.engine_ids[rank]], msg_type=msg_type, content=content, block=False
            )
        except (KeyError, IndexError, self._no_engines):
            return None

    def told_of(self, result: Any) -> Exception | None:
        """Return the failure that the controller has answered a request with, None without one.

        Its notice that an engine is gone may overtake that answer; the client makes up one then,
        which has no cause.
        """
        import ipyparallel.error

        question = {"msg_id": result.msg_ids[0]}
        with contextlib.suppress(ipyparallel.error.IPythonError):  # it keeps no records
            for record in self.client.db_query(question, keys=["result_content"]):
                content = record["result_content"] or {}
                if content.get("status") == "error":
                    error: Exception = self.client._unwrap_exception(content)
                    return error
        return None

    def last_output(self, rank: int) -> list[dict[str, Any]]:
        """Return what the last cell with output has shown: ``msg_type`` and ``content`` of each."""
        answer = self._ask(rank, wire.REPLAY_REQUEST, {})
        return [] if answer is None else list(answer.result(10)[0]["content"]["outputs"])

    def look(self, *, stack: bool = True, timeout_s: float = 2.0) -> Look:
        """Ask all ranks what they are doing, without waiting.

        Parameters
        ----------
        stack : bool
            Whether to take the Python stack.
        timeout_s : float
            After that a rank counts as one that does not answer.
        """
        asked = {}
        for rank in self.living(range(len(self))):
            answer = self._ask(
                rank, wire.REPORT_REQUEST, wire.report(self._gpus[rank], stack=stack)
            )
            if answer is not None:
                asked[rank] = answer
        return Look(len(self), asked, time.monotonic() + timeout_s)

    def reports(self, *, stack: bool = True, timeout_s: float = 2.0) -> list[RankReport]:
        """Return what each rank is doing; see :meth:`look`."""
        return self.look(stack=stack, timeout_s=timeout_s).reports()


class Look:
    """Reports that ranks were asked for.

    Parameters
    ----------
    size : int
        The number of ranks.
    asked : dict of int to Future
        The answers; none of those that are dead.
    deadline : float
        Until when an answer is waited for.
    """

    def __init__(self, size: int, asked: dict[int, Any], deadline: float) -> None:
        self._size = size
        self._asked = asked
        self._deadline = deadline

    def wake(self, call: Callable[[], None]) -> None:
        """Let `call` be called, on the client's io thread, at each answer."""
        for answer in self._asked.values():
            answer.add_done_callback(lambda _: call())

    def ready(self) -> bool:
        """Tell whether all have answered, or the time is over."""
        return time.monotonic() >= self._deadline or all(
            answer.done() for answer in self._asked.values()
        )

    def reports(self) -> list[RankReport]:
        """Wait for the answers and return them, by rank."""
        reports = [RankReport(rank, "dead") for rank in range(self._size)]
        for rank, answer in self._asked.items():
            try:
                (message,) = answer.result(max(0.0, self._deadline - time.monotonic()))
                reports[rank] = RankReport.read(rank, message["content"])
            except (concurrent.futures.TimeoutError, TimeoutError, KeyError):
                reports[rank] = RankReport(rank, "no answer")
        return reports
