"""What user code can do to an engine, and that the engine is alive after it."""

from __future__ import annotations

import random
import signal
import threading
import time

import ipyparallel
import pytest
from conftest import Cluster, wait_for
from ipyparallel import error

__name__ = "__main__"  # functions of __main__ travel by value


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    running = Cluster(tmp_path_factory.mktemp("profile"))
    running.start_controller()
    running.start_engine()
    view = running.client(1)[0]
    view.client.connection_file = str(running.connection_file("client"))
    yield view
    running.stop()


@pytest.fixture(autouse=True)
def alive_afterwards(request):
    if "engine" not in request.fixturenames:
        yield
        return
    engine = request.getfixturevalue("engine")
    pid = engine.apply_sync(lambda: __import__("os").getpid())
    yield
    assert engine.apply_async(lambda: __import__("os").getpid()).get(20) == pid


def failure(result) -> error.RemoteError:
    with pytest.raises(error.RemoteError) as caught:
        result.get(60)
    return caught.value


def test_a_reply_that_cannot_be_pickled(engine):
    make_lock = failure(engine.apply_async(lambda: __import__("threading").Lock()))
    assert "pickle" in make_lock.evalue
    assert "pickle" in failure(engine.apply_async(lambda: (i for i in ()))).evalue


def test_a_reply_whose_pickling_fails_in_user_code(engine):
    def make():
        class Refuses:
            def __reduce__(self):
                raise RuntimeError("not me")

        return Refuses()

    assert failure(engine.apply_async(make)).evalue == "not me"


def test_an_exception_whose_str_raises(engine):
    code = (
        "class Bad(Exception):\n"
        "    def __str__(self): raise ValueError('no text')\n"
        "    __repr__ = __str__\n"
        "raise Bad"
    )
    assert failure(engine.execute(code)).ename == "Bad"

    def raise_bad():
        class Worse(Exception):
            def __str__(self):
                raise SystemExit("no text")

        raise Worse

    assert failure(engine.apply_async(raise_bad)).ename == "Worse"


def test_an_exception_with_a_strange_name_and_text(engine):
    code = "raise type('Ärger', (Exception,), {})('\\ud83d \\x00 text')"
    caught = failure(engine.execute(code))
    assert caught.ename == "Ärger" and "text" in caught.evalue


def test_exit_in_a_cell_and_in_a_function_does_not_end_the_engine(engine):
    def leave():
        raise SystemExit(3)

    assert failure(engine.apply_async(leave)).ename == "SystemExit"
    assert failure(engine.execute("import sys; sys.exit(3)")).ename == "SystemExit"


def test_bottomless_recursion(engine):
    code = "def fall(n): return fall(n + 1) + 1\nfall(0)"
    assert failure(engine.execute(code)).ename == "RecursionError"


def test_a_memory_limit(engine):
    def take_too_much():
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20, hard))
        try:
            return [bytearray(50 * 2**20) for _ in range(100)]
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    for _ in range(3):
        assert failure(engine.apply_async(take_too_much)).ename == "MemoryError"


def test_no_more_processes(engine):
    """A fork bomb, bounded by the limit that it meets."""

    def multiply():
        import os
        import signal
        import time

        children = []
        try:
            while len(children) < 200:
                pid = os.fork()
                if pid == 0:
                    time.sleep(60)
                    os._exit(0)
                children.append(pid)
            raise BlockingIOError("enough")
        finally:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            for pid in children:
                os.waitpid(pid, 0)

    assert failure(engine.apply_async(multiply)).ename == "BlockingIOError"


def test_no_more_file_descriptors(engine):
    def open_all():
        import os
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        fds = []
        try:
            while True:
                fds.append(os.open("/dev/null", os.O_RDONLY))
        finally:
            for fd in fds:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert failure(engine.apply_async(open_all)).ename == "OSError"


def test_closed_descriptors_and_replaced_streams(engine):
    code = "import os, sys\nos.close(0)\nsys.stdout.close()\nsys.stderr = None\nprint('still here')"
    engine.execute(code).get(20)
    # Without stderr the traceback has nowhere to go, but the error is told.
    assert failure(engine.execute("1 / 0")).ename == "ZeroDivisionError"
    engine.execute("sys.stderr = sys.stdout", block=True)
    result = engine.execute("print('and here')")
    result.get(20)
    result.wait_for_output(5)
    assert result.stdout == "and here\n"


def test_a_gigabyte_of_output(cluster: Cluster):
    cluster.start_controller()
    cluster.start_engine()
    client = cluster.client(1)
    code = (
        "import sys\n"
        "line = 'x' * 1023 + '\\n'\n"
        "for _ in range(1024): sys.stdout.write(line * 1024)\n"
        "print('the end')"
    )
    begin = time.monotonic()
    result = client[0].execute(code)
    result.get(120)
    seconds = time.monotonic() - begin
    result.wait_for_output(30)
    assert result.stdout.endswith("x\nthe end\n")
    assert 16 * 2**20 <= len(result.stdout) <= 17 * 2**20
    assert "16.0 MiB printed to stdout" in result.stderr
    assert "1007." in result.stderr and "MiB of stdout left out" in result.stderr
    assert seconds < 60
    # The next one is counted anew.
    result = client[0].execute("print('short')")
    result.get(10)
    result.wait_for_output(5)
    assert result.stdout == "short\n"
    assert result.stderr == ""


def test_output_beyond_the_limit_from_c(cluster: Cluster):
    cluster.start_controller()
    cluster.start_engine("--output-limit=1")
    client = cluster.client(1)
    result = client[0].execute("import subprocess; subprocess.run(['seq', '1000000'])")
    result.get(60)
    result.wait_for_output(10)
    assert result.stdout.startswith("1\n2\n3\n")
    assert result.stdout.endswith("\n999999\n1000000\n")
    assert "left out" in result.stderr


def test_characters_cut_by_the_pipe_arrive_whole(engine):
    code = (
        "import os, time\n"
        "for byte in 'äöü€😀\\n'.encode():\n"
        "    os.write(1, bytes([byte])); time.sleep(0.02)"
    )
    result = engine.execute(code)
    result.get(20)
    result.wait_for_output(5)
    assert result.stdout == "äöü€😀\n"


def test_a_stopped_engine_comes_back_with_its_variables(cluster: Cluster):
    cluster.start_controller("--ping=100", "--HeartMonitor.max_heartmonitor_misses=3")
    cluster.start_engine()
    client = cluster.client(1)
    client[0].push({"kept": 7}, block=True)
    pid = client[0].apply_sync(lambda: __import__("os").getpid())
    __import__("os").kill(pid, signal.SIGSTOP)
    wait_for(lambda: client.ids == [], 10, "the loss")
    __import__("os").kill(pid, signal.SIGCONT)
    wait_for(lambda: client.ids == [0], 10, "the return")
    assert client[0].pull("kept", block=True) == 7


def test_a_deadlock_that_holds_the_gil_is_ended_by_a_signal(cluster: Cluster):
    cluster.start_controller("--ping=200")
    cluster.start_engine("--restart=on-failure")
    client = cluster.client(1)
    uuid = client._engines[0]

    def deadlock():
        import ctypes

        ctypes.PyDLL(None).pause()  # never gives the GIL back

    stuck = client[0].apply_async(deadlock)
    time.sleep(1.5)
    assert client.ids == [0], "heartbeats need the GIL"
    client.send_signal(signal.SIGKILL, targets=0, block=True)
    assert "SIGKILL" in failure(stuck).evalue
    wait_for(lambda: client._engines.get(0) not in (None, uuid), 20, "the next process")
    assert client[0].apply_sync(lambda: 1) == 1


BUSY = {
    "a loop": "i = 0\nwhile True: i += 1",
    "sleep": "import time; time.sleep(100)",
    "printing": "while True: print('x', end='', flush=True)",
    "imports": "import sys\nwhile True:\n    sys.modules.pop('colorsys', None); import colorsys",
    "exceptions": "while True:\n    try: raise ValueError\n    except ValueError: pass",
    "await": "import asyncio\nwhile True: await asyncio.sleep(0.001)",
    "a subprocess": "import subprocess\nwhile True: subprocess.run(['true'])",
}


@pytest.mark.parametrize("what", BUSY)
def test_an_interrupt_ends_any_cell(engine, what):
    for _ in range(3):
        running = engine.execute(BUSY[what])
        time.sleep(0.2)
        begin = time.monotonic()
        engine.client.send_signal(signal.SIGINT, targets=engine.targets, block=True)
        assert failure(running).ename in ("KeyboardInterrupt", "CancelledError")
        assert time.monotonic() - begin < 2


def test_thousands_of_interrupts_at_random_moments(engine):
    """Each request ends, with its result or interrupted; the engine and its variables stay."""
    client: ipyparallel.Client = engine.client
    engine.execute("import asyncio", block=True)
    engine.push({"precious": list(range(10))}, block=True)
    chance = random.Random(7)
    stop = threading.Event()
    sent = 0

    def interrupt_on_and_on():
        nonlocal sent
        # A client of its own: one is not to be used by two threads.
        with ipyparallel.Client(client.connection_file, timeout=20) as other:
            while not stop.is_set():
                other.send_signal(signal.SIGINT, targets=0, block=True)
                sent += 1
                time.sleep(chance.expovariate(1 / 0.004))

    thread = threading.Thread(target=interrupt_on_and_on)
    thread.start()
    outcomes = {"finished": 0, "interrupted": 0}
    try:
        deadline = time.monotonic() + 120
        while sent < 3000 and time.monotonic() < deadline:
            cells = [
                engine.execute("sum(range(20000)); print('.', end='')", silent=False),
                engine.apply_async(lambda: sum(range(20000))),
                engine.execute("import time; time.sleep(0.002)"),
                engine.execute("try:\n    sum(range(10000))\nfinally:\n    x = 1"),
                engine.execute("await asyncio.sleep(0.001)"),
            ]
            for cell in cells:
                try:
                    cell.get(20)
                    outcomes["finished"] += 1
                except error.TaskAborted:  # behind an interrupted cell
                    outcomes["interrupted"] += 1
                except error.RemoteError as caught:
                    assert caught.ename in ("KeyboardInterrupt", "CancelledError"), caught
                    outcomes["interrupted"] += 1
    finally:
        stop.set()
        thread.join(30)
    assert sent >= 1000, sent
    assert outcomes["finished"] > 100 and outcomes["interrupted"] > 100, outcomes
    wait_for(lambda: not client.outstanding, 20, "the last answer")
    assert engine.pull("precious", block=True) == list(range(10))
    assert engine.execute("1 + 1").get(10) is not None
