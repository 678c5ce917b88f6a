"""What peers without the key can't do, and what odd ones with it can't break, on TCP without CURVE.

SECURITY.md says who can do what.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import signal
import stat
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipyparallel
import msgpack
import pytest
import zmq
from conftest import BIN, Cluster, wait_for
from ipyparallel.serialize import pack_apply_message

__name__ = "__main__"  # see test_client.py

DELIMITER = b"<IDS|MSG>"
LEVELS = 1_000_000


class Peer:
    """Raw sockets to a controller. `key` is for those that have it."""

    def __init__(self, cluster: Cluster) -> None:
        self.client = json.loads(cluster.connection_file("client").read_text())
        self.engine = json.loads(cluster.connection_file("engine").read_text())
        self.packs = msgpack.packb if self.client["pack"] == "msgpack" else self._json
        self.context = zmq.Context()
        self.count = 0
        self.sockets: list[zmq.Socket] = []

    @staticmethod
    def _json(value: Any) -> bytes:
        return json.dumps(value).encode()

    def socket(self, kind: int, port: int, identity: bytes = b"", **options: Any) -> zmq.Socket:
        socket = self.context.socket(kind)
        socket.linger = 0
        if identity:
            socket.routing_id = identity
        if kind == zmq.SUB:
            socket.subscribe(b"")
        for name, value in options.items():
            setattr(socket, name, value)
        socket.connect(f"tcp://127.0.0.1:{port}")
        self.sockets.append(socket)  # or it would close at once
        return socket

    def signed(
        self, msg_type: str, content: bytes, metadata: bytes | None = None, header: bytes = b""
    ) -> list[bytes]:
        """Return a message of the packed content, signed with the key."""
        self.count += 1
        header = header or self.packs(
            {
                "msg_id": f"peer{id(self)}_{self.count}",
                "msg_type": msg_type,
                "session": "peer",
                "username": "peer",
                "date": "2026-01-01T00:00:00+00:00",
                "version": "5.3",
            }
        )
        empty = self.packs({})
        parts = [header, empty, empty if metadata is None else metadata, content]
        code = hmac.new(self.client["key"].encode(), digestmod=hashlib.sha256)
        for part in parts:
            code.update(part)
        return [DELIMITER, code.hexdigest().encode(), *parts]

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    made: list[Peer] = []
    yield made
    for peer in made:
        peer.close()


def peer(cluster: Cluster, peers: list[Peer]) -> Peer:
    peers.append(Peer(cluster))
    return peers[-1]


def resident_mib(process: subprocess.Popen) -> float:
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)


def received(socket: zmq.Socket, timeout_ms: int = 1000) -> list[bytes] | None:
    return socket.recv_multipart() if socket.poll(timeout_ms) else None


def evil(path: Path) -> list[bytes]:
    """Return buffers of an apply_request that makes a file."""
    return [bytes(part) for part in pack_apply_message(Path.touch, (path,), {})]


def register_stock_engine(one: Peer) -> tuple[str, zmq.Socket]:
    """Register an engine of another make, and return its uuid and its broadcast and mux socket."""
    name = str(uuid.uuid4())
    hub = one.socket(zmq.DEALER, one.engine["registration"], name.encode())
    hub.send_multipart(one.signed("registration_request", one.packs({"uuid": name})))
    assert received(hub, 5000)
    work = one.socket(zmq.DEALER, one.engine["mux"], name.encode())
    for port in one.engine["broadcast"]:
        work.connect(f"tcp://127.0.0.1:{port}")
    pong = one.socket(zmq.DEALER, one.engine["hb_pong"], name.encode())
    ping = one.socket(zmq.SUB, one.engine["hb_ping"])
    pong.send_multipart(received(ping, 5000) or [])
    return name, work


# --- places and requests --------------------------------------------------------------------------


def test_a_stranger_takes_no_engines_place(cluster: Cluster, peers: list[Peer]):
    cluster.start_controller()
    cluster.start_engine()
    client = cluster.client(1)
    stranger = peer(cluster, peers)
    output = stranger.socket(zmq.SUB, stranger.client["iopub"])
    wait_for(lambda: client[0].execute("print(1)").get() and output.poll(100), what="output")
    frames = received(output) or []
    header = json.loads(frames[frames.index(DELIMITER) + 2])
    name = header["session"].encode()
    assert name.decode() == client._engines[0]  # it is no secret
    ports = [stranger.engine[channel] for channel in ("mux", "task", "control", "hb_pong")]
    thieves = [
        stranger.socket(zmq.DEALER, port, name) for port in [*ports, *stranger.engine["broadcast"]]
    ]
    time.sleep(0.5)  # they are connected
    for _ in range(3):
        assert client[0].apply_async(os.getpid).get(10)
        assert client.load_balanced_view().apply_async(os.getpid).get(10)
        assert client.broadcast_view().apply_async(os.getpid).get(10)
    client.abort()
    assert [received(thief, 100) for thief in thieves] == [None] * len(thieves)
    for thief in thieves:
        thief.close()
    assert client[0].apply_async(os.getpid).get(10)
    assert client.ids == [0]


def test_what_was_read_can_not_be_sent_again(cluster: Cluster, peers: list[Peer], tmp_path: Path):
    """Whoever reads the network has requests, but their buffers are not theirs to choose."""
    cluster.start_controller("--reuse")
    cluster.start_engine()
    client = cluster.client(1)
    victim = client._engines[0].encode()
    reader = peer(cluster, peers)
    _, work = register_stock_engine(reader)  # stands for what is read of others' requests
    wait_for(lambda: len(client.ids) == 2, what="the second engine")
    client.broadcast_view().apply_async(os.getpid)
    client[client.ids[1]].apply_async(os.getpid)
    stolen = [received(work, 5000) for _ in range(2)]
    assert all(stolen)

    made = tmp_path / "made"

    def send_again() -> None:
        thief = reader.socket(zmq.DEALER, reader.client["mux"], b"thief")
        for frames in stolen:
            parts = frames[frames.index(DELIMITER) : frames.index(DELIMITER) + 6]
            thief.send_multipart([victim, *parts, *evil(made)])
        with contextlib.suppress(ipyparallel.EngineError, ipyparallel.TimeoutError):
            client[client.ids[0]].apply_async(os.getpid).get(10)
        time.sleep(0.5)
        thief.close()

    send_again()
    assert not made.exists()

    # Nor when nobody who has seen them is there any more: another controller with the same key.
    controller = cluster.processes[0]
    client.close()
    controller.send_signal(signal.SIGKILL)
    controller.wait()
    again = cluster.start_controller("--restore")
    client = cluster.client(1)
    wait_for(lambda: victim.decode() in client._engines.values(), what="the engine")
    send_again()
    assert not made.exists()
    assert "seen before" in again.log.read_text()


def test_buffers_are_bound_to_their_request_up_to_the_engine(
    cluster: Cluster, peers: list[Peer], tmp_path: Path
):
    """The engine itself refuses what the controller did not send, also at its kernel's ports."""
    cluster.start_controller()
    engine = cluster.start_engine()
    client = cluster.client(1)
    reader = peer(cluster, peers)
    _, work = register_stock_engine(reader)
    wait_for(lambda: len(client.ids) == 2, what="the second engine")
    info = json.loads(Path(client[0].apply_sync(bind)).read_text())
    client[client.ids[1]].apply_async(os.getpid)
    frames = received(work, 5000) or []
    parts = frames[frames.index(DELIMITER) : frames.index(DELIMITER) + 6]
    made = tmp_path / "made"
    thief = reader.socket(zmq.DEALER, info["shell_port"], b"thief")
    thief.send_multipart([*parts, *evil(made)])
    assert received(thief, 1500) is None
    assert not made.exists()
    assert "it did not come by the controller" in engine.log.read_text()
    # A console, which has the key and sends no buffers, is served.
    thief.send_multipart(reader.signed("kernel_info_request", b"{}"))
    assert received(thief, 5000)


def bind() -> str:
    import ipyparallel as on_engine

    path: str = on_engine.bind_kernel()
    return path


def test_stock_engines_are_served_as_before(cluster: Cluster, peers: list[Peer]):
    """Their identity is their uuid: the older connection wins; one that is gone may come back."""
    cluster.start_controller()
    one = peer(cluster, peers)
    name, work = register_stock_engine(one)
    client = cluster.client(1)
    thief = peer(cluster, peers).socket(zmq.DEALER, one.engine["mux"], name.encode())
    time.sleep(0.3)
    client[0].apply_async(os.getpid)
    assert received(work, 5000)
    assert received(thief, 100) is None
    thief.close()
    work.close()
    time.sleep(0.3)
    work = one.socket(zmq.DEALER, one.engine["mux"], name.encode())
    client[0].apply_async(os.getpid)
    frames = received(work, 5000)
    assert frames is not None
    assert frames[1] == DELIMITER  # no frame of ours before it


# --- nesting and odd contents ---------------------------------------------------------------------


def nested(packer: str) -> bytes:
    return b"[" * LEVELS + b"]" * LEVELS if packer == "json" else b"\x91" * LEVELS + b"\xc0"


def map_with(packer: str, key: str, value: bytes) -> bytes:
    if packer == "json":
        return b'{"%s":%s}' % (key.encode(), value)
    return b"\x81" + msgpack.packb(key) + value


@pytest.mark.parametrize("packer", ["json", "msgpack"])
def test_nesting_ends_neither_controller_nor_engine(
    cluster: Cluster, peers: list[Peer], packer: str
):
    controller = cluster.start_controller(f"--packer={packer}")
    engine = cluster.start_engine()
    client = cluster.client(1)
    client[0].push({"kept": 1}, block=True)
    one = peer(cluster, peers)
    bomb = nested(packer)
    name = client._engines[0].encode()

    # Without the key, where output comes in.
    output = one.socket(zmq.PUB, one.engine["iopub"])
    time.sleep(0.3)
    for part in (bomb, map_with(packer, "a", bomb)):
        output.send_multipart([b"x", DELIMITER, b"0" * 64, part, b"{}", b"{}", b"{}"])

    hub = one.socket(zmq.DEALER, one.client["registration"])
    entries = [
        ("db_request", "query"),
        ("db_request", "keys"),
        ("load_request", "targets"),
        ("queue_request", "targets"),
        ("purge_request", "msg_ids"),
        ("purge_request", "engine_ids"),
        ("resubmit_request", "msg_ids"),
        ("result_request", "msg_ids"),
        ("connection_request", "a"),
        ("registration_request", "uuid"),
        ("unregistration_request", "id"),
        ("become_dask_request", "scheduler_args"),
    ]
    for msg_type, key in entries:
        hub.send_multipart(one.signed(msg_type, map_with(packer, key, bomb)))
        hub.send_multipart(one.signed(msg_type, bomb))
    task = one.socket(zmq.DEALER, one.client["task"])
    broadcast = one.socket(zmq.DEALER, one.client["broadcast"])
    for key in ("targets", "after", "follow", "timeout", "retries"):
        metadata = map_with(packer, key, bomb)
        task.send_multipart(one.signed("apply_request", one.packs({}), metadata))
        broadcast.send_multipart(one.signed("apply_request", one.packs({}), metadata))
    control = one.socket(zmq.DEALER, one.client["control"])
    mux = one.socket(zmq.DEALER, one.client["mux"])
    for msg_type in (
        "abort_request",
        "signal_request",
        "ddipp_replay_request",
        "clear_request",
        "ddipp_cut_request",
        "ddipp_report_request",
        "is_complete_request",
    ):
        for content in (bomb, map_with(packer, "msg_id", bomb)):
            control.send_multipart([name, *one.signed(msg_type, content)])
    for msg_type in ("execute_request", "apply_request"):
        mux.send_multipart([name, *one.signed(msg_type, map_with(packer, "code", bomb))])
        mux.send_multipart(
            [name, *one.signed(msg_type, one.packs({}), map_with(packer, "a", bomb))]
        )
        mux.send_multipart([name, *one.signed(msg_type, one.packs({}), bomb)])
    assert client[0].pull("kept").get(60) == 1
    assert controller.poll() is None
    assert engine.poll() is None
    assert client.ids == [0]


def test_an_engine_takes_no_nested_connection_file(tmp_path: Path):
    file = tmp_path / "deep.json"
    file.write_bytes(b'{"a":' + nested("json") + b"}")
    done = subprocess.run(
        [BIN / "dipengine", f"--file={file}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "is not valid JSON" in done.stderr


def test_odd_requests_get_errors_and_end_no_engine(cluster: Cluster, peers: list[Peer]):
    cluster.start_controller()
    engine = cluster.start_engine()
    client = cluster.client(1)
    client[0].push({"kept": 1}, block=True)
    one = peer(cluster, peers)
    name = client._engines[0].encode()
    odd = [b"5", b"null", b"[]", b'"x"', b"{}", b"1e999", b"[[]]", b"{"]
    control = one.socket(zmq.DEALER, one.client["control"])
    mux = one.socket(zmq.DEALER, one.client["mux"])
    keys = ("msg_id", "generation", "sig", "msg_ids", "gpu", "stack", "restart")
    count = 0
    for msg_type in (
        "ddipp_replay_request",
        "ddipp_cut_request",
        "ddipp_report_request",
        "abort_request",
        "signal_request",
        "interrupt_request",
    ):
        for value in odd:
            contents = [value, *(b'{"%s": %s}' % (key.encode(), value) for key in keys)]
            for content in contents:
                if msg_type == "signal_request" and b'"sig": 5' in content:
                    continue  # that one is a signal
                control.send_multipart([name, *one.signed(msg_type, content)])
                count += 1
    for _ in range(count):
        assert received(control, 10_000), "every request is answered"
    for value in odd:
        mux.send_multipart([name, *one.signed("apply_request", b"{}", value)])
        mux.send_multipart([name, *one.signed("execute_request", value, b"{}")])
        mux.send_multipart([name, *one.signed("execute_request", b'{"code": 1}', value)])
    for _ in range(3 * len(odd)):
        assert received(mux, 20_000), "every request is answered"
    assert client[0].pull("kept").get(20) == 1
    assert engine.poll() is None


def test_texts_that_are_no_utf8_end_no_controller(cluster: Cluster, peers: list[Peer]):
    """Only msgpack has them; the database, and answers that quote them, are JSON."""
    controller = cluster.start_controller("--packer=msgpack", "--sqlitedb")
    client = cluster.client()
    one = peer(cluster, peers)

    def odd(**entries: Any) -> bytes:
        packed: bytes = msgpack.packb(entries, use_bin_type=False)
        return packed

    header = odd(msg_id=b"\xff1", msg_type=b"apply_request\xff", session=b"\xff", date=b"\xff")
    task = one.socket(zmq.DEALER, one.client["task"])
    task.send_multipart(one.signed("", odd(a=b"\xff"), odd(label=b"\xff"), header))
    hub = one.socket(zmq.DEALER, one.client["registration"])
    for msg_type in ("db_request", "queue_request", "resubmit_request", "purge_request"):
        content = odd(targets=[b"\xff"], keys=[b"\xff"], msg_ids=[b"\xff"], query={b"\xff": 1})
        hub.send_multipart(one.signed(msg_type, content))
        assert received(hub, 5000)
    time.sleep(0.5)  # the store writes
    assert client.queue_status()["unassigned"] == 1
    assert controller.poll() is None


# --- output, subscriptions, memory ----------------------------------------------------------------


def test_output_that_nobody_signed_reaches_no_client(cluster: Cluster, peers: list[Peer]):
    controller = cluster.start_controller()
    cluster.start_engine()
    client = cluster.client(1)
    stranger = peer(cluster, peers)
    reader = stranger.socket(zmq.SUB, stranger.client["iopub"])
    writer = stranger.socket(zmq.PUB, stranger.engine["iopub"])
    time.sleep(0.5)
    client[0].execute("print('genuine')", block=True)
    genuine = []
    while (frames := received(reader, 1000)) is not None:
        genuine.append(frames)
    assert any(b"genuine" in part for frames in genuine for part in frames)
    forged = [b"forged", DELIMITER, b"0" * 64, b'{"msg_id":"1","msg_type":"display_data"}']
    for _ in range(100):
        writer.send_multipart([*forged, b"{}", b"{}", b'{"data":{"text/plain":"x"}}'])
    for frames in genuine:
        writer.send_multipart([*frames, b"another buffer"])
    assert received(reader, 1000) is None
    log = controller.log.read_text()
    assert log.count("ignored a message on iopub") == 2  # one line for each kind


def test_a_strangers_subscription_keeps_no_controller_alive(cluster: Cluster, peers: list[Peer]):
    controller = cluster.start_controller("--linger=1")
    client = cluster.client()
    stranger = peer(cluster, peers)
    stranger.socket(zmq.SUB, stranger.client["notification"])
    query = stranger.socket(zmq.DEALER, stranger.client["registration"])
    query.send_multipart([DELIMITER, b"0" * 64, b"{}", b"{}", b"{}", b"{}"])
    time.sleep(3)
    assert controller.poll() is None  # the client is there
    client.close()
    cluster.clients.clear()
    wait_for(lambda: controller.poll() is not None, 30, "the end")


def test_a_flood_of_wrongly_signed_requests_leaves_no_memory(cluster: Cluster, peers: list[Peer]):
    controller = cluster.start_controller()
    client = cluster.client()
    stranger = peer(cluster, peers)
    # It reads no answers.
    socket = stranger.socket(zmq.DEALER, stranger.client["registration"], rcvhwm=1, sndhwm=0)
    before = resident_mib(controller)
    header = b'{"msg_id":"1","msg_type":"connection_request"}'
    for _ in range(150_000):
        socket.send_multipart([DELIMITER, b"0" * 64, header, b"{}", b"{}", b"{}"])
    wait_for(lambda: socket.get(zmq.EVENTS) & zmq.POLLOUT, what="room")
    assert client.queue_status() == {"unassigned": 0}  # it comes after them
    wait_for(lambda: resident_mib(controller) < before + 40, 30, "memory to be given back")


def test_who_does_not_read_output_loses_it_alone(cluster: Cluster, peers: list[Peer]):
    controller = cluster.start_controller("--output-queue=20")
    cluster.start_engine()
    client = cluster.client(1)
    stranger = peer(cluster, peers)
    sleeper = stranger.socket(zmq.SUB, stranger.client["iopub"], rcvhwm=1)
    sleeper.rcvbuf = 1 << 16
    time.sleep(0.5)
    before = resident_mib(controller)
    code = "from IPython.display import display\ndisplay({'text/plain': 'x' * 10**6}, raw=True)"
    for _ in range(150):
        result = client[0].execute(code)
        result.get(20)
        result.wait_for_output(10)
        assert len(result.outputs) == 1, "who reads gets all"
    assert resident_mib(controller) < before + 100


def test_requests_beyond_the_budget_are_refused_with_a_reason(cluster: Cluster):
    cluster.start_controller("--queue-limit=1M")
    cluster.start_engine()
    client = cluster.client(1)
    for view in (client[0], client.load_balanced_view()):
        with pytest.raises(ipyparallel.RemoteError, match=r"--queue-limit allows 1\.0 MiB"):
            view.apply_async(len, b"x" * 2_000_000).get(20)
        assert view.apply_async(len, b"x" * 1000).get(20) == 1000


# --- files ----------------------------------------------------------------------------------------


def test_connection_files_without_a_key_are_not_used_silently(cluster: Cluster):
    first = cluster.start_controller("--reuse")
    first.terminate()
    first.wait(10)
    for kind in ("client", "engine"):
        file = cluster.connection_file(kind)
        file.write_text(json.dumps(json.loads(file.read_text()) | {"key": ""}))
    second = cluster.spawn("dipcontroller", "--reuse")
    wait_for(lambda: "listening on" in second.log.read_text(), what="the controller")
    assert "the connection files have no key" in second.log.read_text()
    assert json.loads(cluster.connection_file("client").read_text())["key"]
    second.terminate()
    second.wait(10)
    third = cluster.spawn("dipcontroller", "--no-secure")
    wait_for(lambda: "listening on" in third.log.read_text(), what="the controller")
    assert "messages are not signed" in third.log.read_text()


def test_files_are_the_owners_whatever_the_umask(cluster: Cluster):
    old = os.umask(0)
    try:
        cluster.start_controller("--sqlitedb", "--log-to-file", "--reuse")
        cluster.start_engine("--log-to-file")
    finally:
        os.umask(old)
    client = cluster.client(1)
    client[0].apply_sync(os.getpid)
    time.sleep(0.3)
    ours = list(cluster.folder.glob("tasks.db*"))
    for folder in ("security", "log", "pid"):
        ours += (cluster.folder / folder).glob("*")
    names = {path.name for path in ours}
    assert {"tasks.db", "tasks.db-wal", "ddipp-guard.bin"} <= names
    assert any(name.startswith("ipcontroller--") and name.endswith(".log") for name in names)
    wrong = {path.name: oct(path.stat().st_mode) for path in ours if path.stat().st_mode & 0o077}
    assert not wrong
    folders = [cluster.folder / "security", cluster.folder / "log"]
    assert [stat.S_IMODE(folder.stat().st_mode) & 0o077 for folder in folders] == [0, 0]


# --- dipcluster -----------------------------------------------------------------------------------


def dipcluster(*args: str | bytes | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "dipcluster", *args], capture_output=True, text=True, errors="replace", timeout=60
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "5",
        '{"launcher": "x", "command_line": 5}',
        '{"launcher": 1e99, "started": [], "cluster_id": {}}',
    ],
)
def test_a_corrupt_note_stops_nothing(tmp_path: Path, text: str):
    (tmp_path / "pid").mkdir()
    (tmp_path / "pid" / "dipcluster-.json").write_text(text)
    done = dipcluster("stop", "--profile-dir", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no such cluster runs" in done.stderr


def test_a_huge_signal_is_none(tmp_path: Path):
    done = dipcluster("signal", "99999999999999999999", "--profile-dir", tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "dipcluster: there is no signal '99999999999999999999'\n",
    )


@pytest.mark.parametrize("program", ["dipcluster", "dipcontroller", "dipengine"])
def test_a_clusters_name_leads_out_of_no_folder(tmp_path: Path, program: str):
    command = [BIN / program, *(["start", "-n1"] if program == "dipcluster" else [])]
    done = subprocess.run(
        [*command, "--profile-dir", tmp_path / "a" / "b", "--cluster-id", "../../../x"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert "a cluster's name can't hold '/'" in done.stderr + done.stdout
    assert not list(tmp_path.rglob("*x*"))


def test_a_folder_that_is_not_utf8_is_said(tmp_path: Path):
    done = dipcluster("start", "-n1", "--profile-dir", os.fsencode(tmp_path) + b"/\xff")
    assert done.returncode == 1
    assert "not UTF-8" in done.stderr
