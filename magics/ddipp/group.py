"""A group of ranks: processes that train together, one device each."""

from __future__ import annotations

import atexit
import signal as signals
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from . import rank as rank_side
from . import share
from .cell import CellRun
from .devices import choose_gpus, gpu_uuids
from .display import OutputView
from .errors import DdippError, RanksLost
from .ranks import Ranks
from .report import RankReport

#: Pushes of at least this many bytes go to one rank, and from there to the others.
SHARE_FROM_BYTES = 1_000_000
#: How often a group is tried to form while ranks die.
FORM_ATTEMPTS = 3


class Group:
    """Ranks that run cells together, each a ``dipengine`` that hosts the user's Python.

    :meth:`start` starts ranks on this machine, :meth:`attach` takes engines that run already, on any
    hosts. A group is also a context manager that shuts itself down.

    Attributes
    ----------
    client : ipyparallel.Client
        Connected to the ranks.
    ranks : Ranks
        Calls to the ranks, by rank.
    gpus : list of int or None
        The GPU of each rank, by rank; None for CPU ranks.
    timeout_s : float
        For the start of ranks and for a rendezvous, in seconds.
    grace_s : float
        How long peers of a rank that failed may go on computing, in seconds.
    hang_after_s : float or None
        A report is shown when no rank makes progress for so many seconds; None for never.
    """

    def __init__(
        self,
        client: Any,
        engine_ids: Sequence[int],
        *,
        gpus: list[int] | None = None,
        backend: str | None = None,
        app: str = "torch",
        cluster: Any = None,
    ) -> None:
        self._cluster = cluster
        self._generation = 0
        self._formed = False
        self._abandoned: set[int] = set()
        self._lost: set[int] = set()  # started again, and without their variables since
        self.client = client
        self.gpus = gpus
        uuids = [gpu_uuids()[gpu] for gpu in gpus] if gpus is not None else None
        self.ranks = Ranks(client, engine_ids, uuids)
        self.backend = backend or ("gloo" if gpus is None else "nccl")
        self.app = app
        self.timeout_s = 60.0
        self.grace_s = 10.0
        self.hang_after_s: float | None = 120.0
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
        """Start engines on this machine and form their group.

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
            cluster.start_engines_sync(
                n=ranks,
                environment=_engine_environment(chosen),
                engine_args=["--restart=on-failure"],
            )
            client = cluster.connect_client_sync()
            _wait_for_engines(cluster, client, ranks, timeout_s)
            group = cls(client, sorted(client.ids), gpus=chosen, app=app, cluster=cluster)
            group.timeout_s = timeout_s
            group.form()
        except BaseException:
            cluster.stop_cluster_sync()
            raise
        return group

    @classmethod
    def attach(
        cls,
        client: Any,
        engine_ids: Sequence[int] | None = None,
        *,
        backend: str = "gloo",
        app: str = "torch",
        timeout_s: float = 60.0,
    ) -> Group:
        """Form a group of engines that run already, on one host or several.

        Parameters
        ----------
        client : ipyparallel.Client
            Connected to their controller. It stays open when the group is shut down.
        engine_ids : sequence of int, optional
            In rank order; all engines when not given.
        backend : {"gloo", "nccl"}
            ``"nccl"`` needs engines that were started with the ``CUDA_VISIBLE_DEVICES`` of the ranks
            of their host, in rank order.
        app : str
            Name of an app, see :mod:`ddipp.apps`.
        timeout_s : float
            Seconds to wait for the rendezvous.
        """
        group = cls(
            client, client.ids if engine_ids is None else engine_ids, backend=backend, app=app
        )
        group.timeout_s = timeout_s
        group.form()
        return group

    def shutdown(self) -> None:
        """End all ranks and the controller; ranks that were attached only leave their group."""
        atexit.unregister(self.shutdown)
        if self._cluster is None:
            self.ranks.apply(rank_side.leave_group)
            return
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
        return len(self.ranks)

    @property
    def generation(self) -> int:
        """Counts how often the group was formed."""
        return self._generation

    def form(self) -> None:
        """Form the process group, or form it again as the next generation."""
        import ipyparallel.error

        for attempt in range(1, FORM_ATTEMPTS + 1):
            self._take_back_ranks()
            try:
                return self._form_once()
            except (ipyparallel.error.RemoteError, ipyparallel.error.CompositeError) as error:
                died = "EngineError" in (getattr(error, "ename", ""), str(error).split(":")[0])
                if not (died or self.ranks.gone() or self.ranks.replaced()):
                    raise
                if attempt == FORM_ATTEMPTS:
                    raise DdippError(f"ranks die while the group forms: {error}") from None
                time.sleep(0.05)  # the notice of the end follows the error

    def _form_once(self) -> None:
        facts = self.ranks.apply(rank_side.probe)
        self.ranks.apply_each(rank_side.set_environment, self._environments(facts))
        self._import_torch()
        held = self.ranks.apply(rank_side.leave_group)
        self._generation += 1
        hosts = {fact["host"] for fact in facts}
        host = "127.0.0.1" if len(hosts) == 1 else facts[0]["address"]
        port = self.ranks.apply_on(0, rank_side.open_store, host, self.world_size, self.timeout_s)
        # Each group once, in an order that is the same on all ranks.
        others = list({name: (name, *rest) for rank in held for name, *rest in rank}.values())
        place = (self.world_size, host, port, self._generation, self.backend, self.timeout_s)
        formed = self.ranks.apply_each(
            rank_side.form_group,
            [(rank, *place, others) for rank in range(self.world_size)],
            self.timeout_s + 10,
            lambda: self.ranks.cut(self._generation, range(self.world_size)),
        )
        self._formed = True
        starting = range(self.world_size) if self._generation == 1 else sorted(self._lost)
        for result in [self.ranks.start(rank, _start_app, self.app) for rank in starting]:
            self.ranks.take(result)
        self._say_what_changed(formed)

    def _say_what_changed(self, formed: list[dict[str, Any]]) -> None:
        problems = {fact["problem"] for fact in formed} - {""}
        lost = sorted({name for fact in formed for name in fact["lost"]})
        if problems and (self.backend == "nccl" or lost):
            say(problems.pop())
        if lost:
            say("groups made with new_group have ended; make them again")
        names = {name for fact in formed for name in fact["models"]}
        kept = [fact["models"] for rank, fact in enumerate(formed) if rank not in self._lost]
        for name in sorted(names):
            if len({models[name] for models in kept if name in models}) > 1:
                say(
                    f"the parameters of {name} differ between ranks: some stopped before a step of "
                    f"the optimizer and some after it. Make them equal with: %dipsync {name} "
                    "and the optimizer"
                )

    def _environments(self, facts: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        """Return what torchrun would set on each rank, and a fair share of threads."""
        hosts = [fact["host"] for fact in facts]
        environments: list[tuple[Any, ...]] = []
        for rank, fact in enumerate(facts):
            here = hosts.count(fact["host"])
            values = {
                "RANK": str(rank),
                "WORLD_SIZE": str(self.world_size),
                "LOCAL_RANK": str(hosts[:rank].count(fact["host"])),
                "LOCAL_WORLD_SIZE": str(here),
            }
            defaults = {"OMP_NUM_THREADS": str(max(1, fact["cores"] // here))}
            if len(set(hosts)) == 1 and self.gpus is None:
                values["GLOO_SOCKET_IFNAME"] = "lo"
            elif len(set(hosts)) > 1 and fact["interface"]:
                defaults["GLOO_SOCKET_IFNAME"] = fact["interface"]
                defaults["NCCL_SOCKET_IFNAME"] = fact["interface"]
            environments.append((values, defaults))
        return environments

    def _import_torch(self) -> None:
        import ipyparallel.error

        try:
            self.ranks.apply(rank_side.import_torch)
        except (ipyparallel.error.RemoteError, ipyparallel.error.CompositeError) as error:
            if "ModuleNotFoundError" not in str(error):
                raise
            raise DdippError(
                "torch is not installed in this environment; install it with: "
                f"{sys.executable} -m pip install torch"
            ) from None

    # --- ranks that die ----------------------------------------------------------------------

    def _take_back_ranks(self) -> None:
        """Wait until ranks that died are there again; their supervisors start them.

        Raises
        ------
        DdippError
            When one does not come back.
        """
        if self._abandoned:
            ranks = ", ".join(map(str, sorted(self._abandoned)))
            raise DdippError(f"rank {ranks} does not react; start again with %makedip -r")
        deadline = time.monotonic() + self.timeout_s
        while gone := self.ranks.gone():
            if time.monotonic() > deadline or not self._may_come_back(gone):
                word = "rank" if len(gone) == 1 else "ranks"
                raise DdippError(
                    f"{word} {', '.join(map(str, gone))} died and did not start again; the "
                    "variables of the others are kept. Save what you need with %dipull, then start "
                    "again with %makedip -r"
                )
            time.sleep(0.02)
        back = self.ranks.replaced()
        self.ranks.accept(back)
        self._lost.update(back)

    def _may_come_back(self, ranks: Sequence[int]) -> bool:
        """Tell whether the supervisors of these ranks still run, as far as it is known."""
        if self._cluster is None:
            return True
        engine_set = next(iter(self._cluster.engines.values()))
        return all(str(self.ranks.engine_ids[rank]) in engine_set.launchers for rank in ranks)

    def _notice_losses(self) -> None:
        """Form again, and say so, when ranks died since the last cell.

        Raises
        ------
        RanksLost
            Once for each loss: a cell that counts on lost variables should not run.
        """
        if not (self.ranks.gone() or self.ranks.replaced()):
            return
        self._formed = False
        before = set(self._lost)
        self.form()
        raise RanksLost(_lost_text(sorted(self._lost - before) or sorted(self._lost)))

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
        self._notice_losses()
        if not self._formed:
            self.form()
        view = OutputView(see, self.world_size, quiet)
        try:
            CellRun(self, code, view).wait()
        except BaseException:
            self._formed = False
            self._recover()
            raise
        if self.gpus is not None:
            self.ranks.apply(rank_side.free_memory)

    def _recover(self) -> None:
        """After a failed cell: free what it holds and form the next generation."""
        if self._abandoned:
            return  # the next use says what to do
        before = set(self._lost)
        if gone := self.ranks.gone() or self.ranks.replaced():
            say(f"{_ranks_text(gone)} died; starting again")
        for rank in self.ranks.living(range(self.world_size)):
            self.ranks.start(rank, rank_side.leave_group)
        try:
            self._take_back_ranks()
            self.ranks.apply(rank_side.forget_failure)
            self.form()
        except DdippError as error:
            say(str(error))
        if new := sorted(self._lost - before):
            say(_lost_text(new))

    # --- variables ---------------------------------------------------------------------------

    def push(self, variables: dict[str, Any]) -> None:
        """Set variables on all ranks."""
        import ipyparallel

        self._notice_losses()
        size = sum(memoryview(part).nbytes for part in ipyparallel.serialize_object(variables))
        if size < SHARE_FROM_BYTES or self.world_size == 1:
            self.ranks.take(self.client[self.ranks.engine_ids].push(variables, block=False))
            return
        self.ranks.take(self.client[self.ranks.engine_ids[0]].push(variables, block=False))
        self.sync(list(variables), source=0)

    def pull(self, names: Sequence[str], rank: int = 0) -> dict[str, Any]:
        """Return variables of one rank.

        Raises
        ------
        DdippError
            When the rank or a variable does not exist there.
        """
        import ipyparallel.error

        self._check_rank(rank)
        if rank in self.ranks.gone():
            raise DdippError(f"rank {rank} has died; its variables are lost")
        if rank in self._abandoned:
            raise DdippError(f"rank {rank} does not react; start again with %makedip -r")
        try:
            return dict(self.ranks.apply_on(rank, rank_side.pull, list(names)))
        except ipyparallel.error.RemoteError as error:
            if error.ename != "NameError":
                raise
            raise DdippError(
                f"rank {rank} has no variable {error.evalue}{self._excuse(rank)}"
            ) from None

    def sync(
        self,
        names: Sequence[str] | None = None,
        source: int | None = None,
        targets: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """Copy variables of one rank to others.

        Models, their optimizers and what else belongs together should be named together: they share
        their parameters on the targets then, as they do on the source.

        Parameters
        ----------
        names : sequence of str, optional
            Which; when not given all that can be sent, if ranks have lost theirs.
        source : int, optional
            From which rank; the first that has not lost its variables when not given.
        targets : sequence of int, optional
            To which; those that have lost theirs, or all others if none has, when not given.

        Returns
        -------
        dict
            ``names``, ``source``, ``targets``, and ``skipped``: name to reason.
        """
        self._notice_losses()
        for rank in [*([] if source is None else [source]), *(targets or [])]:
            self._check_rank(rank)
        everyone = range(self.world_size)
        if source is None:
            source = next((rank for rank in everyone if rank not in self._lost), 0)
        if targets is None:
            targets = sorted(self._lost - {source})
            if not targets and names is None:
                raise DdippError("which variables? No rank has lost its own: %dipsync name ...")
            targets = targets or everyone
        targets = [rank for rank in targets if rank != source]
        if not targets:
            raise DdippError("there is no other rank to copy to")
        if not self._formed:
            self.form()
        done = self._share(list(names) if names is not None else None, source, targets)
        if names is None:
            self._lost -= set(targets)
        return {"source": source, "targets": targets, **done}

    def _share(
        self, names: list[str] | None, source: int, targets: Sequence[int]
    ) -> dict[str, Any]:
        hosts = [fact["host"] for fact in self.ranks.apply(rank_side.probe)]
        near = all(hosts[rank] == hosts[source] for rank in targets)
        # A class that all ranks know from running its cell stays one class; otherwise it goes along.
        for by_value in (names is None and bool(self._lost), True):
            ready = self._prepare(names, source, by_value, near)
            sizes = ready["sizes"]
            if near:
                calls = [
                    self.ranks.start(rank, share.take_mapped, ready["pid"], ready["file"], sizes)
                    for rank in targets
                ]
                problems = [self.ranks.take(call) for call in calls]
            else:
                problems = self.ranks.apply_each(
                    share.take_broadcast,
                    [(source, sizes, rank in targets) for rank in range(self.world_size)],
                )
            self.ranks.apply_on(source, share.release)
            problem = next(filter(None, problems), "")
            if not problem:
                break
        else:
            raise DdippError(f"can't be rebuilt on another rank: {problem}")
        return {"names": ready["names"], "skipped": ready["skipped"]}

    def _prepare(
        self, names: list[str] | None, source: int, by_value: bool, near: bool
    ) -> dict[str, Any]:
        import ipyparallel.error

        try:
            return dict(self.ranks.apply_on(source, share.prepare, names, by_value, near))
        except ipyparallel.error.RemoteError as error:
            if error.ename == "NameError":
                raise DdippError(
                    f"rank {source} has no variable {error.evalue}{self._excuse(source)}"
                ) from None
            if error.ename == "TypeError":
                raise DdippError(f"{', '.join(names or [])} {error.evalue}") from None
            raise

    def _check_rank(self, rank: int) -> None:
        if not 0 <= rank < self.world_size:
            raise DdippError(
                f"there is no rank {rank}; the group has ranks 0-{self.world_size - 1}"
            )

    def _excuse(self, rank: int) -> str:
        return " (it died and was started again)" if rank in self._lost else ""

    # --- facts -------------------------------------------------------------------------------

    def status(self) -> list[dict[str, Any]]:
        """Return one row a rank: host, pid, device, memory, backend of the group."""
        self._notice_losses()
        return self.ranks.apply(rank_side.status)

    def reports(self, *, stack: bool = True) -> list[RankReport]:
        """Return what each rank is doing, also while a cell runs or hangs.

        Parameters
        ----------
        stack : bool
            Whether to take the Python stack of each rank's main thread.
        """
        return self.ranks.reports(stack=stack)

    # --- what a running cell needs -----------------------------------------------------------

    def leave(self, ranks: Sequence[int]) -> None:
        """Make idle ranks leave the group, without waiting."""
        for rank in self.ranks.living(ranks):
            self.ranks.start(rank, rank_side.leave_group)

    def signal(self, sig: signals.Signals, ranks: Sequence[int]) -> None:
        """Send a signal to ranks, without waiting."""
        self.ranks.signal(sig, ranks)

    def cut(self, ranks: Sequence[int]) -> None:
        """Shut down the group's connections of ranks, so that collectives they wait in fail."""
        self.ranks.cut(self._generation, ranks)


def say(text: str) -> None:
    """Show a line of ours in the notebook."""
    print(f"ddipp: {text}", file=sys.stderr)


def _ranks_text(ranks: Sequence[int]) -> str:
    word = "rank" if len(ranks) == 1 else "ranks"
    return f"{word} {', '.join(map(str, ranks))}"


def _lost_text(ranks: Sequence[int]) -> str:
    one = len(ranks) == 1
    return (
        f"{_ranks_text(ranks)} died and {'was' if one else 'were'} started again, without "
        f"{'its' if one else 'their'} variables; the group works. %dipsync copies the variables of "
        "another rank to it"
    )


def _engine_environment(gpus: list[int] | None) -> dict[str, str]:
    """Return what has to be set before torch loads.

    Every rank sees the GPUs of the group in rank order, so that ``LOCAL_RANK`` is the index of its
    device for every library. They are named by UUID: CUDA and the driver may count them differently.
    A failed collective aborts its communicators and keeps the process.
    """
    import os

    if gpus is None:
        return {"CUDA_VISIBLE_DEVICES": ""}
    uuids = gpu_uuids()
    wanted = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "2", "TORCH_NCCL_ENABLE_MONITORING": "0"}
    unset = {name: value for name, value in wanted.items() if name not in os.environ}
    return {"CUDA_VISIBLE_DEVICES": ",".join(uuids[gpu] for gpu in gpus), **unset}


def _start_app(name: str) -> None:
    import os

    from ddipp.apps import load_app

    load_app(name).start(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


def _wait_for_engines(cluster: Any, client: Any, ranks: int, timeout_s: float) -> None:
    """Wait until all engines are registered; an engine that ends early ends the wait."""
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
