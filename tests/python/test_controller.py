"""What dipcontroller does beyond relaying: options, operation, restarts, encryption, metrics."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import pytest
from conftest import BIN, Cluster, wait_for
from ipyparallel import error

# Functions of __main__ travel to the engines by value.
__name__ = "__main__"


def dipcontroller(*args: str, **kwargs) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "dipcontroller"), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, **kwargs)


def test_an_unknown_option_names_the_nearest_one(tmp_path):
    result = dipcontroller("--profile-dir", str(tmp_path), "--pingg=5")
    assert result.returncode != 0
    assert "there is no option --pingg; did you mean --ping?" in result.stderr


def test_the_configuration_file_counts_and_the_command_line_wins(cluster: Cluster):
    config = {
        "HeartMonitor": {"period": 4321},
        "IPController": {"location": "from-the-file", "client_ip": "127.0.0.1"},
        "InteractiveShell": {"colors": "NoColor"},
    }
    (cluster.folder / "ipcontroller_config.json").write_text(json.dumps(config))
    cluster.start_controller("--ping=1234")
    connection = json.loads(cluster.connection_file("client").read_text())
    assert connection["location"] == "from-the-file"


def test_a_wrong_entry_in_the_configuration_file_is_named(tmp_path):
    config = tmp_path / "ipcontroller_config.json"
    config.write_text('{"IPController": {"locatoin": "x"}}')
    result = dipcontroller("--profile-dir", str(tmp_path))
    assert result.returncode != 0
    assert "--IPController.locatoin" in result.stderr
    assert "did you mean --IPController.location?" in result.stderr
    config.write_text("{")
    result = dipcontroller("--profile-dir", str(tmp_path))
    assert result.returncode != 0
    assert "ipcontroller_config.json is not valid JSON" in result.stderr


def test_the_log_goes_to_a_file_when_asked(cluster: Cluster):
    cluster.start_controller("--log-to-file")
    logs = list((cluster.folder / "log").glob("ipcontroller-*.log"))
    assert len(logs) == 1
    wait_for(lambda: "listening on" in logs[0].read_text())


def test_sigterm_answers_every_outstanding_request(cluster: Cluster):
    controller = cluster.start_controller()
    cluster.start_engine()
    cluster.start_engine()
    client = cluster.client(2)
    running = [
        client[0].apply_async(time.sleep, 60),
        client.load_balanced_view().apply_async(time.sleep, 60),
        client.broadcast_view().apply_async(time.sleep, 60),
        client.broadcast_view(is_coalescing=True).apply_async(time.sleep, 60),
    ]
    time.sleep(0.3)
    controller.terminate()
    for result in running:
        with pytest.raises(error.IPythonError, match="the controller was stopped") as caught:
            result.get(5)
        assert "EngineError" in str(caught.value)
    assert controller.wait(5) == 0


def test_a_request_learns_why_its_engine_is_gone(cluster: Cluster):
    cluster.start_controller()
    engine = cluster.start_engine()
    cluster.start_engine()
    client = cluster.client(2)
    supervisors = client[:].apply_async(os.getppid).get_dict(10)
    target = next(number for number, pid in supervisors.items() if pid == engine.pid)
    running = client[target].apply_async(time.sleep, 60)
    time.sleep(0.2)
    engine.kill()
    with pytest.raises(error.RemoteError, match="died while running task"):
        running.get(5)


def test_a_coalescing_broadcast_loses_nothing_with_one_of_its_engines(cluster: Cluster):
    cluster.start_controller()
    engine = cluster.start_engine()
    cluster.start_engine()
    client = cluster.client(2)
    running = client.broadcast_view(is_coalescing=True).apply_async(time.sleep, 2)
    time.sleep(0.3)
    engine.kill()
    with pytest.raises(error.RemoteError):
        running.get(5)
    wait_for(lambda: len(client.ids) == 1)
    wait_for(lambda: client.queue_status()[client.ids[0]]["queue"] == 0)
    assert client.queue_status(verbose=True)["unassigned"] == []
    assert client.broadcast_view(is_coalescing=True).apply_sync(lambda: 5) == [5]


def test_an_engine_that_was_silent_comes_back_under_its_id_with_its_variables(cluster: Cluster):
    cluster.spawn("dipcontroller", "--ping=50", "--HeartMonitor.max_heartmonitor_misses=3")
    wait_for(cluster.connection_file("client").exists)
    cluster.start_engine()
    cluster.start_engine()
    client = cluster.client(2)
    pid_of = client[:].apply_async(os.getpid).get_dict(10)
    number, pid = max(pid_of.items())
    client[number].push({"kept": 42}, block=True)
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: number not in client.ids)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: number in client.ids)
    assert client[number].pull("kept", block=True) == 42
    assert client.load_balanced_view(targets=number).apply_sync(lambda: kept) == 42  # noqa: F821


def test_a_controller_that_is_started_again_finds_its_engines(cluster: Cluster):
    controller = cluster.start_controller("--reuse")
    cluster.start_engine()
    cluster.start_engine()
    client = cluster.client(2)
    client[:].push({"kept": 42}, block=True)
    ids = client.ids
    time.sleep(0.2)  # for the list of engines to be written
    controller.kill()
    controller.wait()
    before = cluster.connection_file("client").read_text()
    cluster.spawn("dipcontroller", "--ping=500", "--restore")
    wait_for(lambda: len(cluster.client().ids) == 2)
    assert cluster.connection_file("client").read_text() == before
    again = cluster.client(2)
    assert again.ids == ids
    assert again[:].pull("kept", block=True) == [42, 42]
    assert again.load_balanced_view().map_sync(lambda x: x + kept, [1, 2]) == [43, 44]  # noqa: F821
    assert client[:].pull("kept", block=True) == [42, 42]  # the old client goes on, too
    third = cluster.start_engine()
    wait_for(lambda: len(again.ids) == 3)
    assert again.ids == [0, 1, 2]
    third.terminate()
    wait_for(lambda: len(again.ids) == 2)


def test_files_that_can_not_be_reused_are_replaced_with_a_word(cluster: Cluster):
    path = cluster.connection_file("client")
    path.parent.mkdir()
    path.write_text("{}")
    controller = cluster.spawn("dipcontroller", "--reuse")
    wait_for(lambda: "listening on" in controller.log.read_text())
    assert "new connection files:" in controller.log.read_text()
    assert json.loads(path.read_text())["mux"] > 0


@pytest.mark.parametrize("how", ["option", "environment"])
def test_curve_encrypts_and_turns_strangers_away(cluster: Cluster, monkeypatch, how):
    if how == "environment":
        monkeypatch.setenv("IPP_ENABLE_CURVE", "1")
        cluster.start_controller()
    else:
        cluster.start_controller("--IPController.enable_curve=True")
    monkeypatch.delenv("IPP_ENABLE_CURVE", raising=False)
    connection = json.loads(cluster.connection_file("client").read_text())
    assert len(connection["curve_serverkey"]) == 40
    assert connection["key"] == ""
    cluster.start_engine()
    client = cluster.client(1)
    assert client[:].apply_sync(lambda: 5) == [5]
    assert client.load_balanced_view().apply_sync(lambda: 6) == 6

    import zmq

    context = zmq.Context.instance()
    stranger = context.socket(zmq.DEALER)
    stranger.linger = 0
    stranger.connect(f"tcp://127.0.0.1:{connection['registration']}")
    parts = [b"{}", b"{}", b"{}", b"{}"]
    header = b'{"msg_id": "1", "msg_type": "connection_request"}'
    stranger.send_multipart([b"<IDS|MSG>", b"", header, *parts[1:]])
    assert stranger.poll(500) == 0
    stranger.close()
    assert client[:].apply_sync(lambda: 7) == [7]


def test_metrics_tell_engines_traffic_and_latency(cluster: Cluster):
    controller = cluster.start_controller("--metrics-port=0")
    cluster.start_engine()
    client = cluster.client(1)
    for _ in range(5):
        client[:].apply_sync(lambda: 1)
    port = re.search(r"metrics on port (\d+)", controller.log.read_text()).group(1)

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            return page.read().decode()

    wait_for(lambda: "ddipp_engines 1" in metrics())
    text = metrics()
    assert 'ddipp_request_seconds_count{queue="mux"} 5' in text
    requests = re.search(r'ddipp_messages_total{channel="mux",from="clients"} (\d+)', text)
    assert requests and int(requests.group(1)) == 5


def test_a_metrics_port_in_use_is_said_in_one_line(cluster: Cluster, tmp_path_factory):
    controller = cluster.start_controller("--metrics-port=0")
    port = re.search(r"metrics on port (\d+)", controller.log.read_text()).group(1)
    other = tmp_path_factory.mktemp("other")
    result = dipcontroller("--profile-dir", str(other), f"--metrics-port={port}")
    assert result.returncode == 1
    assert f"can't serve metrics on 127.0.0.1:{port}" in result.stderr


def test_pure_scheme_gives_each_engine_its_turn(cluster: Cluster):
    cluster.start_controller("--scheme=pure")
    cluster.start_engine()
    cluster.start_engine()
    client = cluster.client(2)
    get_pid = client.load_balanced_view().map_async(
        lambda _: __import__("os").getpid(), range(10), chunksize=1
    )
    pids = get_pid.get(20)
    assert sorted(pids.count(pid) for pid in set(pids)) == [5, 5]


def test_it_becomes_a_dask_scheduler_and_stops_it(cluster: Cluster):
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    controller = cluster.start_controller()
    cluster.start_engine()
    client = cluster.client(1)
    executor = client.become_dask()
    assert executor.submit(sum, executor.map(lambda x: x * x, range(10))).result(20) == 285
    executor.close()
    children = subprocess.run(
        ["pgrep", "-P", str(controller.pid)], capture_output=True, text=True
    ).stdout.split()
    assert len(children) == 1
    client.stop_dask()
    wait_for(lambda: not os.path.exists(f"/proc/{children[0]}"))
    assert client[:].apply_sync(lambda: 3) == [3]


def test_a_dask_scheduler_that_can_not_start_is_an_error(cluster: Cluster):
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    cluster.start_controller()
    cluster.start_engine()
    client = cluster.client(1)
    with pytest.raises(error.RemoteError, match="dask scheduler ended"):
        client.become_dask(scheduler_args={"no_such_argument": 1})


def test_everything_goes_over_ipc_sockets(cluster: Cluster):
    cluster.start_controller("--transport=ipc", f"--ip={cluster.folder}/socket")
    cluster.start_engine()
    client = cluster.client(1)
    assert client[:].apply_sync(lambda: 5) == [5]
    assert client.load_balanced_view().apply_sync(lambda: 6) == 6
    assert client.broadcast_view().apply_sync(lambda: 7) == [7]
    assert client.queue_status()[0]["completed"] == 3


def forward_late(port: int, delay_s: float) -> int:
    """Return a port that leads to another one; the first bytes take their time."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        target.close()

    def serve() -> None:
        near, _ = listener.accept()
        time.sleep(delay_s)
        far = socket.create_connection(("127.0.0.1", port))
        for pair in ((near, far), (far, near)):
            threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


def test_a_client_whose_connection_for_output_comes_late_misses_nothing(cluster: Cluster):
    cluster.start_controller()
    cluster.start_engine()
    cluster.client(1)
    file = cluster.connection_file("client")
    info = json.loads(file.read_text())
    info["iopub"] = forward_late(info["iopub"], 0.1)
    file.write_text(json.dumps(info))
    result = cluster.client()[:].execute("print('heard')", silent=False, block=False)
    result.get(20)
    assert result.wait_for_output(5)
    assert result.stdout == ["heard\n"]
