"""A group of ranks: processes that train together, one device each."""

from __future__ import annotations

import atexit
import contextlib
import signal as signals
import time
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Any

from . import apps
from . import rank as rank_side
from .cell import CellRun
from .clusters import LocalCluster
from .devices import choose_gpus, gpu_uuids
from .display import OutputView, kernel_restarts, ranks_text, say
from .errors import CellFailed, DdippError, RanksLost
from .formation import changes, form_generation, wait_until_idle
from .ranks import Ranks, is_death
from .report import RankReport
from .syncing import MissingVariable, copy_variables, spread

#: Pushes of at least this many bytes are written once for all ranks of a host.
SHARE_FROM_BYTES = 1_000_000
#: How often a group is tried to form while ranks die.
FORM_ATTEMPTS = 3


class Group:
    """Ranks that run cells together, each a ``dipengine`` that hosts the user's Python.

    :meth:`start` starts ranks on this machine, :meth:`resume` finds a group again that another
    process has started, :meth:`attach` takes engines that run already, on any hosts. A group is
    also a context manager that shuts itself down.

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
        cluster: LocalCluster | None = None,
    ) -> None:
        self._cluster = cluster
        self._generation = 0
        self._formed = False
        self._abandoned: set[int] = set()
        self._lost: set[int] = set()  # started again, and without their variables since
        self._without_app: set[int] = set(range(len(engine_ids)))
        self._cut_off: set[int] = set()  # gone, and perhaps only from the network
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
        atexit.register(self._at_exit)

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
        linger_s: int = 10,
    ) -> Group:
        """Start engines on this machine and form their group.

        Parameters
        ----------
        ranks : int, optional
            That many CPU ranks, joined by Gloo.
        gpus : str or sequence of int, optional
            ``"all"`` or GPU ids in rank order, joined by NCCL.
        app : str
            Name of an app, see :mod:`ddipp.apps`; ``"auto"`` for the library that is imported here.
        timeout_s : float
            Seconds to wait for the engines and for their rendezvous.
        verbose : bool
            Show the log of the start.
        linger_s : int
            Should this process be killed: seconds that the ranks wait, idle, for another one to
            :meth:`resume` them.

        Raises
        ------
        DdippError
            With one line that names cause and remedy. Nothing is left running then.
        """
        app = apps.app_for_imports() if app == "auto" else app
        apps.load_app(app)  # a wrong name fails before anything is started
        chosen = None
        if gpus is not None:
            wish = gpus if isinstance(gpus, str) else ",".join(map(str, gpus))
            chosen = choose_gpus(wish)
            ranks = len(chosen)
        if ranks is None or ranks < 1:
            raise DdippError("how many ranks? Give GPUs (-g all) or a number of CPU ranks (-n 2)")
        cluster = LocalCluster.start(
            ranks, chosen, linger_s=linger_s, timeout_s=timeout_s, verbose=verbose
        )
        try:
            engine_ids = sorted(cluster.client.ids)
            group = cls(cluster.client, engine_ids, gpus=chosen, app=app, cluster=cluster)
            group.timeout_s = timeout_s
            group.form()
            cluster.own(app, chosen, engine_ids)
        except BaseException:
            atexit.unregister(group._at_exit)
            cluster.stop()
            raise
        return group

    @classmethod
    def resume(cls, cluster_id: str | None = None, *, timeout_s: float = 60.0) -> Group:
        """Take back a group that another process has started on this machine and left.

        Variables are as they were. A cell that still runs is waited for; Ctrl-C ends it.

        Parameters
        ----------
        cluster_id : str, optional
            Name of its cluster; not needed for the only group whose notebook is gone.
        timeout_s : float
            Seconds to wait for the rendezvous.

        Raises
        ------
        DdippError
            When there is no such group.
        """
        cluster, note = LocalCluster.find(cluster_id, timeout_s)
        group = cls(cluster.client, note.engine_ids, gpus=note.gpus, app=note.app, cluster=cluster)
        group.timeout_s = timeout_s
        try:
            wait_until_idle(group.ranks, group.grace_s)
            group._catch_up()
        except BaseException:
            atexit.unregister(group._at_exit)
            cluster.leave()
            raise
        cluster.own(note.app, note.gpus, note.engine_ids)
        return group

    def _catch_up(self) -> None:
        """Form a new generation of ranks that were in a group before."""
        standings = self.ranks.apply(rank_side.standing)
        self._generation = max(generation for generation, _ in standings)
        # A rank that has never been in this group was started again while nobody looked.
        self._lost = {rank for rank, (generation, _) in enumerate(standings) if generation < 0}
        self._without_app = {rank for rank, (_, ready) in enumerate(standings) if not ready}
        self.form()

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
            ``"nccl"`` needs engines that were started with the ``CUDA_VISIBLE_DEVICES`` of the
            ranks of their host, in rank order.
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
        atexit.unregister(self._at_exit)
        if self._cluster is not None:
            return self._cluster.stop()
        self.ranks.apply(apps.stop_here)
        self.ranks.apply(rank_side.leave_group)

    def leave_running(self) -> None:
        """Let the ranks go on, for :meth:`resume` in another process; this object is done."""
        atexit.unregister(self._at_exit)
        if self._cluster is not None:
            self._cluster.leave()

    def _at_exit(self) -> None:
        if kernel_restarts():
            self.leave_running()
        else:
            self.shutdown()

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
        self._through_deaths(self._form_once)

    def _through_deaths(self, action: Callable[[], None]) -> None:
        """Do something with all ranks; again when one died, once it is there again."""
        import ipyparallel.error

        for attempt in range(1, FORM_ATTEMPTS + 1):
            self._take_back_ranks()
            try:
                return action()
            except ipyparallel.error.IPythonError as error:
                if not is_death(error):
                    raise
                if attempt == FORM_ATTEMPTS:
                    raise DdippError(f"ranks die while the group forms: {error}") from None
                self._wait_for_notice()

    def _wait_for_notice(self) -> None:
        """Wait until the client knows of a death whose error has come before the notice."""
        deadline = time.monotonic() + 1
        while not (self.ranks.gone() or self.ranks.replaced()) and time.monotonic() < deadline:
            time.sleep(0.005)

    def _form_once(self) -> None:
        self._generation += 1
        formed = form_generation(self.ranks, self._generation, self.backend, self.timeout_s)
        self._formed = True
        self._start_app()
        if self._generation == 1:
            for rank in range(self.world_size):  # while the user writes the first cell
                self.ranks.start(rank, rank_side.warm_up)
        for line in changes(formed, self.backend, self._lost):
            say(line)

    def _start_app(self) -> None:
        import ipyparallel.error

        starting = sorted(self._without_app)
        try:
            for result in [self.ranks.start(rank, apps.start_here, self.app) for rank in starting]:
                self.ranks.take(result)
        except ipyparallel.error.RemoteError as error:
            if error.ename != "DdippError":
                raise
            raise DdippError(error.evalue) from None
        self._without_app.clear()

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
            self._cut_off.update(gone)
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
        self._without_app.update(back)
        self._free_busy_ranks(self._cut_off - set(back))
        self._cut_off.clear()

    def _free_busy_ranks(self, ranks: Collection[int]) -> None:
        """End what ranks still do that only their network had lost: the cell that has failed."""
        deadline = time.monotonic() + self.grace_s
        while ranks:
            reports = self.ranks.reports(stack=False)
            busy = [one.rank for one in reports if one.rank in ranks and one.state == "busy"]
            if not busy:
                return
            if time.monotonic() > deadline:
                self.abandon(busy)
                raise DdippError(f"{ranks_text(busy)} does not react; start again with %makedip -r")
            self.ranks.signal(signals.SIGINT, busy)
            self.ranks.cut(self._generation, busy)
            time.sleep(0.2)

    def _may_come_back(self, ranks: Sequence[int]) -> bool:
        """Tell whether the supervisors of these ranks still run, as far as it is known."""
        if self._cluster is None:
            return True
        return all(self._cluster.may_restart(self.ranks.engine_ids[rank]) for rank in ranks)

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
        ranks: Sequence[int] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Run a cell on the ranks and show its output live.

        Parameters
        ----------
        code : str
            As in a notebook cell: magics, top-level await and a shown last expression work.
        see : sequence of int, optional
            Ranks whose output is shown; None for all.
        quiet : bool
            Show errors only.
        ranks : sequence of int, optional
            Where to run it; on all when not given. The others take no part in collectives.
        timeout_s : float, optional
            Interrupt the cell when it has not ended after so many seconds.

        Raises
        ------
        CellFailed
            When a rank failed, or CellInterrupted. Variables are kept and the group works again.
        """
        for rank in [*(see or []), *(ranks or [])]:
            self._check_rank(rank)
        self._notice_losses()
        if not self._formed:
            self.form()
        view = OutputView(see, self.world_size, quiet)
        try:
            CellRun(self, code, view, ranks, timeout_s).wait()
        except CellFailed as failure:
            self._formed = False
            self._recover([rank for rank, error in failure.errors.items() if is_death(error)])
            raise
        except BaseException:
            self._formed = False
            self._recover()
            raise
        if self.gpus is not None:
            self.ranks.apply(rank_side.free_memory)

    def _recover(self, died: Sequence[int] = ()) -> None:
        """After a failed cell: free what it holds and form the next generation."""
        if self._abandoned:
            return  # the next use says what to do
        before = set(self._lost) - set(died)
        if died:
            self._wait_for_notice()
            self._cut_off.update(died)
            say(f"{ranks_text(died)} gone; waiting for {'it' if len(died) == 1 else 'them'}")
        self.leave(range(self.world_size))
        try:
            self._through_deaths(self._after_failure)
        except DdippError as error:
            say(str(error))
        if new := sorted(self._lost - before):
            say(_lost_text(new))

    def _after_failure(self) -> None:
        self.ranks.apply(rank_side.forget_failure)
        self._form_once()

    # --- variables ---------------------------------------------------------------------------

    def push(self, variables: dict[str, Any]) -> None:
        """Set variables on all ranks."""
        import ipyparallel

        self._notice_losses()
        size = sum(memoryview(part).nbytes for part in ipyparallel.serialize_object(variables))
        if size >= SHARE_FROM_BYTES and self._cluster is not None:
            return spread(self.ranks, variables)  # they are on this host
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
        asked = list(names) if names is not None else None
        try:
            done = copy_variables(
                self.ranks, asked, source, targets, classes_too=names is None and bool(self._lost)
            )
        except MissingVariable as error:
            raise DdippError(f"{error}{self._excuse(source)}") from None
        self._lost -= set(targets)
        return {"source": source, "targets": targets, **done}

    def _check_rank(self, rank: int) -> None:
        if not 0 <= rank < self.world_size:
            raise DdippError(
                f"there is no rank {rank}; the group has ranks 0-{self.world_size - 1}"
            )

    def _excuse(self, rank: int) -> str:
        return " (it died and was started again)" if rank in self._lost else ""

    # --- facts -------------------------------------------------------------------------------

    def reports(self, *, stack: bool = True) -> list[RankReport]:
        """Return what each rank is doing, also while a cell runs or hangs.

        Parameters
        ----------
        stack : bool
            Whether to take the Python stack of each rank's main thread.
        """
        return self.ranks.reports(stack=stack)

    def replay(self, see: Sequence[int] | None = (0,)) -> None:
        """Show again what the last cell has shown, also in a notebook that was not open then.

        Parameters
        ----------
        see : sequence of int, optional
            Of which ranks; None for all.
        """
        view = OutputView(see, self.world_size)
        for rank in range(self.world_size) if see is None else see:
            self._check_rank(rank)
            for output in self.ranks.last_output(rank):
                view.show(rank, {"header": output, "content": output["content"]})
        view.tick(everything=True)

    # --- what a running cell needs -----------------------------------------------------------

    def leave(self, ranks: Sequence[int]) -> None:
        """Make idle ranks leave the group, without waiting."""
        import ipyparallel.error

        for rank in self.ranks.living(ranks):
            with contextlib.suppress(ipyparallel.error.EngineError):  # it has just died
                self.ranks.start(rank, rank_side.leave_group)

    def signal(self, sig: signals.Signals, ranks: Sequence[int]) -> None:
        """Send a signal to ranks, without waiting."""
        self.ranks.signal(sig, ranks)

    def cut(self, ranks: Sequence[int]) -> None:
        """Shut down the group's connections of ranks, so that collectives they wait in fail."""
        self.ranks.cut(self._generation, ranks)


def _lost_text(ranks: Sequence[int]) -> str:
    one = len(ranks) == 1
    return (
        f"{ranks_text(ranks)} died and {'was' if one else 'were'} started again, without "
        f"{'its' if one else 'their'} variables; the group works. %dipsync copies the variables of "
        "another rank to it"
    )
