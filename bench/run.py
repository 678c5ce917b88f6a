"""Measure ours and stock ipyparallel side by side, in one run.

    .venv/bin/python bench/run.py [--only NAME] [--repeats 3]

Writes build/bench.json, a list of rows with the medians of both and their ratio (above 1 is better
than stock), and prints them as a table. The unchanged Python client is part of every row named
``client.*`` and limits both sides.
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
from typing import Any

import ipyparallel
import psutil

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PROGRAMS = {
    "ours": {
        "controller": [str(BIN / "dipcontroller")],
        "engine": [str(BIN / "dipengine"), "--python", sys.executable],
    },
    "stock": {
        "controller": [sys.executable, "-m", "ipyparallel.controller"],
        "engine": [sys.executable, "-m", "ipyparallel.engine"],
    },
}


class Running:
    """A controller and engines, with the client connected to them."""

    def __init__(self, side: str, folder: str, engines: int) -> None:
        programs = PROGRAMS[side]
        arguments = [f"--profile-dir={folder}", "--log-level=40"]
        begin = time.perf_counter()
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.controller = subprocess.Popen([*programs["controller"], *arguments], **quiet)
        path = Path(folder) / "security" / "ipcontroller-client.json"
        while not path.exists():
            time.sleep(0.001)
        self.controller_start_s = time.perf_counter() - begin
        self.engines = [
            subprocess.Popen([*programs["engine"], *arguments], **quiet) for _ in range(engines)
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


def death(side: str) -> float:
    with running(side, 1) as cluster:
        result = cluster.client[0].apply_async(time.sleep, 600)
        time.sleep(0.5)
        begin = time.perf_counter()
        cluster.engines[0].kill()
        result.wait(60)
        return time.perf_counter() - begin


#: name, unit, whether less is better, measurement
ROWS: list[tuple[str, str, bool, Callable[[str], float]]] = [
    ("controller.start", "ms", True, controller_start),
    ("controller.memory.idle", "MiB", True, controller_memory),
    ("cluster.start.1", "s", True, cluster_start(1)),
    ("cluster.start.4", "s", True, cluster_start(4)),
    ("client.apply_sync.p50", "ms", True, apply_latency),
    ("client.lbview.map1000", "tasks/s", False, balanced_map),
    ("engine.death.direct", "s", True, death),
]


def measure(row: tuple[str, str, bool, Callable[[str], float]], repeats: int) -> dict[str, Any]:
    name, unit, less, function = row
    values: dict[str, list[float]] = {"ours": [], "stock": []}
    for _ in range(repeats):
        for side, measured in values.items():  # alternating: a slow moment hits both
            measured.append(function(side))
    ours, stock = (statistics.median(values[side]) for side in ("ours", "stock"))
    return {
        "name": name,
        "unit": unit,
        "better": "lower" if less else "higher",
        "ours": ours,
        "stock": stock,
        "ratio": stock / ours if less else ours / stock,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    rows = []
    print(f"{'row':26}{'unit':>9}{'ours':>10}{'stock':>10}{'ratio':>8}")
    for row in ROWS:
        if args.only not in row[0]:
            continue
        result = measure(row, args.repeats)
        rows.append(result)
        print(f"{result['name']:26}{result['unit']:>9}{result['ours']:10.2f}{result['stock']:10.2f}"
              f"{result['ratio']:8.1f}", flush=True)  # fmt: skip
    path = ROOT / "build" / "bench.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
