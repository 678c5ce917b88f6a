"""The end of an engine's process: what clients are told, what is started again, what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from conftest import Cluster, wait_for
from ipyparallel import error

ENDS = {
    "kill -9": ("import os; os.kill(os.getpid(), 9)", "killed by signal 9 (SIGKILL)"),
    "os._exit": ("import os; os._exit(3)", "exited with code 3"),
    "segfault": ("import ctypes; ctypes.string_at(0)", "SIGSEGV, segmentation fault"),
    "abort": ("import os; os.abort()", "SIGABRT, aborted"),
}


def group_of(pid: int) -> list[psutil.Process]:
    """Return the living processes of a process group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            pass
    return found


def wait_restarted(client, old_uuid: str) -> None:
    wait_for(lambda: client._engines.get(0) not in (None, old_uuid), what="the next process")


@pytest.fixture(scope="module", params=["a Python of its own", "a fork of the nursery"])
def restarting(request, tmp_path_factory):
    running = Cluster(tmp_path_factory.mktemp("profile"))
    running.start_controller()
    warm = [f"--nursery={running.folder / 'nursery'}"] if "fork" in request.param else []
    running.start_engine("--restart=always", *warm)
    yield running.client(1)
    running.stop()


@pytest.mark.parametrize("end", ENDS)
def test_the_error_says_how_the_process_ended_and_the_engine_is_back(restarting, end):
    client = restarting
    code, cause = ENDS[end]
    uuid = client._engines[0]
    with pytest.raises(error.RemoteError) as caught:
        client[0].execute(f"print('step 3')\n{code}").get(20)
    assert caught.value.ename == "EngineError"
    assert cause in caught.value.evalue
    assert "\n" not in caught.value.evalue
    assert "step 3" in caught.value.traceback
    wait_restarted(client, uuid)
    assert client[0].apply_sync(abs, -42) == 42


def test_a_crash_tells_where_python_was(restarting):
    client = restarting
    uuid = client._engines[0]
    code = (
        "import os, ctypes\n"
        "os.write(2, b'from C')\n"
        "def culprit():\n"
        "    ctypes.string_at(0)\n"
        "culprit()"
    )
    with pytest.raises(error.RemoteError) as caught:
        client[0].execute(code).get(20)
    text = caught.value.traceback
    assert "from C" in text
    assert "in culprit" in text
    wait_restarted(client, uuid)


def test_all_that_waits_is_told(restarting):
    client = restarting
    uuid = client._engines[0]
    balanced = client.load_balanced_view()
    waiting = [client[0].apply_async(time.sleep, 30) for _ in range(3)]
    waiting.append(balanced.apply_async(time.sleep, 30))
    waiting.append(client.broadcast_view().apply_async(time.sleep, 30))
    client.send_signal(signal.SIGKILL, targets=0)
    for result in waiting:
        with pytest.raises((error.RemoteError, error.CompositeError)) as caught:
            result.get(20)
        assert "SIGKILL" in str(caught.value)
    wait_restarted(client, uuid)


def test_a_client_asks_for_a_restart(cluster: Cluster):
    cluster.start_controller()
    engine = cluster.start_engine()  # whatever the policy is
    client = cluster.client(1)
    client[0].push({"x": 1}, block=True)
    uuid = client._engines[0]
    client.session.send(
        client._control_socket, "shutdown_request", content={"restart": True}, ident=uuid.encode()
    )
    wait_restarted(client, uuid)
    with pytest.raises(error.RemoteError, match="NameError"):
        client[0].pull("x", block=True)
    assert engine.poll() is None


def test_without_restart_the_engine_ends_with_its_process(cluster: Cluster):
    cluster.start_controller()
    engine = cluster.start_engine()
    client = cluster.client(1)
    client[0].execute("import os; os._exit(7)")
    wait_for(lambda: client.ids == [], what="the notice")
    assert engine.wait(5) == 7
    assert "engine 0 has ended: it exited with code 7" in engine.log.read_text()


def test_one_that_crashes_at_every_start_is_given_up(cluster: Cluster, tmp_path: Path):
    cluster.start_controller()
    engine = cluster.start_engine("--restart=on-failure", "-c", "import os; os._exit(9)")
    assert engine.wait(30) == 9


LEAVE_CHILDREN = """
import multiprocessing, subprocess, time
stubborn = subprocess.Popen(['sh', '-c', 'trap "" TERM; while :; do sleep 1; done'])
pool = multiprocessing.get_context('fork').Pool(2)
pool.map(abs, [1, 2])
"""


def leave(process: subprocess.Popen, client, how: str) -> None:
    if how == "terminate":
        process.terminate()
    elif how == "kill the supervisor":
        process.kill()
    elif how == "kill the worker":
        client.send_signal(signal.SIGKILL, targets=0)
    else:
        client.shutdown(block=True)


@pytest.mark.parametrize(
    "how", ["terminate", "kill the supervisor", "kill the worker", "client's shutdown"]
)
def test_nothing_is_left_of_an_engine(cluster: Cluster, how: str):
    cluster.start_controller()
    engine = cluster.start_engine()
    client = cluster.client(1)
    client[0].execute(LEAVE_CHILDREN, block=True)
    worker = client[0].apply_sync(os.getpid)
    family = psutil.Process(engine.pid).children(recursive=True)
    assert len(group_of(worker)) >= 4
    leave(engine, client, how)
    engine.wait(10)
    wait_for(lambda: not group_of(worker), 5, "the end of the children")
    psutil.wait_procs(family, timeout=5)
    assert [process for process in family if process.is_running()] == []


def test_a_killed_warden_is_replaced(cluster: Cluster):
    cluster.start_controller()
    engine = cluster.start_engine()
    client = cluster.client(1)
    worker = client[0].apply_sync(os.getpid)

    def warden():
        children = psutil.Process(engine.pid).children()
        return next((one for one in children if one.name() == "ddipp-warden"), None)

    first = warden()
    first.kill()
    wait_for(lambda: warden() not in (None, first), what="another warden")
    engine.kill()
    engine.wait()
    wait_for(lambda: not group_of(worker), 5, "the end of the worker")


def test_signals_to_the_supervisor_reach_python(cluster: Cluster):
    cluster.start_controller()
    engine = cluster.start_engine()
    client = cluster.client(1)
    sleeping = client[0].apply_async(time.sleep, 30)
    wait_for(lambda: client.queue_status()[0]["tasks"] == 0 and not sleeping.ready(), 5)
    time.sleep(0.2)
    engine.send_signal(signal.SIGINT)
    with pytest.raises(error.RemoteError, match="KeyboardInterrupt"):
        sleeping.get(10)


def test_a_stopped_worker_still_ends(cluster: Cluster):
    cluster.start_controller()
    engine = cluster.start_engine()
    client = cluster.client(1)
    os.kill(client[0].apply_sync(os.getpid), signal.SIGSTOP)
    engine.terminate()
    assert engine.wait(10) == 128 + signal.SIGTERM
