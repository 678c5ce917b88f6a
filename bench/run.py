"""Measure ours and stock ipyparallel side by side, in one run.

    .venv/bin/python bench/run.py [--only NAME] [--repeats 3]

Writes build/bench.json, a list of rows with the medians of both and their ratio (above 1 is better
than stock), the physical ceiling of the same work where there is one, and the target. The unchanged
Python client is part of every row named ``client.*`` and limits both sides.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ipyparallel
import psutil
from programs import PROGRAMS, QUIET, Row, wait_for_file

import controller

ROOT = Path(__file__).resolve().parent.parent


class Running:
    """A controller and engines, with the client connected to them."""

    def __init__(self, side: str, folder: str, engines: int) -> None:
        programs = PROGRAMS[side]
        arguments = [f"--profile-dir={folder}", "--log-level=40"]
        begin = time.perf_counter()
        self.controller = subprocess.Popen([*programs["controller"], *arguments], **QUIET)
        path = Path(folder) / "security" / "ipcontroller-client.json"
        wait_for_file(path)
        self.controller_start_s = time.perf_counter() - begin
        self.engines = [
            subprocess.Popen([*programs["engine"], *arguments], **QUIET) for _ in range(engines)
        ]
        self.client = ipyparallel.Client(str(path), timeout=30)
        while len(self.client.ids) < engines:
            time.sleep(0.002)
        self.start_s = time.perf_counter() - begin

    def stop(self) -> None:
        self.client.close()
        processes = [*self.engines, self.controller]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def running(side: str, engines: int) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as folder:
        cluster = Running(side, folder, engines)
        try:
            yield cluster
        finally:
            cluster.stop()


def pss_mib(process: subprocess.Popen) -> float:
    root = psutil.Process(process.pid)
    family = [root, *root.children(recursive=True)]
    return sum(member.memory_full_info().pss for member in family) / 2**20


def controller_start(side: str) -> float:
    with running(side, 0) as cluster:
        return 1000 * cluster.controller_start_s


def controller_memory(side: str) -> float:
    with running(side, 0) as cluster:
        time.sleep(1)
        return pss_mib(cluster.controller)


def cluster_start(engines: int) -> Callable[[str], float]:
    def measure(side: str) -> float:
        with running(side, engines) as cluster:
            return cluster.start_s

    return measure


def apply_latency(side: str) -> float:
    with running(side, 1) as cluster:
        view = cluster.client[0]
        times = []
        for _ in range(500):
            begin = time.perf_counter()
            view.apply_sync(abs, -1)
            times.append(time.perf_counter() - begin)
        return 1000 * statistics.median(times)


def balanced_map(side: str) -> float:
    with running(side, 2) as cluster:
        view = cluster.client.load_balanced_view()
        view.map_sync(abs, range(50))
        begin = time.perf_counter()
        view.map_sync(abs, range(1000), chunksize=1)
        return 1000 / (time.perf_counter() - begin)


def broadcast_gigabyte(side: str) -> float:
    """MB/s that arrive at four engines together."""
    import numpy

    with running(side, 4) as cluster:
        view = cluster.client.broadcast_view()
        view.push({"small": 1}, block=True)
        data = numpy.ones(10**9, dtype=numpy.uint8)
        begin = time.perf_counter()
        view.push({"data": data}, block=True)
        seconds = time.perf_counter() - begin
        assert view.apply_sync(len_of, "data") == [10**9] * 4
        return 4 * 1000 / seconds


def len_of(name: str) -> int:
    return len(get_ipython().user_ns[name])  # type: ignore[name-defined]  # noqa: F821


# Functions of __main__ travel by value, those of a module by name.
len_of.__module__ = "__main__"


def death(side: str) -> float:
    with running(side, 1) as cluster:
        result = cluster.client[0].apply_async(time.sleep, 600)
        time.sleep(0.5)
        begin = time.perf_counter()
        cluster.engines[0].kill()
        result.wait(60)
        return time.perf_counter() - begin


ROWS = [
    Row("controller.start", "ms", "lower", controller_start, limit=50),
    Row("controller.memory.idle", "MiB", "lower", controller_memory, ratio=15),
    *controller.ROWS,
    Row("controller.broadcast_1gb.4", "MB/s", "higher", broadcast_gigabyte, ratio=2, repeats=1),
    Row("cluster.start.1", "s", "lower", cluster_start(1), ratio=2.5),
    Row("cluster.start.4", "s", "lower", cluster_start(4), ratio=2.5),
    Row("client.apply_sync.p50", "ms", "lower", apply_latency, ratio=2),
    Row("client.lbview.map1000", "1/s", "higher", balanced_map, ratio=2),
    Row("engine.death.direct", "s", "lower", death, limit=0.01),
]


def cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    rows = []
    head = ("row", "unit", "ours", "stock", "ratio", "ceiling")
    print("{:34}{:>6}{:>10}{:>10}{:>8}{:>10}  target".format(*head))
    for row in ROWS:
        if args.only not in row.name:
            continue
        result = row.run(args.repeats)
        rows.append(result)
        met = {True: "met: ", False: "MISSED: ", None: ""}[result["met"]]
        print(f"{row.name:34}{row.unit:>6}{cell(result['ours']):>10}{cell(result['stock']):>10}"
              f"{cell(result['ratio']):>8}{cell(result['ceiling']):>10}  {met}{result['target']}",
              flush=True)  # fmt: skip
    path = ROOT / "build" / "bench.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
