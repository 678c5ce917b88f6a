"""What the benchmarks start, and how a row is described and measured."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipyparallel
import psutil

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
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def wait_for_file(path: Path) -> None:
    """Wait until a connection file is whole: stock writes it in place."""
    while True:
        with suppress(FileNotFoundError, ValueError):
            json.loads(path.read_text())
            return
        time.sleep(0.001)


class Running:
    """A controller and engines, with the client connected to them."""

    def __init__(self, side: str, folder: str, engines: int, options: tuple[str, ...]) -> None:
        programs = PROGRAMS[side]
        self.folder = Path(folder)
        arguments = [f"--profile-dir={folder}", "--log-level=40"]
        begin = time.perf_counter()
        self.controller = subprocess.Popen([*programs["controller"], *arguments, *options], **QUIET)
        path = self.folder / "security" / "ipcontroller-client.json"
        wait_for_file(path)
        self.controller_start_s = time.perf_counter() - begin
        engines_begin = time.perf_counter()
        self.engines = [
            subprocess.Popen([*programs["engine"], *arguments], **QUIET) for _ in range(engines)
        ]
        self.client = ipyparallel.Client(str(path), timeout=30)
        while len(self.client.ids) < engines:
            time.sleep(0.002)
        self.start_s = time.perf_counter() - begin
        self.engines_start_s = time.perf_counter() - engines_begin

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
def running(side: str, engines: int, *options: str) -> Iterator[Running]:
    """Start a cluster; `options` are the controller's."""
    with tempfile.TemporaryDirectory() as folder:
        cluster = Running(side, folder, engines, options)
        try:
            yield cluster
        finally:
            cluster.stop()


def pss_mib(pid: int) -> float:
    """Return the proportional memory of a process and all its children."""
    root = psutil.Process(pid)
    family = [root, *root.children(recursive=True)]
    return sum(member.memory_full_info().pss for member in family) / 2**20


@dataclass
class Row:
    """A benchmark.

    Parameters
    ----------
    name, unit : str
    better : str
        "higher" or "lower".
    measure : callable
        Takes a side, "ours", "stock" or "relay" (the physical ceiling), and returns the value.
    sides : tuple of str
        What is measured. Sides other than ours are left out where they can't do the work.
    ratio : float, optional
        Target: how many times better than stock.
    ceiling : float, optional
        Target: the part of the ceiling that is reached ("higher"), or the multiple of it that is
        not exceeded ("lower").
    beyond : float, optional
        Target: how much more than the ceiling is not exceeded.
    limit : float, optional
        Target: a value that is not exceeded.
    repeats : int, optional
        Instead of the run's number.
    """

    name: str
    unit: str
    better: str
    measure: Callable[[str], float]
    sides: tuple[str, ...] = ("ours", "stock")
    ratio: float | None = None
    ceiling: float | None = None
    beyond: float | None = None
    limit: float | None = None
    repeats: int | None = None

    def run(self, repeats: int) -> dict[str, Any]:
        """Measure all sides in turn, so that a slow moment hits all, and compare the medians."""
        values: dict[str, list[float]] = {side: [] for side in self.sides}
        for _ in range(self.repeats or repeats):
            for side, measured in values.items():
                measured.append(self.measure(side))
        medians = {side: statistics.median(measured) for side, measured in values.items()}
        ours, stock, relay = (medians.get(side) for side in ("ours", "stock", "relay"))
        assert ours is not None
        higher = self.better == "higher"

        def advantage(other: float | None) -> float | None:
            if other is None:
                return None
            return ours / other if higher else other / ours

        ratio = advantage(stock)
        targets, met = [], []
        if self.ratio is not None:
            targets.append(f">= {self.ratio:g}x stock")
            met.append(ratio is not None and ratio >= self.ratio)
        if self.ceiling is not None and relay is not None:
            targets.append(f"{'>=' if higher else '<='} {self.ceiling:g}x ceiling")
            met.append((ours >= self.ceiling * relay) if higher else (ours <= self.ceiling * relay))
        if self.beyond is not None and relay is not None:
            targets.append(f"<= ceiling + {self.beyond:g} {self.unit}")
            met.append(ours <= relay + self.beyond)
        if self.limit is not None:
            targets.append(f"<= {self.limit:g} {self.unit}")
            met.append(ours <= self.limit)
        return {
            "name": self.name,
            "unit": self.unit,
            "better": self.better,
            "ours": ours,
            "stock": stock,
            "ratio": ratio,
            "ceiling": relay,
            "target": ", ".join(targets),
            "met": all(met) if met else None,
            "note": (self.measure.__doc__ or "").split("\n")[0],
        }
