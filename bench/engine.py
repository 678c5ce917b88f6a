"""Rows of the engine: one or more real engines of ours and of ipyparallel.

Throughput comes from the raw load of ``ddipp_load``, since the Python client is slower than the
engine; the rest goes through the client.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ipyparallel.serialize import pack_apply_message, serialize_object, unpack_apply_message
from programs import Row, pss_mib, running

from controller import LOAD

GIGABYTE = 10**9


def load(folder: Path, requests: int, *options: str) -> float:
    """Return the requests of one type that are answered in a second, 100 on their way."""
    command = [LOAD, "run", folder / "security", f"--requests={requests}", "--window=100"]
    done = subprocess.run(
        [*command, "--answered-only", *options], capture_output=True, text=True, check=True
    )
    return requests / json.loads(done.stdout)["answered_s"]


def nothing() -> None:
    pass


nothing.__module__ = "__main__"  # travels by value


def apply_throughput(side: str) -> float:
    with running(side, 1) as cluster:
        options = []
        for i, buffer in enumerate(pack_apply_message(nothing, (), {})):
            path = cluster.folder / f"buffer-{i}"
            path.write_bytes(bytes(buffer))
            options.append(f"--buffer-file={path}")
        load(cluster.folder, 200, *options)
        return load(cluster.folder, 20_000 if side == "ours" else 2_000, *options)


def plain_apply_us() -> float:
    """Microseconds of the same work in plain Python."""
    buffers = [bytes(buffer) for buffer in pack_apply_message(nothing, (), {})]
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(2000):
            function, args, kwargs = unpack_apply_message(list(buffers), {})
            serialize_object(function(*args, **kwargs))
        times.append((time.perf_counter() - begin) / 2000)
    return 1e6 * min(times)


def apply_overhead(side: str) -> float:
    """Of one apply in a row of many, beyond the same work in plain Python."""
    return 1e6 / apply_throughput(side) - plain_apply_us()


def execute_throughput(side: str) -> float:
    content = {"code": "pass", "silent": False, "store_history": False, "user_expressions": {},
               "allow_stdin": False}  # fmt: skip
    options = ("--type=execute_request", f"--content={json.dumps(content)}")
    with running(side, 1) as cluster:
        load(cluster.folder, 100, *options)
        return load(cluster.folder, 5_000 if side == "ours" else 1_000, *options)


def loopback_gigabyte() -> float:
    """MB/s of the same bytes between two threads over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def receive() -> None:
            connection, _ = server.accept()
            target = memoryview(bytearray(GIGABYTE))
            got = 0
            while got < GIGABYTE:
                got += connection.recv_into(target[got:])
            connection.sendall(b"!")
            connection.close()

        thread = threading.Thread(target=receive)
        thread.start()
        data = bytes(GIGABYTE)
        with socket.create_connection(server.getsockname()) as sender:
            begin = time.perf_counter()
            sender.sendall(data)
            sender.recv(1)
            seconds = time.perf_counter() - begin
        thread.join()
    return 1000 / seconds


def push_gigabyte(side: str) -> float:
    if side == "relay":
        return loopback_gigabyte()
    import numpy

    with running(side, 1) as cluster:
        view = cluster.client[0]
        view.push({"small": 1}, block=True)
        data = numpy.ones(GIGABYTE, dtype=numpy.uint8)
        begin = time.perf_counter()
        view.push({"data": data}, block=True)
        return 1000 / (time.perf_counter() - begin)


def pull_gigabyte(side: str) -> float:
    if side == "relay":
        return loopback_gigabyte()
    with running(side, 1) as cluster:
        view = cluster.client[0]
        view.execute(f"import numpy; data = numpy.ones({GIGABYTE}, dtype=numpy.uint8)", block=True)
        begin = time.perf_counter()
        data = view.pull("data", block=True)
        seconds = time.perf_counter() - begin
        assert len(data) == GIGABYTE
        return 1000 / seconds


def start(engines: int, *options: str) -> Callable[[str], float]:
    def measure(side: str) -> float:
        with running(side, engines, *options) as cluster:
            return cluster.engines_start_s

    return measure


def memory(side: str) -> float:
    """Of an idle engine and its supervisor or nanny, beyond an interpreter with the same imports.

    The first apply adds numpy where it is installed: ipyparallel's canning imports it, on both
    sides.
    """
    code = "import IPython, ipykernel, ipyparallel, sys; print(); sys.stdin.read()"
    bare = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert bare.stdout is not None
    bare.stdout.readline()
    try:
        with running(side, 1) as cluster:
            time.sleep(0.5)
            return pss_mib(cluster.engines[0].pid) - pss_mib(bare.pid)
    finally:
        bare.kill()
        bare.wait()


def death(balanced: bool) -> Callable[[str], float]:
    """From kill -9 of the process that runs Python to the client's error."""

    def measure(side: str) -> float:
        with running(side, 1) as cluster:
            pid = cluster.client[0].apply_sync(os.getpid)
            view = cluster.client.load_balanced_view() if balanced else cluster.client[0]
            result = view.apply_async(time.sleep, 600)
            time.sleep(0.5)
            begin = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            result.wait(90)
            return 1000 * (time.perf_counter() - begin)

    return measure


def print_latency(flush: bool) -> Callable[[str], float]:
    code = f"import time\nprint(time.time(), flush={flush})\ntime.sleep(0.5)"

    def measure(side: str) -> float:
        with running(side, 1) as cluster:
            times = []
            for _ in range(9):
                result = cluster.client[0].execute(code, silent=False)
                while not result.stdout:
                    time.sleep(0.0002)
                times.append(time.time() - float(result.stdout))
                result.get(10)
            return 1000 * statistics.median(times)

    return measure


CEILING = ("ours", "stock", "relay")
ROWS = [
    Row("engine.apply.throughput", "1/s", "higher", apply_throughput, ratio=15),
    Row("engine.apply.overhead_us", "us", "lower", apply_overhead, limit=30),
    Row("engine.execute.throughput", "1/s", "higher", execute_throughput, ratio=4),
    Row("engine.push_1gb", "MB/s", "higher", push_gigabyte, CEILING, ratio=2, ceiling=0.6),
    Row("engine.pull_1gb", "MB/s", "higher", pull_gigabyte, CEILING, ratio=2, ceiling=0.6),
    Row("engine.start.1", "s", "lower", start(1), ratio=5),
    Row("engine.start.4", "s", "lower", start(4), ratio=5),
    Row("engine.start.16", "s", "lower", start(16), ratio=5, repeats=1),
    Row("engine.start.4.ping250", "s", "lower", start(4, "--ping=250"), ratio=2),
    Row("engine.memory", "MiB", "lower", memory, limit=8),
    Row("engine.death.direct", "ms", "lower", death(False), limit=10),
    Row("engine.death.lbview", "ms", "lower", death(True), limit=10),
    Row("engine.print", "ms", "lower", print_latency(False), limit=20),
    Row("engine.flush", "ms", "lower", print_latency(True), limit=2),
]
