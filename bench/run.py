"""Measure ours and stock ipyparallel side by side, in one run.

    .venv/bin/python bench/run.py [--only NAME] [--repeats 3] [--resume] [--document]

Writes build/bench.json after each row, a list of rows with the medians of both and their ratio
(above 1 is better than stock), the physical ceiling of the same work where there is one, the
target, and how much of the machine others used; a row that others disturbed is measured again.
The unchanged Python client is part of every row named ``client.*`` and limits both sides.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ddp
import ipyparallel
import output
import results
from programs import BIN, QUIET, Row, pss_mib, running, wait_for_file

import controller
import engine

LAUNCHERS = {
    "ours": [str(BIN / "dipcluster")],
    "stock": [sys.executable, "-m", "ipyparallel.cluster"],
}


def controller_start(side: str) -> float:
    with running(side, 0) as cluster:
        return 1000 * cluster.controller_start_s


def controller_memory(side: str) -> float:
    with running(side, 0) as cluster:
        time.sleep(1)
        return pss_mib(cluster.controller.pid)


def cluster_start(engines: int) -> Callable[[str], float]:
    """From the start command, with its defaults, until a client has the engines."""

    def measure(side: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            command = [*LAUNCHERS[side], "start", "-n", str(engines), f"--profile-dir={folder}"]
            begin = time.perf_counter()
            process = subprocess.Popen(command, **QUIET)
            try:
                path = Path(folder) / "security" / "ipcontroller-client.json"
                wait_for_file(path)
                client = ipyparallel.Client(str(path), timeout=30)
                while len(client.ids) < engines:
                    time.sleep(0.002)
                seconds = time.perf_counter() - begin
                client.close()
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(60)
            return seconds

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
        view.map_sync(abs, range(5000), chunksize=1)
        return 5000 / (time.perf_counter() - begin)


def direct_async(side: str) -> float:
    with running(side, 2) as cluster:
        view = cluster.client[0]
        view.apply_sync(abs, -1)
        begin = time.perf_counter()
        results = [view.apply_async(abs, -1) for _ in range(5000)]
        cluster.client.wait(results)
        return 5000 / (time.perf_counter() - begin)


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


ROWS = [
    Row("controller.start", "ms", "lower", controller_start, limit=50),
    Row("controller.memory.idle", "MiB", "lower", controller_memory, ratio=15),
    *controller.ROWS,
    Row("controller.broadcast_1gb.4", "MB/s", "higher", broadcast_gigabyte, ratio=2, repeats=1),
    Row("cluster.start.1", "s", "lower", cluster_start(1), ratio=2.5),
    Row("cluster.start.4", "s", "lower", cluster_start(4), ratio=2.5),
    Row("cluster.start.16", "s", "lower", cluster_start(16), ratio=2.5),
    Row("client.apply_sync.p50", "ms", "lower", apply_latency, ratio=2),
    Row("client.lbview.map5000", "1/s", "higher", balanced_map, ratio=2),
    Row("client.direct.async5000", "1/s", "higher", direct_async, ratio=2),
    *engine.ROWS,
    *ddp.ROWS,
    *output.ROWS,
]


def cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def measure(row: Row, repeats: int) -> dict[str, Any]:
    """Measure a row, twice when others disturbed the first time; the quieter counts."""
    tries: list[dict[str, Any]] = []
    while len(tries) < 2:
        load = results.Load()
        tries.append(row.run(repeats) | {"load": load.shares()})
        if not results.is_loaded(tries[-1]["load"]):
            break
    return min(tries, key=lambda found: max(found["load"].values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--resume", action="store_true", help="leave out rows of this commit")
    parser.add_argument("--document", action="store_true", help="put rows into docs/performance.md")
    args = parser.parse_args()
    stamp = results.stamp()
    kept = {row["name"]: row for row in results.read()}
    measured = []
    head = ("row", "unit", "ours", "stock", "ratio", "ceiling")
    print("{:34}{:>6}{:>10}{:>10}{:>8}{:>10}  target".format(*head))
    for row in ROWS:
        if args.only not in row.name:
            continue
        result = kept.get(row.name, {})
        if not (args.resume and result.get("commit") == stamp["commit"]):
            result = measure(row, args.repeats) | stamp
        kept[row.name] = result
        measured.append(result)
        results.write(list(kept.values()))
        met = {True: "met: ", False: "MISSED: ", None: ""}[result["met"]]
        print(f"{row.name:34}{row.unit:>6}{cell(result['ours']):>10}{cell(result['stock']):>10}"
              f"{cell(result['ratio']):>8}{cell(result['ceiling']):>10}  {met}{result['target']}"
              f"{'  (loaded)' if results.is_loaded(result['load']) else ''}",
              flush=True)  # fmt: skip
    if args.document:
        results.write_document(measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
