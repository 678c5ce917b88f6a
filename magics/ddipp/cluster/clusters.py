"""The controller and the engines of a group on this machine, and the note that finds them again.

They outlive the process that started them for a while (``dipcontroller --linger``). A note beside
ipyparallel's cluster file says what group they are, so that a notebook whose kernel was started
again takes it back.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal as signals
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import DdippError
from .launchers import engine_environment, runs, wait_for_engines
from .nursery import nursery_arguments


@dataclass(frozen=True)
class Process:
    """A process by its number and its start, since numbers are used again.

    Attributes
    ----------
    pid : int
        Its number.
    started : float
        Seconds since the epoch.
    """

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Process:
        """Return the process that has this number now."""
        import psutil

        return cls(pid, psutil.Process(pid).create_time())

    def runs(self) -> bool:
        """Tell whether it is still there."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            there = process.create_time() == self.started
            return there and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True)
class Note:
    """What has to be known of a group to take it back.

    Attributes
    ----------
    cluster_id : str
        Name of the cluster.
    app : str
        Name of its app.
    gpus : list of int or None
        The GPU of each rank, by rank; None for CPU ranks.
    engine_ids : list of int
        The engine of each rank.
    linger_s : int
        How long the group waits, idle, for a notebook to take it back, in seconds.
    controller, owner : Process
        The controller, and who uses the group.
    """

    cluster_id: str
    app: str
    gpus: list[int] | None
    engine_ids: list[int]
    linger_s: int
    controller: Process
    owner: Process

    @classmethod
    def read(cls, path: Path) -> Note:
        """Read a note.

        Raises
        ------
        ValueError
            When the file holds something else.
        """
        try:
            fields = json.loads(path.read_text())
            processes = {name: Process(**fields[name]) for name in ("controller", "owner")}
            return cls(**{**fields, **processes})
        except (TypeError, KeyError) as error:
            raise ValueError(str(error)) from None

    def __str__(self) -> str:
        where = "CPU" if self.gpus is None else f"GPU {', '.join(map(str, self.gpus))}"
        count = len(self.engine_ids)
        return f"{count} {'rank' if count == 1 else 'ranks'} on {where}, app {self.app}"


def _folder() -> Path:
    import ipyparallel

    return Path(ipyparallel.Cluster(shutdown_atexit=False).profile_dir) / "security"


def notes() -> list[Note]:
    """Return the groups of the profile that run; what is left of others is removed."""
    found = []
    for path in sorted(_folder().glob("ddipp-*.json")):
        try:
            note = Note.read(path)
        except (ValueError, OSError):
            continue
        if note.controller.runs():
            found.append(note)
            continue
        for stale in (path, path.with_name(f"cluster-{note.cluster_id}.json")):
            stale.unlink(missing_ok=True)
    return found


def left_behind() -> list[Note]:
    """Return the groups whose notebook is gone."""
    return [note for note in notes() if not note.owner.runs()]


def _choose(cluster_id: str | None) -> Note:
    known = [note for note in notes() if note.owner.pid != os.getpid()]
    if cluster_id is not None:
        for note in known:
            if note.cluster_id == cluster_id:
                return note
        raise DdippError(f"there is no group {cluster_id!r}{_list(known, '; there are ')}")
    free = [note for note in known if not note.owner.runs()]
    if not free:
        raise DdippError(
            "no group is without its notebook"
            + _list(known, "; one in use is taken by its name, %makedip --attach name: ")
        )
    if len(free) > 1:
        raise DdippError(_list(free, "which group? %makedip --attach name: "))
    return free[0]


def _list(some: Sequence[Note], before: str) -> str:
    return before + ", ".join(f"{note.cluster_id} ({note})" for note in some) if some else ""


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signals.signal(signals.SIGINT, signals.SIG_IGN)
    try:
        yield
    finally:
        signals.signal(signals.SIGINT, before)


class LocalCluster:
    """A controller and engines on this machine, with a client.

    Parameters
    ----------
    cluster : ipyparallel.Cluster
        Started, or found again.
    client : ipyparallel.Client
        Connected to it.
    linger_s : int
        How long it outlives its last client.
    """

    def __init__(self, cluster: Any, client: Any, linger_s: int) -> None:
        self._cluster = cluster
        self.client = client
        self.linger_s = linger_s
        self._note = Path(cluster.profile_dir) / "security" / f"ddipp-{cluster.cluster_id}.json"

    @classmethod
    def start(
        cls,
        ranks: int,
        gpus: list[int] | None,
        *,
        linger_s: int,
        timeout_s: float,
        verbose: bool,
        preload: Sequence[str] | None = None,
    ) -> LocalCluster:
        """Start a controller and one engine a rank.

        Parameters
        ----------
        preload : sequence of str, optional
            Modules that a warm process imports, from which the ranks are forked; each rank is a
            Python of its own if not given.

        Raises
        ------
        DdippError
            With one line that names cause and remedy. Nothing is left running then.
        """
        import ipyparallel

        environment = engine_environment(gpus)
        warm = [] if preload is None else nursery_arguments(environment, preload)
        cluster = ipyparallel.Cluster(
            controller="ddipp",
            engines="ddipp",
            n=ranks,
            log_level=20 if verbose else 40,
            controller_args=[f"--linger={linger_s}"],
        )
        try:
            cluster.start_controller_sync()
            cluster.start_engines_sync(
                n=ranks,
                environment=environment,
                engine_args=["--restart=on-failure", *warm],
            )
            client = cluster.connect_client_sync()
            wait_for_engines(cluster, client, ranks, timeout_s)
        except BaseException:
            cluster.stop_cluster_sync()
            raise
        return cls(cluster, client, linger_s)

    @classmethod
    def find(cls, cluster_id: str | None, timeout_s: float) -> tuple[LocalCluster, Note]:
        """Find a group again that another process has started.

        Parameters
        ----------
        cluster_id : str, optional
            Its name; not needed for the only one that has no owner.
        timeout_s : float
            How long to wait for engines that are just starting, in seconds.
        """
        import ipyparallel

        note = _choose(cluster_id)
        path = _folder() / f"cluster-{note.cluster_id}.json"
        cluster = ipyparallel.Cluster.from_file(str(path), log_level=40)
        client = cluster.connect_client_sync()
        deadline = time.monotonic() + timeout_s
        while not set(note.engine_ids) <= set(client.ids):
            if time.monotonic() > deadline:
                missing = sorted(set(note.engine_ids) - set(client.ids))
                client.close()
                raise DdippError(
                    f"engines {', '.join(map(str, missing))} of the group {note.cluster_id} are "
                    f"gone; end the others with: ipcluster stop --cluster-id {note.cluster_id}"
                )
            time.sleep(0.02)
        cluster.shutdown_atexit = True
        return cls(cluster, client, note.linger_s), note

    def own(self, app: str, gpus: list[int] | None, engine_ids: Sequence[int]) -> None:
        """Write down that this process uses the group."""
        note = Note(
            cluster_id=self._cluster.cluster_id,
            app=app,
            gpus=gpus,
            engine_ids=list(engine_ids),
            linger_s=self.linger_s,
            controller=Process.of(self._cluster.controller.process.pid),
            owner=Process.of(os.getpid()),
        )
        new = self._note.with_suffix(".new")
        new.write_text(json.dumps(asdict(note)))
        new.replace(self._note)

    def may_restart(self, engine_id: int) -> bool:
        """Tell whether the supervisor of an engine runs."""
        launchers = next(iter(self._cluster.engines.values())).launchers
        return runs(launchers.get(str(engine_id)))

    def leave(self) -> None:
        """Let it run for another process to find."""
        self._cluster.shutdown_atexit = False
        self.client.close()

    def stop(self) -> None:
        """End all processes; Ctrl-C does not stop it half-way."""
        with _uninterrupted():
            self._stop()

    def _stop(self) -> None:
        self.client.close()
        for engine_set in self._cluster.engines.values():
            # All at once: the cluster stops one after the other.
            for one in filter(runs, list(engine_set.launchers.values())):
                one.signal(signals.SIGTERM)
        self._cluster.stop_cluster_sync()
        with contextlib.suppress(OSError):
            self._note.unlink()
