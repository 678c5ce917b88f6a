"""Rows of the controller: raw load from C++ against our controller, the stock one and a bare relay.

The load generator (``ddipp_load``) writes pre-built frames to raw sockets and simulates engines
that answer at once, so that neither the Python client nor Python engines are what is measured. The
clock of a throughput stops when the hub has every result.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from programs import PROGRAMS, QUIET, Row, wait_for_file

ROOT = Path(__file__).resolve().parent.parent
LOAD = Path(os.environ.get("DDIPP_LOAD", ROOT / "build" / "release" / "bin" / "ddipp_load"))


class Loaded:
    """A controller, or the bare relay, with simulated engines."""

    def __init__(self, side: str, folder: Path, engines: int, options: list[str]) -> None:
        self.security = folder / "security"
        self.folder = folder
        if side == "relay":
            self.security.mkdir()
            self.controller = subprocess.Popen([LOAD, "relay", self.security], **QUIET)
        else:
            command = [*PROGRAMS[side]["controller"], f"--profile-dir={folder}", "--log-level=50"]
            self.controller = subprocess.Popen([*command, *options], **QUIET)
        wait_for_file(self.security / "ipcontroller-client.json")
        self.engines = subprocess.Popen(
            [LOAD, "engines", self.security, f"--count={engines}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.engines.stdout is not None
        self.registered_s = float(self.engines.stdout.readline().split()[1])
        self.uuids = [self.engines.stdout.readline().strip() for _ in range(engines)]
        self.is_relay = side == "relay"

    def run(self, *options: str, timeout_s: float = 240) -> dict[str, float]:
        names = [f"--engine={uuid}" for uuid in self.uuids] if self.is_relay else []
        command = [LOAD, "run", self.security, *options, *names]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=True
        )
        return json.loads(done.stdout)

    def resident_mib(self) -> float:
        status = Path(f"/proc/{self.controller.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def stop(self) -> None:
        for process in (self.engines, self.controller):
            process.terminate()
        for process in (self.engines, self.controller):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def loaded(side: str, engines: int, *options: str) -> Iterator[Loaded]:
    with tempfile.TemporaryDirectory() as folder:
        running = Loaded(side, Path(folder), engines, list(options))
        try:
            yield running
        finally:
            running.stop()


#: Requests of one measurement: as many as take a second or so.
REQUESTS = {
    "mux": {"ours": 100_000, "stock": 6_000, "relay": 100_000},
    "task": {"ours": 60_000, "stock": 3_000},
    "broadcast": {"ours": 4_000, "stock": 200},
    "sqlite": {"ours": 30_000, "stock": 3_000},
}


def throughput(channel: str, engines: int, window: int) -> Any:
    def measure(side: str) -> float:
        requests = REQUESTS[channel][side]
        with loaded(side, engines) as running:
            result = running.run(
                f"--channel={channel}", f"--requests={requests}", f"--window={window}"
            )
        return requests / result["stored_s"]

    return measure


def broadcast_throughput(side: str) -> float:
    """Answers a second; the stock hub never counts broadcasts as completed, so it is not asked."""
    requests = REQUESTS["broadcast"][side]
    with loaded(side, 16) as running:
        result = running.run(
            "--channel=broadcast", f"--requests={requests}", "--window=20", "--answered-only"
        )
    return 16 * requests / result["answered_s"]


def latency(quantile: str) -> Any:
    def measure(side: str) -> float:
        with loaded(side, 1) as running:
            return running.run("--requests=4000", "--window=1")[quantile]

    return measure


def loaded_latency(side: str) -> float:
    """At 80 % of what the side itself can do over a while."""
    with loaded(side, 4) as running:
        requests = REQUESTS["mux"][side] // 4
        most = requests / running.run(f"--requests={requests}", "--window=200")["stored_s"]
        rate = f"--rate={0.8 * most:.0f}"
        return running.run(f"--requests={requests}", "--window=100000", rate)["p99_us"]


def sqlite_throughput(side: str) -> float:
    requests = REQUESTS["sqlite"][side]
    with loaded(side, 16, "--sqlitedb") as running:
        result = running.run(f"--requests={requests}", "--window=200")
        time.sleep(3)  # stock commits every 2 s
        with sqlite3.connect(running.folder / "tasks.db") as database:
            query = 'SELECT count(*) FROM "ipython-tasks" WHERE completed IS NOT NULL'
            stored = database.execute(query).fetchone()[0]
        assert stored == requests, f"{side} lost {requests - stored} results"
    return requests / result["stored_s"]


def memory_growth(side: str) -> float:
    """MiB held after a million direct requests, beyond what it held after the first thousand."""
    with loaded(side, 16) as running:
        running.run("--requests=2000", "--window=200")
        before = running.resident_mib()
        for _ in range(5):
            running.run("--requests=200000", "--window=200")
        return running.resident_mib() - before


def register_thousand(side: str) -> float:
    with loaded(side, 1000) as running:
        return running.registered_s


def broadcast_to_thousand(side: str) -> float:
    """Milliseconds until a thousand engines have answered."""
    with loaded(side, 1000) as running:
        running.run("--channel=broadcast", "--requests=2", "--window=1", "--answered-only")
        result = running.run(
            "--channel=broadcast", "--requests=10", "--window=1", "--answered-only"
        )
        return 1000 * result["answered_s"] / 10


ROWS = [
    Row("controller.mux.throughput", "1/s", "higher", throughput("mux", 16, 200),
        sides=("ours", "stock", "relay"), ratio=20, ceiling=0.5),
    Row("controller.task.throughput.16", "1/s", "higher", throughput("task", 16, 200), ratio=20),
    Row("controller.task.throughput.256", "1/s", "higher", throughput("task", 256, 600), ratio=20),
    Row("controller.broadcast.throughput", "1/s", "higher", broadcast_throughput, ratio=10),
    Row("controller.mux.latency_p50", "us", "lower", latency("p50_us"),
        sides=("ours", "stock", "relay"), ratio=6, ceiling=1.5),
    Row("controller.mux.latency_p99", "us", "lower", latency("p99_us"),
        sides=("ours", "stock", "relay")),
    Row("controller.mux.latency_p99.loaded", "us", "lower", loaded_latency,
        sides=("ours", "stock")),
    Row("controller.sqlite.throughput", "1/s", "higher", sqlite_throughput, ratio=10),
    Row("controller.memory.growth", "MiB", "lower", memory_growth, sides=("ours",), repeats=1),
    Row("controller.engines1000.register", "s", "lower", register_thousand, sides=("ours",),
        limit=5),
    Row("controller.engines1000.broadcast", "ms", "lower", broadcast_to_thousand, sides=("ours",),
        limit=250),
]  # fmt: skip
