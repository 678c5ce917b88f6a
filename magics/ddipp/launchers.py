"""Launchers for :class:`ipyparallel.Cluster`, by the names ``ddipp``.

``ipyparallel.Cluster(controller="ddipp", engines="ddipp", n=2)`` finds them by their entry points.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from ipyparallel.cluster import launcher
from traitlets import Float, default

from .errors import DdippError


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


class ControllerLauncher(launcher.LocalControllerLauncher):
    """Starts ``dipcontroller`` on this machine."""

    @default("controller_cmd")
    def _default_controller_cmd(self) -> list[str]:
        return [find_program("dipcontroller")]


class EngineLauncher(launcher.LocalEngineLauncher):
    """Starts one ``dipengine`` on this machine, hosting the interpreter that this runs in."""

    @default("engine_cmd")
    def _default_engine_cmd(self) -> list[str]:
        return [find_program("dipengine"), "--python", sys.executable]

    def find_args(self) -> list[str]:
        """Return the command line; engine i of a set asks for id i."""
        wish = ["--id", self.identifier] if self.identifier.isdigit() else []
        return [*super().find_args(), *wish]


class EngineSetLauncher(launcher.LocalEngineSetLauncher):
    """Starts several ``dipengine`` on this machine."""

    launcher_class = EngineLauncher
    delay = Float(0.0, config=True, help="Seconds between the starts of two engines.")

    @default("engine_cmd")
    def _default_engine_cmd(self) -> list[str]:
        return [find_program("dipengine"), "--python", sys.executable]
