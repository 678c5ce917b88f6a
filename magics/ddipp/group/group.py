"""A group of ranks: processes that train together, one device each."""

from __future__ import annotations

import atexit
import signal as signals
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any

from .. import apps
from ..backends import Backend, backend_for, backend_named
from ..cluster.clusters import LocalCluster
from ..cluster.nursery import PRELOAD
from ..errors import CellFailed, DdippError
from ..on_rank import membership as rank_side
from ..shared.devices import choose_gpus, gpu_uuids
from ..shared.wire import CellPlace
from .announcer import Announcer, default
from .calls import Ranks
from .cell import CellRun
from .failures import is_death
from .formation import connect_client, in_host_order
from .generations import Generations, Limits
from .interrupts import Interrupts
from .joining import join_values
from .late import LateOutput
from .report import RankReport
from .syncing import MissingVariable, copy_variables, pull, push


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
    generations : Generations
        The process group, and what ranks have lost.
    limits : Limits
        Times that may be changed.
    late : LateOutput
        What cells show that have ended.
    """

    _BESIDE_S = 20.0  # what a rank may take to give a variable away whose main thread is stuck

    def __init__(
        self,
        client: Any,
        engine_ids: Sequence[int],
        *,
        gpus: list[int] | None = None,
        backend: str | None = None,
        app: str = "torch",
        cluster: LocalCluster | None = None,
        announcer: Announcer | None = None,
    ) -> None:
        self._cluster = cluster
        self.client = client
        self.gpus = gpus
        uuids = [gpu_uuids()[gpu] for gpu in gpus] if gpus is not None else None
        self.ranks = Ranks(client, engine_ids, uuids)
        self.late = LateOutput(client)
        self.backend = backend or backend_for(gpus is not None).name
        self.announcer = announcer or default()
        self.app = app
        self.limits = Limits()
        restarts = self._may_restart if cluster is not None else None
        self.generations = Generations(
            self.ranks, self.backend, app, self.limits, self.announcer, restarts
        )
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
        fresh: bool = False,
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
        fresh : bool
            Start each rank as a Python of its own, not as a fork of one that has torch loaded.

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
            ranks,
            chosen,
            linger_s=linger_s,
            timeout_s=timeout_s,
            verbose=verbose,
            preload=None if fresh else PRELOAD,
        )
        engine_ids = sorted(cluster.client.ids)
        try:
            group = cls(cluster.client, engine_ids, gpus=chosen, app=app, cluster=cluster)
        except BaseException:
            cluster.stop()
            raise
        group.limits.timeout_s = timeout_s
        try:
            group.form()
            cluster.own(app, chosen, engine_ids)
        except BaseException:
            group.shutdown()
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
        group.limits.timeout_s = timeout_s
        try:
            group.generations.wait_until_idle()
            group.generations.resume()
        except BaseException:
            group.leave_running()
            raise
        cluster.own(note.app, note.gpus, note.engine_ids)
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
            ``"nccl"`` needs engines that were started with the ``CUDA_VISIBLE_DEVICES`` of the
            ranks of their host, in rank order.
        app : str
            Name of an app, see :mod:`ddipp.apps`.
        timeout_s : float
            Seconds to wait for the rendezvous.
        """
        app = apps.app_for_imports() if app == "auto" else app
        apps.load_app(app)
        group = cls(
            client, client.ids if engine_ids is None else engine_ids, backend=backend, app=app
        )
        group.limits.timeout_s = timeout_s
        group.form()
        return group

    @classmethod
    def connect(
        cls, connection_file: str | None = None, *, app: str = "torch", timeout_s: float = 60.0
    ) -> Group:
        """Form a group of all engines of a running controller, on one host or several.

        Ranks count host by host, as with torchrun. NCCL joins them if each host has a GPU for each
        of its engines, else Gloo.

        Parameters
        ----------
        connection_file : str, optional
            ``ipcontroller-client.json`` of the controller; that of the default profile otherwise.
        app : str
            Name of an app, see :mod:`ddipp.apps`.
        timeout_s : float
            Seconds to wait for the rendezvous.

        Raises
        ------
        DdippError
            When there is no such controller, or it has no engines.
        """
        client = connect_client(connection_file)
        try:
            engine_ids, backend = in_host_order(client)
            return cls.attach(client, engine_ids, backend=backend, app=app, timeout_s=timeout_s)
        except BaseException:
            client.close()
            raise

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
        if self.announcer.restarts():
            self.leave_running()
        elif self._cluster is not None or not self.client._closed:
            self.shutdown()

    def _may_restart(self, rank: int) -> bool:
        return self._cluster is not None and self._cluster.may_restart(self.ranks.engine_ids[rank])

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
    def devices(self) -> list[str]:
        """The device of each rank, for people."""
        if self.gpus is not None:
            return [f"GPU {gpu}" for gpu in self.gpus]
        return [self.kind.device_kind] * self.world_size

    @property
    def kind(self) -> Backend:
        """What joins the ranks."""
        return backend_named(self.backend)

    @property
    def generation(self) -> int:
        """Counts how often the group was formed."""
        return self.generations.number

    def form(self) -> None:
        """Form the process group, or form it again as the next generation."""
        self.generations.form()

    def renew(self, ranks: Collection[int] | None = None) -> None:
        """Start ranks again; see :meth:`ddipp.group.generations.Generations.renew`."""
        for rank in ranks or ():
            self._check_rank(rank)
        self.generations.renew(ranks)

    # --- running code ------------------------------------------------------------------------

    def run(
        self,
        code: str,
        *,
        see: Sequence[int] | None = (0,),
        quiet: bool = False,
        ranks: Sequence[int] | None = None,
        timeout_s: float | None = None,
        place: CellPlace | None = None,
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
        place : CellPlace, optional
            Where the code stands in a notebook; tracebacks say so.

        Raises
        ------
        CellFailed
            When a rank failed, or CellInterrupted. Variables are kept and the group works again.
        """
        for rank in [*(see or []), *(ranks or [])]:
            self._check_rank(rank)
        self.generations.make_ready()
        view = self.announcer.view(see, self.world_size, quiet)
        try:
            with Interrupts() as interrupts:
                cell = CellRun(self, code, view, interrupts, ranks, timeout_s, place)
                cell.wait()
        except CellFailed as failure:
            dead = [rank for rank, error in failure.errors.items() if is_death(error)]
            if not failure.errors and not self.generations.abandoned:
                self.generations.end_cells()  # nobody has said how it ended
            self.generations.recover(dead)
            raise
        except BaseException:
            self.generations.end_cells()
            self.generations.recover()
            raise
        if cell.fate.broken:
            self.generations.recover()  # an interrupt that the cell has dealt with
        if self.kind.settles:
            self.generations.free_memory()

    # --- variables ---------------------------------------------------------------------------

    def push(self, variables: dict[str, Any]) -> None:
        """Set variables on all ranks, by value: they have objects of their own.

        Variables that belong together, a model and its optimizer, should be named together.
        Functions and classes of the notebook go along, and so do variables that these functions
        use, where a rank does not have them.

        Raises
        ------
        DdippError
            When one can't be sent; nothing was set then, or not be rebuilt on a rank.
        """
        self.generations.notice_losses()
        for name, why in push(self.ranks, variables).items():
            self.announcer.say(f"{name}, which a function uses, was not sent ({why})")

    def pull(self, names: Sequence[str], rank: int = 0) -> dict[str, Any]:
        """Return variables of one rank, by value.

        A model that is wrapped in DistributedDataParallel comes as its module.

        Raises
        ------
        DdippError
            When the rank or a variable does not exist, can't be sent or not be rebuilt here.
        """
        return self._pull(names, [rank])[0]

    def pull_all(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """Return variables of all ranks: a list by rank for each name."""
        found = self._pull(names, range(self.world_size))
        return {name: [values[name] for values in found] for name in names}

    def gather(self, names: Sequence[str]) -> dict[str, Any]:
        """Return variables of all ranks joined along their first axis, in rank order.

        They are arrays, tensors, lists, or DataFrames; numbers become an array.
        """
        return {name: join_values(name, values) for name, values in self.pull_all(names).items()}

    def _pull(self, names: Sequence[str], ranks: Sequence[int]) -> list[dict[str, Any]]:
        gone, abandoned = self.ranks.gone(), self.generations.abandoned
        for rank in ranks:
            self._check_rank(rank)
            if rank in gone:
                raise DdippError(f"rank {rank} has died; its variables are lost")
        if any(rank in abandoned for rank in ranks):
            return [
                self._pull_beside(names, rank)
                if rank in abandoned
                else self._pull(names, [rank])[0]
                for rank in ranks
            ]
        try:
            return pull(self.ranks, names, ranks)
        except MissingVariable as error:
            raise DdippError(f"{error}{self._excuse(error.rank)}") from None

    def _pull_beside(self, names: Sequence[str], rank: int) -> dict[str, Any]:
        """Return variables of a rank that does not react, if its main thread alone is stuck."""
        try:
            return self.ranks.pull_beside(rank, names, self._BESIDE_S)
        except ConnectionError as error:
            raise DdippError(
                f"rank {rank} does not react, and {error}; %makedip --renew starts it again"
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
        self.generations.notice_losses()
        for rank in [*([] if source is None else [source]), *(targets or [])]:
            self._check_rank(rank)
        everyone = range(self.world_size)
        if source is None:
            source = next((rank for rank in everyone if rank not in self.generations.lost), 0)
        if targets is None:
            targets = sorted(self.generations.lost - {source})
            if not targets and names is None:
                raise DdippError("which variables? No rank has lost its own: %dipsync name ...")
            targets = targets or everyone
        targets = [rank for rank in targets if rank != source]
        if not targets:
            raise DdippError("there is no other rank to copy to")
        self.generations.make_ready()
        asked = list(names) if names is not None else None
        try:
            done = copy_variables(
                self.ranks,
                asked,
                source,
                targets,
                classes_too=names is None and bool(self.generations.lost),
            )
        except MissingVariable as error:
            raise DdippError(f"{error}{self._excuse(source)}") from None
        self.generations.lost -= set(targets)
        return {"source": source, "targets": targets, **done}

    def _check_rank(self, rank: int) -> None:
        if not 0 <= rank < self.world_size:
            raise DdippError(
                f"there is no rank {rank}; the group has ranks 0-{self.world_size - 1}"
            )

    def _excuse(self, rank: int) -> str:
        return " (it died and was started again)" if rank in self.generations.lost else ""

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
        view = self.announcer.view(see, self.world_size, False)
        for rank in range(self.world_size) if see is None else see:
            self._check_rank(rank)
            for output in self.ranks.last_output(rank):
                view.show(rank, {"header": output, "content": output["content"]})
        view.end()

    # --- beside Python -----------------------------------------------------------------------

    def signal(self, sig: signals.Signals, ranks: Sequence[int]) -> None:
        """Send a signal to ranks, without waiting."""
        self.ranks.signal(sig, ranks)

    def cut(self, ranks: Sequence[int]) -> None:
        """Shut down the group's connections of ranks, so that collectives they wait in fail."""
        self.ranks.cut(self.generation, ranks)
