"""Ctrl-C at any moment of a cell: it ends, and the group works."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest
from ddipp import CellFailed, CellInterrupted, Group
from ddipp.group.cell import CellRun
from ddipp.group.interrupts import Interrupts

SEED = 20


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_presses_are_counted_and_taken():
    before = signal.getsignal(signal.SIGINT)
    woken = []
    with Interrupts() as interrupts:
        interrupts.wake = lambda: woken.append(1)
        assert not interrupts.take()
        press()
        press()
        assert interrupts.take() and interrupts.take() and not interrupts.take()
    assert len(woken) == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_one_that_nobody_took_is_raised_at_the_end():
    with pytest.raises(KeyboardInterrupt), Interrupts():
        press()
    with pytest.raises(ValueError), Interrupts():  # which says more
        press()
        raise ValueError


def test_a_thread_counts_nothing():
    def enter() -> None:
        with Interrupts() as interrupts:
            done.append(interrupts.take())

    done: list[bool] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert done == [False]


def test_ctrl_c_at_any_moment_of_a_cell_leaves_a_group_that_works():
    chance = random.Random(SEED)
    with Group.start(ranks=2) as group:
        group.run(
            "kept = rank\nx = torch.ones(1)\npairs = [dist.new_group([0, 1]) for _ in range(2)]"
        )
        for _ in range(40):
            timer = threading.Timer(chance.uniform(0.003, 0.1), press)
            timer.start()
            begin = time.monotonic()
            # Neither rank can go on, so that one which was forgotten would wait for ever.
            with pytest.raises((CellFailed, KeyboardInterrupt)):
                group.run("dist.all_reduce(x, group=pairs[rank])", quiet=True)
            timer.join()
            group.run("assert kept == rank\ndist.barrier()", quiet=True)
            assert time.monotonic() - begin < 5


def test_what_a_cell_that_nobody_waits_for_left_running_is_ended(monkeypatch):
    with Group.start(ranks=2) as group:
        start = group.ranks.execute
        calls = []

        def fail_the_second_time(rank, code, place):
            calls.append(rank)
            if len(calls) == 2:
                raise OSError("no memory")
            return start(rank, code, place)

        monkeypatch.setattr(group.ranks, "execute", fail_the_second_time)
        begin = time.monotonic()
        with pytest.raises(OSError):
            group.run("import time\ntime.sleep(60)")  # it was started on rank 0 only
        group.run("dist.barrier()")
        assert time.monotonic() - begin < 10


def test_ctrl_c_between_two_looks_at_the_ranks_is_an_interrupt_of_the_cell(monkeypatch):
    look = CellRun._pending
    pressed = []

    def press_once(run):
        if not pressed:
            pressed.append(1)
            press()
        return look(run)

    with Group.start(ranks=2) as group:
        group.run("x = torch.ones(1)\npairs = [dist.new_group([0, 1]) for _ in range(2)]")
        monkeypatch.setattr(CellRun, "_pending", press_once)
        with pytest.raises(CellInterrupted):
            group.run("dist.all_reduce(x, group=pairs[rank])")
        group.run("dist.barrier()")
