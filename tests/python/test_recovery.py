"""Faults in a real group of which the machine in virtual time can't know: what IPython, Python and
the engine make of interrupts, of errors that are only shown, and of waits that nobody can end.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import ipyparallel
import pytest
from conftest import wait_for
from ddipp import CellFailed, CellInterrupted, DdippError, Group

WORKS = "y = torch.ones(1)\ndist.all_reduce(y)\nassert y.item() == world_size"


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with Group.start(ranks=2) as running:
        running.run("kept = rank + 10")
        yield running
        running.run("assert kept == rank + 10")  # through all of it


@pytest.fixture
def after(group: Group) -> Iterator[Group]:
    """The group, which has to work after the test, with its variables."""
    yield group
    group.run(WORKS)
    assert [group.pull(["kept"], rank)["kept"] for rank in (0, 1)] == [10, 11]


def press(*seconds: float) -> list[threading.Timer]:
    timers = [threading.Timer(at, os.kill, (os.getpid(), signal.SIGINT)) for at in seconds]
    for timer in timers:
        timer.start()
    return timers


def code(text: str) -> str:
    return textwrap.dedent(text)


# --- errors that IPython shows without failing the cell -------------------------------------------


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "train.py"
    path.write_text(
        code("""\
        import torch, torch.distributed as dist
        if dist.get_rank() == 1:
            raise ValueError('bad data in the script')
        dist.all_reduce(torch.ones(1))
        """)
    )
    return str(path)


SHOWN = {
    "run": "%run {script}",
    "run_cell": "get_ipython().run_cell(open({script!r}).read())",
    "time": "%%time\nif rank == 1: raise ValueError('bad data in the script')\n"
    "dist.all_reduce(torch.ones(1))",
    "capture": "%%capture held\nif rank == 1: raise ValueError('bad data in the script')\n"
    "dist.all_reduce(torch.ones(1))",
}


@pytest.mark.parametrize("how", SHOWN)
def test_an_error_that_is_only_shown_is_a_failure_and_frees_peers(after, script, how):
    begin = time.monotonic()
    with pytest.raises(CellFailed) as failure:
        after.run(SHOWN[how].format(script=script))
    assert time.monotonic() - begin < 8
    assert str(failure.value).startswith("rank 1 raised ValueError; rank 0 aborted in all_reduce")
    assert "bad data in the script" in "\n".join(failure.value._render_traceback_())


def test_what_the_script_shows_of_an_earlier_error_is_none(after):
    with pytest.raises(CellFailed):
        after.run("raise ValueError('once')")
    after.run("import sys\ntry: 1 / 0\nexcept ZeroDivisionError: pass\n%tb")
    after.run("try: 1 / 0\nexcept ZeroDivisionError as error: sys.last_value = error")
    after.run("get_ipython().showtraceback((type(sys.last_value), sys.last_value, None))")


def test_an_interrupt_of_a_script_ends_it(after, tmp_path):
    (tmp_path / "endless.py").write_text("import time\nwhile True: time.sleep(0.01)")
    timers = press(0.7)
    with pytest.raises(CellInterrupted):
        after.run(f"%run {tmp_path / 'endless.py'}")
    timers[0].join()


def test_a_users_error_is_a_cause_whatever_it_says(after):
    for text in ("training aborted: loss is NaN", "NCCL", "Connection closed by peer"):
        with pytest.raises(CellFailed) as failure:
            after.run(f"raise RuntimeError({text!r})")
        assert re.fullmatch(r"rank \d raised RuntimeError; rank \d too", str(failure.value))
    with pytest.raises(CellFailed) as failure:
        after.run("if rank == 0: raise RuntimeError('aborted')\nraise KeyError('epoch')")
    assert "rank 0 raised RuntimeError" in str(failure.value)
    assert "rank 1 raised KeyError" in str(failure.value)
    with pytest.raises(CellFailed) as failure:
        after.run("if rank == 1: raise KeyboardInterrupt\ndist.barrier()")  # nobody pressed
    assert str(failure.value).startswith("rank 1 raised KeyboardInterrupt; rank 0 aborted")


def test_what_a_failed_collective_is_passed_on_as_is_a_consequence(after):
    with pytest.raises(CellFailed) as failure:
        after.run(
            code("""\
            if rank == 1: raise ValueError('the cause')
            try:
                dist.all_reduce(torch.ones(1))
            except RuntimeError as error:
                raise OSError('my own words') from error
            """)
        )
    assert str(failure.value).startswith("rank 1 raised ValueError; rank 0 aborted in all_reduce")


# --- interrupts that the user's code deals with ---------------------------------------------------


def test_one_press_is_one_interrupt_and_a_handler_takes_its_time(after):
    timers = press(0.6)
    after.run(
        code("""\
        import time
        hits, saved = 0, False
        try:
            while True: time.sleep(0.01)
        except KeyboardInterrupt:
            hits += 1
            for _ in range(30):
                time.sleep(0.1)
            saved = True
        """)
    )
    timers[0].join()
    for rank in (0, 1):
        assert after.pull(["hits", "saved"], rank) == {"hits": 1, "saved": True}


def test_one_press_is_one_call_of_a_users_own_handler(after):
    timers = press(0.6)
    after.run(
        code("""\
        import signal, time
        calls = []
        before = signal.signal(signal.SIGINT, lambda *_: calls.append(1))
        end = time.monotonic() + 3
        while time.monotonic() < end: time.sleep(0.01)
        dist.barrier()
        signal.signal(signal.SIGINT, before)
        """)
    )
    timers[0].join()
    assert [after.pull(["calls"], rank)["calls"] for rank in (0, 1)] == [[1], [1]]


def test_a_collective_after_a_caught_interrupt_works_where_nobody_was_in_one(after):
    timers = press(0.6)
    after.run(
        code("""\
        passed = False
        try:
            while True: time.sleep(0.01)
        except KeyboardInterrupt:
            time.sleep(0.5 * rank)
            t = torch.ones(1)
            dist.all_reduce(t)
            passed = t.item() == 2
        """)
    )
    timers[0].join()
    assert all(after.pull(["passed"], rank)["passed"] for rank in (0, 1))


def test_a_group_that_was_cut_is_formed_again_though_the_cell_returned(after):
    generation = after.generation
    timers = press(0.6)
    begin = time.monotonic()
    after.run(
        code("""\
        try:
            if rank == 0: dist.all_reduce(torch.ones(1))
            while True: time.sleep(0.01)
        except (KeyboardInterrupt, RuntimeError):
            stopped = True
        """)
    )
    timers[0].join()
    assert time.monotonic() - begin < 6
    assert after.generation == generation + 1
    after.run(WORKS)


def test_an_interrupt_is_kept_for_the_request_that_it_is_for(after):
    ranks = after.ranks
    first = ranks.execute(1, "import time; time.sleep(1); first = 'done'")
    second = ranks.execute(1, "second = 'begun'; time.sleep(30)")
    wait_for(lambda: after.reports(stack=False)[1].state == "busy")
    ranks.signal(signal.SIGINT, [1], second.msg_ids[0])
    begin = time.monotonic()
    with pytest.raises(Exception, match="KeyboardInterrupt"):
        second.get(20)
    assert time.monotonic() - begin < 10
    first.get(5)
    assert after.pull(["first"], 1) == {"first": "done"}
    # One for a request that has ended hits nothing.
    third = ranks.execute(1, "time.sleep(1); third = 'done'")
    ranks.signal(signal.SIGINT, [1], first.msg_ids[0])
    third.get(10)
    assert after.pull(["third"], 1) == {"third": "done"}


def test_an_interrupt_does_not_go_to_children_but_to_what_system_runs(after):
    timers = press(1.5)
    with pytest.raises(CellInterrupted):
        after.run(
            code("""\
            import subprocess, sys, time
            child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
            while True: time.sleep(0.01)
            """)
        )
    timers[0].join()
    after.run("assert child.poll() is None\nchild.kill()\nassert child.wait() != 0")
    timers = press(1.0)
    begin = time.monotonic()
    after.run("import os\nstatus = os.system('sleep 60')")
    timers[0].join()
    assert time.monotonic() - begin < 10


# --- ranks that can't be reached ------------------------------------------------------------------


def test_exit_ends_no_rank(after, capsys):
    pids = [one.pid for one in after.reports(stack=False)]
    for call in ("exit()", "quit()", "exit"):
        after.run(call)
    after.run(WORKS)
    assert [one.pid for one in after.reports(stack=False)] == pids


def test_a_rank_that_was_given_up_takes_its_place_again_when_it_is_idle(after, capsys):
    timers = press(0.6, 1.0, 1.4)
    with pytest.raises(CellInterrupted, match="rank 1 did not react to 3 interrupts"):
        after.run(
            code("""\
            import signal, time
            if rank == 1:
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                time.sleep(8)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            """)
        )
    for timer in timers:
        timer.join()
    assert "rank 1 does not react; all connections" in capsys.readouterr().err
    # What it has can be saved meanwhile.
    assert after.pull(["kept"], 1) == {"kept": 11}
    with pytest.raises(DdippError, match="rank 1 does not react, and has no variable nothing"):
        after.pull(["nothing"], 1)
    wait_for(lambda: after.reports(stack=False)[1].state == "idle", 30)
    after.run(WORKS)
    assert "rank 1 reacts again" in capsys.readouterr().err


def test_a_wait_that_nobody_knows_ends_at_the_third_press(after):
    """As of a rendezvous of the user's own, or in another library's collectives."""
    timers = press(0.6, 1.0, 1.4)
    begin = time.monotonic()
    with contextlib.suppress(CellFailed):
        after.run(
            code("""\
            import signal, socket
            if rank == 1:
                before = signal.signal(signal.SIGINT, signal.SIG_IGN)
                server = socket.create_server(('127.0.0.1', 0))
                there = socket.create_connection(server.getsockname())
                got = there.recv(1)
                signal.signal(signal.SIGINT, before)
            """)
        )
    for timer in timers:
        timer.join()
    assert time.monotonic() - begin < 8
    assert after.generations.abandoned == set()
    assert after.pull(["got"], 1) == {"got": b""}


def test_a_rank_that_is_stopped_and_struck_off_is_replaced(after, monkeypatch):
    victim = after.reports(stack=False)[1].pid
    os.kill(victim, signal.SIGSTOP)
    try:
        living = after.ranks.living
        monkeypatch.setattr(
            after.ranks, "living", lambda ranks: [r for r in living(ranks) if r != 1]
        )
        monkeypatch.setattr(after.ranks, "_PATIENCE_S", 0.2)
        assert after.ranks.restart([1], 60) == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGCONT)
    monkeypatch.undo()
    with pytest.raises(DdippError, match="rank 1 died and was started again"):
        after.run(WORKS)
    after.sync(["kept"])
    after.run("kept = rank + 10")


# --- forming --------------------------------------------------------------------------------------


def test_the_users_error_is_shown_though_the_group_can_not_be_formed(after, capsys):
    after.run(
        code("""\
        import ddipp.on_rank.membership as side
        restore = side.held.restore_groups
        def fail(*_): raise RuntimeError('no more ports')
        side.held.restore_groups = fail
        """)
    )
    with pytest.raises(CellFailed, match=r"rank \d raised ZeroDivisionError; rank \d too"):
        after.run("1 / 0")
    shown = capsys.readouterr().err
    assert "the group could not be formed again (RuntimeError: no more ports)" in shown
    assert "Traceback" not in shown
    with pytest.raises(DdippError, match=r"could not be formed again \(RuntimeError: no more"):
        after.run("1")
    for rank in (0, 1):
        after.ranks.execute(rank, "side.held.restore_groups = restore").get(10)
    after.run(WORKS)


def test_after_the_death_of_all_ranks_the_next_cell_runs(capsys):
    with Group.start(ranks=2) as group:
        pids = [one.pid for one in group.reports(stack=False)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: group.ranks.gone() or group.ranks.replaced(), 20)
        time.sleep(0.5)
        group.run("ran = rank")
        shown = capsys.readouterr().err
        assert "No rank has variables to copy from" in shown
        assert "%dipsync copies" not in shown
        assert [group.pull(["ran"], rank)["ran"] for rank in (0, 1)] == [0, 1]


def test_a_death_that_is_heard_of_before_the_answer_has_its_cause_all_the_same(group, monkeypatch):
    client = group.client
    unwrap, first = client._unwrap_exception, []

    def overtaken(content):
        """Make up the first answer, as the client does when it hears of the engine's end before."""
        if content.get("ename") == "EngineError" and not first:
            first.append(content)
            return ipyparallel.error.EngineError("Engine 1 died while running a task")
        return unwrap(content)

    monkeypatch.setattr(client, "_unwrap_exception", overtaken)
    with pytest.raises(CellFailed, match=r"rank 1 died: it was killed by signal 9"):
        group.run("import os\nif rank == 1: os.kill(os.getpid(), 9)\ndist.barrier()")
    assert first
    group.run(f"kept = rank + 10\n{WORKS}")
