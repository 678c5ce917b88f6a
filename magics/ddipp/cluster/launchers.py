"""Launchers for :class:`ipyparallel.Cluster`, by the names ``ddipp`` and ``ddipp-mpi`` and others.

``ipyparallel.Cluster(controller="ddipp", engines="ddipp", n=2)`` finds them by their entry points.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ipyparallel.cluster import launcher
from traitlets import Float, default

from ..errors import DdippError
from ..shared.devices import gpu_uuids


def find_program(name: str) -> str:
    """Return the path of one of our programs: beside the interpreter first, then on ``PATH``."""
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return str(beside)
    on_path = shutil.which(name)
    if on_path is None:
        raise DdippError(
            f"the program {name} is not installed; install it with: "
            f"{sys.executable} -m pip install ddipp"
        )
    return on_path


class _OneRemoval:
    """Lets the log of a process be removed once, though two threads notice its end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._output_lock = threading.RLock()
        super().__init__(*args, **kwargs)

    def get_output(self, remove: bool = False) -> Any:
        """Return the log of the process."""
        with self._output_lock:
            return super().get_output(remove)  # type: ignore[misc]


class DdippControllerLauncher(_OneRemoval, launcher.LocalControllerLauncher):
    """Starts ``dipcontroller`` on this machine."""

    @default("controller_cmd")
    def _default_controller_cmd(self) -> list[str]:
        return [find_program("dipcontroller")]


class DdippEngineLauncher(_OneRemoval, launcher.LocalEngineLauncher):
    """Starts one ``dipengine`` on this machine, hosting the interpreter that this runs in."""

    @default("engine_cmd")
    def _default_engine_cmd(self) -> list[str]:
        return [find_program("dipengine"), "--python", sys.executable]

    def find_args(self) -> list[str]:
        """Return the command line; engine i of a set asks for id i."""
        wish = ["--id", self.identifier] if self.identifier.isdigit() else []
        return [*super().find_args(), *wish]


class DdippEngineSetLauncher(launcher.LocalEngineSetLauncher):
    """Starts several ``dipengine`` on this machine."""

    launcher_class = DdippEngineLauncher
    delay = Float(0.0, config=True, help="Seconds between the starts of two engines.")

    @default("engine_cmd")
    def _default_engine_cmd(self) -> list[str]:
        return [find_program("dipengine"), "--python", sys.executable]


class DdippMPIEngineSetLauncher(_OneRemoval, launcher.MPIEngineSetLauncher):
    """Starts several ``dipengine`` with ``mpiexec``; their ids are their ranks."""

    @default("engine_cmd")
    def _default_engine_cmd(self) -> list[str]:
        return [find_program("dipengine"), "--python", sys.executable]


class DdippSlurmEngineSetLauncher(launcher.SlurmEngineSetLauncher):
    """Starts several ``dipengine`` as a job of Slurm, with ``sbatch``."""

    @default("engine_cmd")
    def _default_engine_cmd(self) -> list[str]:
        return [find_program("dipengine"), "--python", sys.executable]


class DdippSSHEngineLauncher(launcher.SSHEngineLauncher):
    """Starts one ``dipengine`` on another host, the one beside its ``remote_python``."""

    def _engine_cmd_default(self) -> list[str]:
        return _remote_engine(self.remote_python)


class DdippSSHEngineSetLauncher(launcher.SSHEngineSetLauncher):
    """Starts ``dipengine`` on the hosts of its ``engines``."""

    launcher_class = DdippSSHEngineLauncher

    def _engine_cmd_default(self) -> list[str]:
        return _remote_engine(self.remote_python)


def _remote_engine(remote_python: str) -> list[str]:
    folder, separator, _ = remote_python.rpartition("/")
    return [f"{folder}{separator}dipengine"]


def runs(one: Any) -> bool:
    """Tell whether the process of a launcher, if there is one, runs."""
    import psutil

    try:
        return one is not None and bool(one.process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def engine_environment(gpus: list[int] | None) -> dict[str, str]:
    """Return what has to be set before torch loads.

    Every rank sees the GPUs of the group in rank order, so that ``LOCAL_RANK`` is the index of its
    device for every library. They are named by UUID: CUDA and the driver may count them
    differently.
    """
    if gpus is None:
        return {"CUDA_VISIBLE_DEVICES": ""}
    uuids = gpu_uuids()
    return {"CUDA_VISIBLE_DEVICES": ",".join(uuids[gpu] for gpu in gpus)}


def wait_for_engines(cluster: Any, client: Any, ranks: int, timeout_s: float) -> None:
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
