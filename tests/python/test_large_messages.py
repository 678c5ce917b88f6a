"""Faults while a large message of Gloo is under way.

Gloo does not tell an operation whose message is partly sent or received that its connection has
failed; it waits for the timeout of its group, half an hour. Small messages are never in that state.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from conftest import Cluster
from ddipp import CellFailed, CellInterrupted, Group

SET_UP = "large, kept = torch.zeros(40_000_000), rank + 10"
#: Messages of 160 MB fill nearly all of the time.
CALLS = {
    "broadcast": "dist.broadcast(large, 0)",
    "all_reduce": "dist.all_reduce(large)",
    "send": "dist.send(large, 1) if rank == 0 else dist.recv(large, 0)",
}


@pytest.fixture(scope="module")
def group(ipython_dir: object) -> Iterator[Group]:
    with Group.start(ranks=2) as group:
        yield group


def kill_after(seconds: float, pid: int) -> threading.Timer:
    timer = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
    timer.start()
    return timer


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_dies(group: Group, call: str, victim: int):
    group.run(SET_UP)
    timer = kill_after(0.6, group.reports(stack=False)[victim].pid)
    begin = time.monotonic()
    with pytest.raises(CellFailed) as caught:
        group.run(f"while True: {CALLS[call]}")
    took = time.monotonic() - begin
    timer.join()
    assert str(caught.value).startswith(f"rank {victim} died: it was killed by signal 9")
    assert took < 9, took  # with the start of a rank, which loads torch
    assert group.pull(["kept"], 1 - victim)["kept"] == 11 - victim
    group.sync()
    group.run("y = torch.ones(1)\ndist.all_reduce(y)\nassert y.item() == 2")


ASYNCHRONOUS = {
    "broadcast": "work = dist.broadcast(large, 1, async_op=True)",
    "all_reduce": "work = dist.all_reduce(large, async_op=True)",
    "send": "work = dist.irecv(large, 1) if rank == 0 else dist.isend(large, 0)",
}


@pytest.mark.parametrize("call", ASYNCHRONOUS)
def test_a_rank_raises(group: Group, call: str):
    """It has begun the same call, so the others can't know by their numbers that it is in vain."""
    group.run("large = torch.zeros(100_000_000)")
    for _ in range(5):
        begin = time.monotonic()
        with pytest.raises(CellFailed) as caught:
            group.run(f"{ASYNCHRONOUS[call]}\nif rank == 0: raise ValueError\nwork.wait()")
        assert time.monotonic() - begin < group.limits.grace_s / 2
        group.run("y = torch.ones(1)\ndist.all_reduce(y)\nassert y.item() == 2")
        if f"rank 1 aborted in {call}" in str(caught.value):
            return
    pytest.fail("the message was there before rank 0 was seen to have failed, five times")


def test_an_interrupt(group: Group):
    group.run("large, kept = torch.zeros(400_000_000), rank + 10")
    threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT)).start()
    begin = time.monotonic()
    with pytest.raises(CellInterrupted):
        group.run("while True: dist.broadcast(large, 0)")
    assert time.monotonic() - begin < 2.5
    assert [group.pull(["kept"], rank)["kept"] for rank in (0, 1)] == [10, 11]
    group.run("large = None\ny = torch.ones(1)\ndist.all_reduce(y)\nassert y.item() == 2")


def test_groups_that_the_user_makes_afterwards_work(cluster: Cluster):
    cluster.start_controller()
    for _ in range(2):
        cluster.start_engine()
    client = cluster.client(2)
    with Group.attach(client) as group, pytest.raises(CellFailed):
        group.run("if rank == 0: raise ValueError\ndist.all_reduce(torch.ones(1))")
    view = client[:]
    view.push({"folder": str(cluster.folder)}, block=True)
    view.execute(
        "dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, "
        "world_size=2)\ny = torch.ones(1)\ndist.all_reduce(y)\ndist.destroy_process_group()",
        block=True,
    )
    assert [y.item() for y in view.pull("y", block=True)] == [2.0, 2.0]
