"""Engines that are forked from a warm process."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Cluster, wait_for
from ddipp import CellFailed, Group
from ipyparallel import error


def nursery_of(socket: Path) -> psutil.Process:
    """Return the youngest process that has that socket, which forks the workers."""
    found = [
        process
        for process in psutil.process_iter(["name"])
        if process.info["name"] == "ddipp-nursery"
        and str(socket) in [one.laddr for one in process.net_connections("unix")]
    ]
    assert found, f"nobody listens at {socket}"
    return max(found, key=lambda one: one.create_time())


def parents(client: Any) -> list[int]:
    return list(client[:].apply_sync(os.getppid))


def kill_worker(client: Any, engine: int) -> None:
    """Kill a worker and wait until the next one is registered under its id."""
    uuid = client._engines[engine]
    with pytest.raises(error.RemoteError, match="killed by signal 9"):
        client[engine].execute("import os; os.kill(os.getpid(), 9)").get(20)
    wait_for(lambda: client._engines.get(engine) not in (None, uuid), what="the next worker")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return the folder of a package that can be imported by engines of the test."""
    folder = tmp_path / "site" / "preloaded"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("import os\nloaded_by = os.getpid()\n")
    return folder


def start(cluster: Cluster, engines: int, *args: str, **variables: str) -> Any:
    cluster.start_controller()
    for _ in range(engines):
        cluster.start_engine(
            "--restart=on-failure",
            f"--nursery={cluster.folder / 'n'}",
            *args,
            env={**os.environ, **variables},
        )
    return cluster.client(engines)


def loaded_by(client: Any, engine: int) -> int:
    """Return the process that has imported the package which an engine uses."""
    client[engine].execute("import preloaded\nby = preloaded.loaded_by").get(20)
    return int(client[engine]["by"])


def test_engines_share_what_one_process_has_imported(cluster, package):
    client = start(cluster, 2, "--preload=preloaded", PYTHONPATH=str(package.parent))
    nursery = nursery_of(cluster.folder / "n")
    assert parents(client) == [nursery.pid] * 2
    assert [loaded_by(client, engine) for engine in client.ids] == [nursery.pid] * 2
    kill_worker(client, 1)
    assert parents(client) == [nursery.pid] * 2


FACTS = """
import os, random, socket, sys, numpy
mask = os.umask(0)
os.umask(mask)
def listens(fd):
    try:
        with socket.socket(fileno=os.dup(int(fd))) as one:
            return bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False
facts = {
    "folder": os.getcwd(),
    "variable": os.environ.get("OF_THE_SECOND"),
    "others": os.environ.get("OF_THE_FIRST"),
    "mask": mask,
    "processors": len(os.sched_getaffinity(0)),
    "arguments": sys.argv[1:],
    "draws": (random.random(), float(numpy.random.rand())),
    "leads": os.getpgid(0) == os.getpid(),
    "nursery": [fd for fd in os.listdir("/proc/self/fd") if listens(fd)],
}
"""


def test_a_fork_is_like_a_new_process(cluster, tmp_path):
    client = start(cluster, 1, "--preload=numpy", OF_THE_FIRST="yes")
    (tmp_path / "elsewhere").mkdir()
    one_processor = {min(os.sched_getaffinity(0))}

    def limit() -> None:
        os.umask(0o027)
        os.sched_setaffinity(0, one_processor)

    cluster.start_engine(
        f"--nursery={cluster.folder / 'n'}",
        env={**os.environ, "OF_THE_SECOND": "é"},
        cwd=tmp_path / "elsewhere",
        preexec_fn=limit,
    )
    client.wait_for_engines(2, timeout=60, interactive=False)
    client[:].execute(FACTS).get(20)
    assert len(set(parents(client))) == 1
    first, second = (client[engine]["facts"] for engine in sorted(client.ids))
    assert (first["others"], second["others"]) == ("yes", None)
    assert (first["variable"], second["variable"]) == (None, "é")
    assert second["folder"] == str(tmp_path / "elsewhere")
    assert second["mask"] == 0o027 != first["mask"]
    assert second["processors"] == 1
    assert first["arguments"] == second["arguments"] == []
    assert not set(first["draws"]) & set(second["draws"])
    assert first["leads"] and second["leads"]
    assert not second["nursery"], "a worker holds the nursery's socket"


def test_a_nursery_that_is_killed_costs_nothing(cluster):
    client = start(cluster, 2)
    first = nursery_of(cluster.folder / "n")
    client[:].execute("a = 5").get(10)
    first.kill()
    first.wait(10)
    assert client[:]["a"] == [5, 5]
    uuid = client._engines[0]
    client[0].execute("import os; os.kill(os.getpid(), 9)")
    wait_for(lambda: client._engines.get(0) not in (None, uuid), what="the next worker")
    assert client[1]["a"] == 5
    second = nursery_of(cluster.folder / "n")
    assert client[0].apply_sync(os.getppid) == second.pid != first.pid


def test_a_package_that_changes_is_imported_anew(cluster, package):
    client = start(cluster, 2, "--preload=preloaded", PYTHONPATH=str(package.parent))
    first = nursery_of(cluster.folder / "n")
    (package / "new.py").write_text("")
    kill_worker(client, 0)
    second = nursery_of(cluster.folder / "n")
    assert loaded_by(client, 0) == second.pid != first.pid
    assert loaded_by(client, 1) == first.pid
    assert f"{package} has changed" in "".join(one.log.read_text() for one in cluster.processes)


def test_a_package_that_starts_threads_is_not_forked(cluster, package):
    (package / "__init__.py").write_text(
        "import os, threading\nloaded_by = os.getpid()\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    client = start(cluster, 1, "--preload=preloaded", PYTHONPATH=str(package.parent))
    assert loaded_by(client, 0) == client[0].apply_sync(os.getpid)
    assert "preloaded has started threads" in cluster.processes[-1].log.read_text()


def test_whoever_is_killed_nothing_stays(cluster):
    client = start(cluster, 2)
    nursery = nursery_of(cluster.folder / "n")
    workers = [psutil.Process(pid) for pid in client[:].apply_sync(os.getpid)]
    supervisors = [psutil.Process(one.pid) for one in cluster.processes[-2:]]
    wardens = [
        child for one in supervisors for child in one.children() if child.name() == "ddipp-warden"
    ]
    assert len(wardens) == 2
    for one in wardens:
        one.send_signal(signal.SIGSTOP)  # nobody guards the guard
    supervisors[0].kill()
    wait_for(lambda: sum(one.is_running() for one in workers) == 1, what="the end of its worker")
    for one in wardens:
        one.send_signal(signal.SIGCONT)
    supervisors[1].terminate()
    assert not psutil.wait_procs([*workers, nursery], 20)[1]
    assert not (cluster.folder / "n").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_user_gets_nothing(cluster):
    start(cluster, 1)
    socket = cluster.folder / "n"
    assert socket.stat().st_mode & 0o077 == 0
    os.chmod(socket, 0o666)  # as if the file did not protect it
    cluster.folder.chmod(0o711)
    folder = os.open(cluster.folder, os.O_PATH)
    child = os.fork()
    if child == 0:
        os._exit(ask_as_nobody(folder))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def ask_as_nobody(folder: int) -> int:
    """Connect to the nursery as another user; 0 when it closes the connection."""
    import socket

    os.fchdir(folder)
    os.setuid(65534)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
        try:
            one.connect("n")
            one.settimeout(10)
            return 0 if one.recv(10) == b"" else 1
        except ConnectionResetError:
            return 0
        except OSError:
            return 2


def test_ranks_of_a_group_are_forked_with_torch_and_come_back_so(ipython_dir):
    with Group.start(ranks=2) as group:
        group.run("import os, sys\nborn = 'torch._dynamo' in sys.modules, os.getppid()")
        had_torch, parent = group.pull(["born"], rank=1)["born"]
        assert had_torch
        with pytest.raises(CellFailed, match="killed by signal 9"):
            group.run("import os\nif rank == 1: os.kill(os.getpid(), 9)\ndist.barrier()")
        group.run(
            f"import os\nassert os.getppid() == {parent}\n"
            "assert torch.get_num_threads() == int(os.environ['OMP_NUM_THREADS'])\ndist.barrier()"
        )


def test_ranks_can_be_processes_of_their_own(ipython_dir):
    with Group.start(ranks=1, fresh=True) as group:
        group.run("import os\nname = open(f'/proc/{os.getppid()}/comm').read().strip()")
        assert group.pull(["name"])["name"] == "dipengine"
