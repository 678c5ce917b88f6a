"""Rows of the group: DDP in cells, against plain ipyparallel views and against torchrun.

With views the user writes what ``%makedip`` does: a free port, the environment, the process group.
Recovery has no counterpart there: peers of a rank that failed wait until Gloo gives up after half
an hour.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ipyparallel
from ddipp import CellFailed, Group
from programs import Row, running

GIGABYTE = 10**9
STEP = Path(__file__).with_name("ddp_step.py")
ALL_REDUCE = "import torch, torch.distributed as dist\nx = torch.ones(1)\ndist.all_reduce(x)"


@contextlib.contextmanager
def group(ranks: int) -> Iterator[Group]:
    with Group.start(ranks=ranks) as made:
        made.run(ALL_REDUCE)
        yield made


def form(rank: int, world_size: int, port: int) -> None:
    import os

    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
    place = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo")


form.__module__ = "__main__"  # travels by value


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def form_with_views(client: Any, ranks: int) -> None:
    port = free_port()
    ids = sorted(client.ids)[:ranks]
    results = [client[ids[rank]].apply_async(form, rank, ranks, port) for rank in range(ranks)]
    for result in results:
        result.get(120)
    client[ids].execute(ALL_REDUCE, block=True)


def torch_import_s(processes: int) -> float:
    """Seconds until so many interpreters, started together, have imported torch.distributed."""
    begin = time.perf_counter()
    code = "import torch, torch.distributed"
    started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(processes)]
    for process in started:
        process.wait()
    return time.perf_counter() - begin


def makedip_cold(side: str) -> float:
    """From nothing until a first all_reduce; ceiling: import of torch in two processes."""
    if side == "relay":
        return torch_import_s(2)
    begin = time.perf_counter()
    if side == "ours":
        with group(2):
            return time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as folder:
        cluster = ipyparallel.Cluster(n=2, profile_dir=folder, log_level=40)
        client = cluster.start_and_connect_sync()
        client.wait_for_engines(2, interactive=False)
        form_with_views(client, 2)
        seconds = time.perf_counter() - begin
        client.close()
        cluster.stop_cluster_sync()
        return seconds


def makedip_warm(side: str) -> float:
    """The same with engines that run and have loaded torch."""
    with running(side, 2) as cluster:
        cluster.client[:].execute("import torch, torch.distributed", block=True)
        if side == "stock":
            form_with_views(cluster.client, 2)
        begin = time.perf_counter()
        if side == "stock":
            form_with_views(cluster.client, 2)
            return time.perf_counter() - begin
        with Group.attach(cluster.client) as made:
            made.run(ALL_REDUCE)
            return time.perf_counter() - begin


def cell(ranks: int) -> Callable[[str], float]:
    def measure(side: str) -> float:
        """A cell with ``pass``."""
        times = []
        with contextlib.ExitStack() as stack:
            if side == "ours":
                made = stack.enter_context(group(ranks))

                def run() -> None:
                    made.run("pass")
            else:
                view = stack.enter_context(running(side, ranks)).client[:]

                def run() -> None:
                    view.execute("pass", silent=False, block=True)

            for _ in range(60):
                begin = time.perf_counter()
                run()
                times.append(time.perf_counter() - begin)
        return 1000 * statistics.median(times[10:])

    return measure


def push(ranks: int) -> Callable[[str], float]:
    def measure(side: str) -> float:
        """A numpy array of 10**9 bytes to all ranks; the ceiling is one rank."""
        import numpy

        data = numpy.ones(GIGABYTE, dtype=numpy.uint8)
        count = 1 if side == "relay" else ranks
        if side == "stock":
            with running(side, count) as cluster:
                cluster.client[:].push({"small": 1}, block=True)
                begin = time.perf_counter()
                cluster.client[:].push({"data": data}, block=True)
                return time.perf_counter() - begin
        with group(count) as made:
            made.push({"small": 1})
            begin = time.perf_counter()
            made.push({"data": data})
            seconds = time.perf_counter() - begin
            made.run("assert data.nbytes == 10**9 and data[-1] == 1")
            return seconds

    return measure


def push_small(side: str) -> float:
    """A dict of 1 KB to four ranks, milliseconds."""
    data = {"numbers": list(range(200)), "text": "x" * 200}
    times = []
    with contextlib.ExitStack() as stack:
        if side == "ours":
            made = stack.enter_context(group(4))

            def run() -> None:
                made.push({"data": data})
        else:
            view = stack.enter_context(running(side, 4)).client[:]

            def run() -> None:
                view.push({"data": data}, block=True)

        for _ in range(60):
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times[10:])


TRAIN = """
import os, signal, time
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 64))
x = torch.randn(32, 64)
def train(fault=None):
    global fault_at
    for number in range(1_000_000):
        if number == 20 and rank == 1 and fault:
            fault_at = time.monotonic()
            if fault == "death":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError
        model(x).sum().backward()
"""


def recover(kind: str) -> Callable[[str], float]:
    def measure(side: str) -> float:
        """From the fault, peers waiting in a collective, until a group that works again."""
        if side == "relay":
            return torch_import_s(1)
        times = []
        with group(2) as made:
            for _ in range(4 if kind == "death" else 7):
                made.run(TRAIN)
                times.append(one_fault(made, kind))
        return statistics.median(times[1:])

    return measure


def one_fault(made: Group, kind: str) -> float:
    at: list[float] = []

    def interrupt() -> None:
        at.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.4, interrupt)
    begin = time.monotonic()
    if kind == "interrupt":
        timer.start()
    try:
        with contextlib.redirect_stderr(None):
            made.run("train()" if kind == "interrupt" else f"train({kind!r})")
    except CellFailed:
        made.run("y = torch.ones(1)\ndist.all_reduce(y)\nassert y.item() == 2")
    works = time.monotonic()
    if kind == "interrupt":
        timer.join()
        return works - at[0]
    # A rank that died can't say when; its twenty steps before take some milliseconds.
    return works - (begin if kind == "death" else made.pull(["fault_at"], 1)["fault_at"])


def step(side: str) -> float:
    """A step of DDP on two ranks in milliseconds; the ceiling is the same script under torchrun."""
    if side == "ours":
        with group(2) as made:
            made.run(STEP.read_text())
            return 1000 * float(made.pull(["median_s"])["median_s"])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", STEP],
        capture_output=True,
        text=True,
        check=True,
    )
    return 1000 * float(done.stdout.split()[-1])


ROWS = [
    Row("ddp.makedip.cold", "s", "lower", makedip_cold, ("ours", "stock", "relay"), beyond=1.5),
    Row("ddp.makedip.warm", "s", "lower", makedip_warm, limit=0.5),
    *(
        Row(f"ddp.cell.{ranks}", "ms", "lower", cell(ranks), limit=10 + ranks)
        for ranks in (2, 4, 8)
    ),
    Row("ddp.dipush_1gb.1", "s", "lower", push(1), repeats=1),
    Row("ddp.dipush_1gb.2", "s", "lower", push(2), repeats=1),
    Row(
        "ddp.dipush_1gb.4", "s", "lower", push(4), ("ours", "stock", "relay"), ceiling=1.5,
        repeats=3,
    ),
    Row("ddp.dipush_small.4", "ms", "lower", push_small),
    Row("ddp.recover.error", "s", "lower", recover("error"), ("ours",), limit=1),
    Row("ddp.recover.interrupt", "s", "lower", recover("interrupt"), ("ours",), limit=2),
    Row("ddp.recover.death", "s", "lower", recover("death"), ("ours", "relay"), beyond=5),
    Row("ddp.step", "ms", "lower", step, ("ours", "relay"), ceiling=1.01, repeats=5),
]  # fmt: skip
