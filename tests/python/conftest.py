"""Clusters of our controller and engines for the tests, each in a profile folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ipyparallel
import pytest
from environments import fastai_v1, pythons
from servers import slurm, ssh_server  # noqa: F401  fixtures

BIN = Path(sys.executable).parent


def wait_for(condition: Callable[[], Any], timeout_s: float = 20, what: str = "") -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what or condition}"
        time.sleep(0.02)


class Cluster:
    """A controller and engines that the test starts and ends as it likes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.clients: list[ipyparallel.Client] = []

    def connection_file(self, kind: str) -> Path:
        return self.folder / "security" / f"ipcontroller-{kind}.json"

    def spawn(self, program: str, *args: str, log: str = "", **kwargs: Any) -> subprocess.Popen:
        path = self.folder / (log or f"{program}-{len(self.processes)}.log")
        command = [str(BIN / program), "--profile-dir", str(self.folder), *args]
        with path.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, **kwargs)
        process.log = path  # type: ignore[attr-defined]
        self.processes.append(process)
        return process

    def start_controller(self, *args: str) -> subprocess.Popen:
        process = self.spawn("dipcontroller", "--ping=500", *args)
        wait_for(self.connection_file("client").exists, what="the connection file")
        return process

    def start_engine(self, *args: str, **kwargs: Any) -> subprocess.Popen:
        return self.spawn("dipengine", *args, **kwargs)

    def client(self, engines: int = 0, **kwargs: Any) -> ipyparallel.Client:
        client = ipyparallel.Client(str(self.connection_file("client")), timeout=10, **kwargs)
        self.clients.append(client)
        if engines:
            client.wait_for_engines(engines, timeout=60, interactive=False)
        return client

    def stop(self) -> None:
        for client in self.clients:
            client.close()
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    running = Cluster(tmp_path)
    yield running
    running.stop()


@pytest.fixture(scope="module", params=[1, 4], ids=["1 engine", "4 engines"])
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ipyparallel.Client]:
    running = Cluster(tmp_path_factory.mktemp("profile"))
    running.start_controller()
    for _ in range(request.param):
        running.start_engine()
    yield running.client(request.param)
    running.stop()


class Notebook:
    """An IPython shell with ddipp loaded, driven cell by cell."""

    def __init__(self) -> None:
        from IPython.core.interactiveshell import InteractiveShell

        InteractiveShell.clear_instance()
        self.shell = InteractiveShell.instance(colors="NoColor")
        self.run("%load_ext ddipp")

    def run(self, cell: str) -> Any:
        """Run a cell that has to succeed."""
        result = self.shell.run_cell(cell)
        result.raise_error()
        return result.result

    def fail(self, cell: str) -> Exception:
        """Run a cell that has to fail and return its exception."""
        result = self.shell.run_cell(cell)
        assert not result.success, f"this cell should have failed: {cell}"
        return result.error_in_exec or result.error_before_exec

    def __getitem__(self, name: str) -> Any:
        return self.shell.user_ns[name]

    def close(self) -> None:
        from IPython.core.interactiveshell import InteractiveShell

        self.shell.run_cell("%unload_ext ddipp")
        # ipyparallel's client takes any shell of its process for one with a kernel.
        InteractiveShell.clear_instance()


@pytest.fixture(scope="session")
def ipython_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the tests out of the user's own profile."""
    folder = tmp_path_factory.mktemp("ipython")
    os.environ["IPYTHONDIR"] = str(folder)
    yield folder
    del os.environ["IPYTHONDIR"]


@pytest.fixture(scope="module")
def notebook(ipython_dir: Path) -> Iterator[Notebook]:
    running = Notebook()
    yield running
    running.close()


@pytest.fixture(scope="session")
def ddipp_for_fastai_v1() -> Path:
    """Return the interpreter of an environment with fastai 1, in which ddipp is installed."""
    python = fastai_v1(make=False)
    if python is None:
        pytest.skip("needs CPython 3.9 or 3.10, and the environment of fastai 1: make peers")
    wheels = Path(__file__).resolve().parents[2] / "build" / "dist"
    (wheel,) = wheels.glob("ddipp-*.whl")
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--force-reinstall", wheel], check=True)
    return python


def pytest_report_header() -> str:
    """Say which interpreters the engine is tried with, and which are not on this machine."""
    found = pythons()
    known = [(3, minor) for minor in range(9, 15)]
    missing = [f"{major}.{minor}" for major, minor in known if (major, minor) not in found]
    hosted = ", ".join(f"{major}.{minor}" for major, minor in sorted(found))
    return f"engine hosts CPython {hosted}; not found: {', '.join(missing)}"
