"""What people count on who come from ipcontroller and ipengine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import ipyparallel
import pytest
from conftest import Cluster, wait_for
from ipyparallel import error

# Functions of __main__ travel to the engines by value.
__name__ = "__main__"


def spin() -> None:
    while True:
        pass


def refuse_to_end() -> None:
    import contextlib
    import time

    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(0.01)
    raise KeyboardInterrupt


def end_by_shutdown(client: ipyparallel.Client, engine: int, pid: int) -> None:
    client.shutdown(targets=[engine], block=False)


def end_by_restart(client: ipyparallel.Client, engine: int, pid: int) -> None:
    client.session.send(
        client._control_socket,
        "shutdown_request",
        content={"restart": True},
        ident=client._engines[engine].encode(),
    )


def end_by_signal_request(client: ipyparallel.Client, engine: int, pid: int) -> None:
    client.send_signal(signal.SIGTERM, targets=[engine], block=False)


def end_by_sigterm(client: ipyparallel.Client, engine: int, pid: int) -> None:
    os.kill(pid, signal.SIGTERM)


def end_by_sigkill(client: ipyparallel.Client, engine: int, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


ENDS = [end_by_shutdown, end_by_restart, end_by_signal_request, end_by_sigterm, end_by_sigkill]


@pytest.fixture
def patient(cluster: Cluster) -> Cluster:
    cluster.start_controller()
    return cluster


def hub_error(client: ipyparallel.Client, msg_id: str) -> str:
    """Return the type of the error that the hub keeps for a request."""
    (record,) = client.db_query({"msg_id": msg_id}, keys=["result_content"])
    return str(record["result_content"]["ename"])


def requests(client: ipyparallel.Client, engine: int) -> list[Any]:
    """Send one of each kind, of which the first runs."""
    return [
        client[engine].apply_async(spin),
        client[engine].execute("while True: pass", block=False),
        client.load_balanced_view(targets=[engine]).apply_async(spin),
        client.broadcast_view(targets=[engine]).apply_async(spin),
        client.broadcast_view(targets=[engine], is_coalescing=True).apply_async(spin),
    ]


def test_a_request_is_answered_once_however_its_engine_ends(patient: Cluster, capfd):
    for _ in ENDS:
        patient.start_engine()
    client = patient.client(len(ENDS))
    pids = client[:].apply_async(os.getpid).get_dict(20)
    running = {end: requests(client, engine) for end, engine in zip(ENDS, pids, strict=True)}
    time.sleep(0.5)
    for end, engine in zip(ENDS, list(pids), strict=True):
        end(client, engine, pids[engine])
    for end, results in running.items():
        for result in results:
            with pytest.raises(error.RemoteError) as caught:
                result.get(15)
            assert "EngineError" in str(caught.value), (end, caught.value)
    wait_for(lambda: len(client.ids) <= 1, 15)  # of the restart
    time.sleep(0.5)  # what is late would be here
    client.spin()
    for results in running.values():
        for result in results[:3]:
            assert hub_error(client, result.msg_ids[0]) == "EngineError"
    assert "stale" not in capfd.readouterr().out


def test_an_engine_that_takes_its_time_to_end_gets_no_task(patient: Cluster, capfd):
    for _ in range(2):
        patient.start_engine()
    client = patient.client(2)
    stubborn = client[0].apply_async(refuse_to_end)
    time.sleep(0.3)
    client.shutdown(targets=[0], block=True)
    view = client.load_balanced_view()
    assert set(view.map_sync(lambda _: __import__("os").getpid(), range(20))) == {
        client[1].apply_sync(os.getpid)
    }
    with pytest.raises(error.RemoteError, match="it was shut down"):
        stubborn.get(15)
    wait_for(lambda: client.ids == [1], 10)
    assert "stale" not in capfd.readouterr().out


def test_what_an_engine_says_after_it_was_lost_and_came_back_is_too_late(cluster: Cluster, capfd):
    cluster.spawn("dipcontroller", "--ping=50", "--HeartMonitor.max_heartmonitor_misses=3")
    wait_for(cluster.connection_file("client").exists)
    cluster.start_engine()
    client = cluster.client(1)
    pid = client[0].apply_sync(os.getpid)
    result = client[0].apply_async(time.sleep, 1)
    time.sleep(0.3)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(error.RemoteError, match="pings"):
        result.get(10)
    wait_for(lambda: client.ids == [], 10)
    os.kill(pid, signal.SIGCONT)
    wait_for(lambda: client.ids == [0], 10)
    assert client[0].apply_sync(lambda: 1) == 1  # after the late answer
    time.sleep(0.2)
    client.spin()
    assert hub_error(client, result.msg_ids[0]) == "EngineError"
    assert "stale" not in capfd.readouterr().out


def test_abort_and_interrupt_answer_once(patient: Cluster, capfd):
    patient.start_engine()
    client = patient.client(1)
    running = client[0].apply_async(spin)
    queued = [client[0].apply_async(spin) for _ in range(3)]
    time.sleep(0.3)
    client.abort(queued)
    client.abort(queued)
    client.send_signal(signal.SIGINT, targets=[0], block=True)
    client.send_signal(signal.SIGINT, targets=[0], block=True)
    with pytest.raises(error.RemoteError, match="KeyboardInterrupt"):
        running.get(10)
    for result in queued:
        with pytest.raises(error.TaskAborted):
            result.get(10)
    assert client[0].apply_sync(lambda: 1) == 1
    assert "stale" not in capfd.readouterr().out


def stop_by_sigterm(cluster: Cluster, controller: Any) -> None:
    controller.terminate()


def stop_by_sigint(cluster: Cluster, controller: Any) -> None:
    controller.send_signal(signal.SIGINT)


@pytest.mark.parametrize("stop", [stop_by_sigterm, stop_by_sigint])
def test_a_client_stays_quiet_and_open_when_its_cluster_is_stopped(
    cluster: Cluster, stop: Callable[[Cluster, Any], None], capfd
):
    controller = cluster.start_controller()
    cluster.start_engine()
    client = cluster.client(1)
    running = client[0].apply_async(time.sleep, 60)
    time.sleep(0.3)
    stop(cluster, controller)
    with pytest.raises(error.RemoteError, match="the controller was stopped"):
        running.get(5)
    assert controller.wait(5) == 0
    time.sleep(0.5)
    assert not client._closed
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err + captured.out
