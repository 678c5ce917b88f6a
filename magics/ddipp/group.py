"""A group of ranks: processes that train together, one device each."""

from __future__ import annotations

import atexit
import signal as signals
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from . import rank as rank_side
from .cell import CellRun
from .devices import choose_gpus
from .display import OutputView
from .errors import DdippError


class Group:
    """Ranks on this machine, each a ``dipengine`` that hosts this interpreter's Python.

    Use :meth:`start`; a group is also a context manager that shuts itself down.

    Attributes
    ----------
    client : ipyparallel.Client
        Connected to the ranks.
    engine_ids : list of int
        The engine of each rank, by rank.
    gpus : list of int or None
        The GPU of each rank, by rank; None for CPU ranks.
    """

    def __init__(self, cluster: Any, client: Any, gpus: list[int] | None, app: str) -> None:
        self._cluster = cluster
        self._generation = 0
        self._formed = False
        self._abandoned: set[int] = set()
        self.client = client
        self.engine_ids: list[int] = sorted(client.ids)
        self.gpus = gpus
        self.app = app
        self.timeout_s = 60.0
        self.grace_s = 10.0
        # Runs before the cluster's own exit handler, which would end it under a living client.
        atexit.register(self.shutdown)

    # --- life --------------------------------------------------------------------------------

    @classmethod
    def start(
        cls,
        ranks: int | None = None,
        gpus: str | Sequence[int] | None = None,
        *,
        app: str = "torch",
        timeout_s: float = 60.0,
        verbose: bool = False,
    ) -> Group:
        """Start engines and form their group.

        Parameters
        ----------
        ranks : int, optional
            That many CPU ranks, joined by Gloo.
        gpus : str or sequence of int, optional
            ``"all"`` or GPU ids in rank order, joined by NCCL.
        app : str
            Name of an app, see :mod:`ddipp.apps`.
        timeout_s : float
            Seconds to wait for the engines and for their rendezvous.
        verbose : bool
            Show the log of the start.

        Raises
        ------
        DdippError
            With one line that names cause and remedy. Nothing is left running then.
        """
        import ipyparallel

        from .apps import load_app

        load_app(app)  # a wrong name fails before anything is started
        chosen = None
        if gpus is not None:
            wish = gpus if isinstance(gpus, str) else ",".join(map(str, gpus))
            chosen = choose_gpus(wish)
            ranks = len(chosen)
        if ranks is None or ranks < 1:
            raise DdippError("how many ranks? Give GPUs (-g all) or a number of CPU ranks (-n 2)")
        cluster = ipyparallel.Cluster(
            controller="ddipp", engines="ddipp", n=ranks, log_level=20 if verbose else 40
        )
        try:
            cluster.start_controller_sync()
            cluster.start_engines_sync(n=ranks, environment=_engine_environment(chosen))
            client = cluster.connect_client_sync()
            _wait_for_engines(cluster, client, ranks, timeout_s)
            group = cls(cluster, client, chosen, app)
            group.timeout_s = timeout_s
            group.form()
            group.apply(_start_app, app)
        except BaseException:
            cluster.stop_cluster_sync()
            raise
        return group

    def shutdown(self) -> None:
        """End all ranks and the controller."""
        atexit.unregister(self.shutdown)
        self.client.close()
        self._cluster.stop_cluster_sync()

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()

    # --- the process group -------------------------------------------------------------------

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return len(self.engine_ids)

    @property
    def backend(self) -> str:
        """``"nccl"`` on GPUs, ``"gloo"`` on CPU ranks."""
        return "gloo" if self.gpus is None else "nccl"

    def form(self) -> None:
        """Form the process group, or form it again as the next generation."""
        self._check_alive()
        facts = self.apply(rank_side.probe)
        hosts = {fact["host"] for fact in facts}
        host = "127.0.0.1" if len(hosts) == 1 else facts[0]["host"]
        threads = max(1, facts[0]["cores"] // self.world_size)
        common = {"WORLD_SIZE": str(self.world_size), "LOCAL_WORLD_SIZE": str(self.world_size)}
        if len(hosts) == 1 and self.gpus is None:
            common["GLOO_SOCKET_IFNAME"] = "lo"
        self.apply_each(
            rank_side.set_environment,
            [
                ({**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, threads)
                for rank in range(self.world_size)
            ],
        )
        self._import_torch()
        self.apply(rank_side.leave_group)
        self._generation += 1
        port = self.apply_on(0, rank_side.open_store, host, self.world_size, self.timeout_s)
        self.apply_each(
            rank_side.form_group,
            [
                (rank, self.world_size, host, port, self._generation, self.backend, self.timeout_s)
                for rank in range(self.world_size)
            ],
        )
        self._formed = True

    def _import_torch(self) -> None:
        import ipyparallel.error

        try:
            self.apply(rank_side.import_torch)
        except (ipyparallel.error.RemoteError, ipyparallel.error.CompositeError) as error:
            if "ModuleNotFoundError" not in str(error):
                raise
            import sys

            raise DdippError(
                "torch is not installed in this environment; install it with: "
                f"{sys.executable} -m pip install torch"
            ) from None

    def _check_alive(self) -> None:
        gone = [
            rank for rank, engine in enumerate(self.engine_ids) if engine not in self.client.ids
        ]
        if gone:
            ranks = ", ".join(map(str, gone))
            raise DdippError(
                f"rank {ranks} has died; its variables are lost, those of the others are kept. "
                "Save what you need with %dipull, then start again with %makedip -r"
            )

        if self._abandoned:
            ranks = ", ".join(map(str, sorted(self._abandoned)))
            raise DdippError(f"rank {ranks} does not react; start again with %makedip -r")

    def abandon(self, ranks: Sequence[int]) -> None:
        """Count ranks as lost that do not react to interrupts."""
        self._abandoned.update(ranks)

    # --- running code ------------------------------------------------------------------------

    def run(
        self,
        code: str,
        *,
        see: Sequence[int] | None = (0,),
        quiet: bool = False,
    ) -> None:
        """Run a cell on all ranks and show its output live.

        Parameters
        ----------
        code : str
            As in a notebook cell: magics, top-level await and a shown last expression work.
        see : sequence of int, optional
            Ranks whose output is shown; None for all.
        quiet : bool
            Show errors only.

        Raises
        ------
        CellFailed
            When a rank failed, or CellInterrupted. Variables are kept and the group works again.
        """
        self._check_alive()
        if not self._formed:
            self.form()
        view = OutputView(see, self.world_size, quiet)
        try:
            CellRun(self, code, view, self.grace_s).wait()
        except BaseException:
            self._formed = False
            self._recover()
            raise
        if self.gpus is not None:
            self.apply(rank_side.free_memory)

    def _recover(self) -> None:
        """After a failed cell: free what it holds and form the next generation."""
        if self._abandoned or any(engine not in self.client.ids for engine in self.engine_ids):
            return  # the next use says what to do
        self.apply(rank_side.leave_group)
        self.apply(rank_side.forget_failure)
        self.form()

    def push(self, variables: dict[str, Any]) -> None:
        """Set variables on all ranks."""
        self._check_alive()
        self._take(self._view().push(variables, block=False))

    def pull(self, names: Sequence[str], rank: int = 0) -> dict[str, Any]:
        """Return variables of one rank.

        Raises
        ------
        DdippError
            When the rank or a variable does not exist there.
        """
        import ipyparallel.error

        if not 0 <= rank < self.world_size:
            raise DdippError(
                f"there is no rank {rank}; the group has ranks 0-{self.world_size - 1}"
            )
        if self.engine_ids[rank] not in self.client.ids:
            raise DdippError(f"rank {rank} has died; its variables are lost")
        if rank in self._abandoned:
            raise DdippError(f"rank {rank} does not react; start again with %makedip -r")
        try:
            return dict(self.apply_on(rank, rank_side.pull, list(names)))
        except ipyparallel.error.RemoteError as error:
            if error.ename != "NameError":
                raise
            raise DdippError(f"rank {rank} has no variable {error.evalue}") from None

    def status(self) -> list[dict[str, Any]]:
        """Return one row a rank: host, pid, device, memory, backend of the group."""
        self._check_alive()
        return self.apply(rank_side.status)

    # --- plumbing ----------------------------------------------------------------------------

    def _view(self) -> Any:
        return self.client[self.engine_ids]

    def _take(self, result: Any, timeout_s: float | None = None) -> Any:
        """Wait for a result and let the client forget it: it would keep every pulled model."""
        try:
            return result.get(timeout_s)
        finally:
            if result.ready():
                self.client.purge_local_results(result)

    def apply(self, function: Any, *args: Any) -> list[Any]:
        """Call a function on all ranks and return what each returned."""
        return list(self._take(self._view().apply_async(function, *args)))

    def apply_on(self, rank: int, function: Any, *args: Any) -> Any:
        """Call a function on one rank."""
        return self._take(self.client[self.engine_ids[rank]].apply_async(function, *args))

    def apply_each(self, function: Any, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a function on all ranks at the same time, each with its own arguments."""
        results = [
            self.client[engine].apply_async(function, *args)
            for engine, args in zip(self.engine_ids, arguments)
        ]
        return [self._take(result, self.timeout_s + 10) for result in results]

    def leave(self, ranks: Sequence[int]) -> None:
        """Make idle ranks leave the group, without waiting."""
        for rank in ranks:
            engine = self.engine_ids[rank]
            if engine in self.client.ids:
                self.client[engine].apply_async(rank_side.leave_group)

    def signal(self, sig: signals.Signals, ranks: Sequence[int]) -> None:
        """Send a signal to ranks, without waiting."""
        targets = self._living(ranks)
        if targets:
            self.client.send_signal(int(sig), targets=targets, block=False)

    def cut(self, ranks: Sequence[int]) -> None:
        """Shut down the group's connections of ranks, so that collectives they wait in fail."""
        targets = self._living(ranks)
        if targets:
            self.client._send_control_request(
                targets=targets,
                msg_type="ddipp_cut_request",
                content={"generation": self._generation},
                block=False,
            )

    def _living(self, ranks: Sequence[int]) -> list[int]:
        return [self.engine_ids[r] for r in ranks if self.engine_ids[r] in self.client.ids]


def _engine_environment(gpus: list[int] | None) -> dict[str, str]:
    """Return what has to be set before torch loads.

    Every rank sees the GPUs of the group in rank order, so that ``LOCAL_RANK`` is the index of its
    device for every library. A failed collective aborts its communicators and keeps the process.
    """
    import os

    if gpus is None:
        return {"CUDA_VISIBLE_DEVICES": ""}
    wanted = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "2", "TORCH_NCCL_ENABLE_MONITORING": "0"}
    unset = {name: value for name, value in wanted.items() if name not in os.environ}
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)), **unset}


def _start_app(name: str) -> None:
    import os

    from ddipp.apps import load_app

    load_app(name).start(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


def _wait_for_engines(cluster: Any, client: Any, ranks: int, timeout_s: float) -> None:
    """Wait until all engines are registered; an engine that ends early ends the wait."""
    import time

    deadline = time.monotonic() + timeout_s
    engine_set = next(iter(cluster.engines.values()))
    while len(client.ids) < ranks:
        ended = engine_set.stop_data.get("engines")
        if ended or time.monotonic() > deadline:
            log = engine_set.get_output().strip().splitlines()
            why = log[-1].strip() if log else "no output"
            what = "an engine ended at its start" if ended else f"not ready after {timeout_s:.0f} s"
            raise DdippError(f"{len(client.ids)} of {ranks} ranks started ({what}): {why}")
        time.sleep(0.02)
