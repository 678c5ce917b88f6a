"""The unchanged ipyparallel client against our controller and engines."""

from __future__ import annotations

import os
import re
import signal
import time

import ipyparallel
import numpy as np
import pytest
from conftest import Cluster, wait_for

# Functions of __main__ travel to the engines by value and see the variables there, as those of a
# notebook do; functions of a module would travel by name.
__name__ = "__main__"


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_apply_returns_what_each_engine_computed(client):
    view = client[:]
    assert view.apply_sync(lambda x, y=0: x + y, 1, y=2) == [3] * len(client)
    assert len(set(view.apply_sync(os.getpid))) == len(client)


def test_apply_async_keeps_order_and_metadata(client):
    results = [client[client.ids[0]].apply_async(lambda i: i, i) for i in range(50)]
    assert [result.get(10) for result in results] == list(range(50))
    metadata = results[0].metadata
    assert metadata.engine_id == client.ids[0]
    assert metadata.status == "ok"
    assert metadata.started <= metadata.completed


def test_execute_runs_cells_and_shows_the_last_expression(client):
    result = client[:].execute("value = 6 * 7\nvalue", silent=False)
    replies = result.get(10)
    result.wait_for_output(5)
    assert [reply.execute_result["data"]["text/plain"] for reply in replies] == ["42"] * len(client)


def test_push_and_pull(client):
    view = client[:]
    view.push({"a": 5, "b": "text"}, block=True)
    assert view.pull(["a", "b"], block=True) == [[5, "text"]] * len(client)
    assert view["a"] == [5] * len(client)


@pytest.mark.parametrize("size", [0, 1, 100_000, 30_000_000])
def test_arrays_of_any_size_come_back_unchanged(client, size):
    array = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    view = client[client.ids[0]]
    view.push({"array": array}, block=True)
    back = view.pull("array", block=True)
    assert np.array_equal(array, back)
    view.execute("total = int(array.sum())", block=True)
    assert view["total"] == int(array.sum())


def test_an_array_of_an_apply_stays_valid_after_the_request(client):
    view = client[client.ids[0]]

    def keep(x):
        globals()["kept"] = x
        return x.sum()

    array = np.arange(1_000_000)
    assert view.apply_sync(keep, array) == array.sum()
    view.apply_sync(lambda: bytearray(50_000_000))
    assert view.apply_sync(lambda: int(kept.sum())) == array.sum()  # noqa: F821


def test_scatter_and_gather(client):
    view = client[:]
    view.scatter("part", list(range(16)), block=True)
    assert sum(view.apply_sync(lambda: len(part)), 0) == 16  # noqa: F821
    assert view.gather("part", block=True) == list(range(16))


def test_map(client):
    assert client[:].map_sync(lambda x: x**2, range(20)) == [x**2 for x in range(20)]


def test_an_error_brings_the_remote_traceback(client):
    def fail():
        raise ValueError("on purpose")

    with pytest.raises(ipyparallel.error.RemoteError) as caught:
        client[client.ids[0]].apply_sync(fail)
    assert caught.value.ename == "ValueError"
    assert caught.value.evalue == "on purpose"
    assert "raise ValueError" in plain(caught.value.traceback)
    assert caught.value.engine_info["engine_id"] == client.ids[0]


def test_an_error_in_a_cell_brings_the_remote_traceback(client):
    result = client[:].execute("def f():\n    return 1 / 0\nf()", silent=False)
    with pytest.raises(ipyparallel.error.CompositeError) as caught:
        result.get(10)
    assert "ZeroDivisionError" in str(caught.value)
    assert "in f()" in plain(result.error[0].traceback)


def test_a_result_that_cannot_be_pickled_is_an_error_reply(client):
    def lock():
        import threading

        return threading.Lock()

    with pytest.raises(ipyparallel.error.RemoteError, match="pickle"):
        client[client.ids[0]].apply_async(lock).get(10)


def test_an_exception_whose_text_raises_is_an_error_reply(client):
    def fail():
        class Stubborn(Exception):
            def __str__(self):
                raise RuntimeError

        raise Stubborn

    view = client[client.ids[0]]
    with pytest.raises(ipyparallel.error.RemoteError, match="Stubborn"):
        view.apply_async(fail).get(10)
    assert view.apply_sync(lambda: 1) == 1


def test_output_streams_while_the_cell_runs(client):
    view = client[client.ids[0]]
    result = view.execute(
        "import time\nprint('first')\ntime.sleep(1.5)\nprint('second')", silent=False
    )
    wait_for(lambda: result.stdout == "first\n", 1, "the first line before the cell ends")
    assert not result.ready()
    result.get(10)
    result.wait_for_output(2)
    assert result.stdout == "first\nsecond\n"


def test_stdout_stderr_display_and_child_processes_arrive_in_full(client):
    view = client[:]
    cell = (
        "import os, sys, ctypes\n"
        "from IPython.display import display, HTML\n"
        "print('out'); print('err', file=sys.stderr); display(HTML('<b>x</b>'))\n"
        "os.system('echo child'); ctypes.CDLL(None).puts(b'from C'); ctypes.CDLL(None).fflush(None)"
    )
    result = view.execute(cell, silent=False)
    result.get(10)
    result.wait_for_output(2)
    for stdout, stderr, outputs in zip(result.stdout, result.stderr, result.outputs):
        assert sorted(stdout.split()) == ["C", "child", "from", "out"]
        assert stderr == "err\n"
        assert outputs[0]["data"]["text/html"] == "<b>x</b>"


def test_much_output_arrives_complete_and_in_order(client):
    view = client[client.ids[0]]
    result = view.execute("for i in range(20000): print(i)", silent=False)
    result.get(30)
    result.wait_for_output(5)
    assert result.stdout == "".join(f"{i}\n" for i in range(20000))


def test_a_progress_line_ends_in_its_last_state(client):
    view = client[client.ids[0]]
    result = view.execute("for i in range(1000): print(f'\\r{i}', end='')", silent=False)
    result.get(10)
    result.wait_for_output(2)
    assert result.stdout.split("\r")[-1] == "999"


def test_top_level_await_and_background_tasks(client):
    view = client[client.ids[0]]
    view.execute(
        "import asyncio\nticks = []\n"
        "async def tick():\n    while True:\n        ticks.append(1); await asyncio.sleep(0.01)\n"
        "task = asyncio.ensure_future(tick())\nawait asyncio.sleep(0.05)",
        block=True,
    )
    before = view.apply_sync(lambda: len(ticks))  # noqa: F821
    time.sleep(0.3)
    after = view.apply_sync(lambda: len(ticks))  # noqa: F821
    assert 0 < before < after
    view.execute("task.cancel()", block=True)


@pytest.mark.parametrize(
    "code",
    ["while True: pass", "import time; time.sleep(60)", "import asyncio\nawait asyncio.sleep(60)"],
)
def test_sigint_ends_the_cell_and_keeps_the_variables(client, code):
    view = client[:]
    view.push({"keep": 1}, block=True)
    result = view.execute(code, silent=False)
    time.sleep(0.5)
    begin = time.monotonic()
    client.send_signal(signal.SIGINT, block=True)
    with pytest.raises(ipyparallel.error.CompositeError, match=r"KeyboardInterrupt|CancelledError"):
        result.get(10)
    assert time.monotonic() - begin < 2
    assert view["keep"] == [1] * len(client)


def test_sigint_while_nothing_runs_does_not_hit_the_next_cell(client):
    for _ in range(5):
        client.send_signal(signal.SIGINT, block=True)
        assert client[:].apply_sync(lambda: 1) == [1] * len(client)


def test_a_queued_task_can_be_aborted(client):
    view = client[client.ids[0]]
    first = view.apply_async(time.sleep, 0.5)
    second = view.apply_async(lambda: 1)
    third = view.apply_async(lambda: 2)
    second.abort()
    assert first.get(10) is None
    assert third.get(10) == 2
    with pytest.raises(ipyparallel.error.TaskAborted):
        second.get(10)


def test_a_failed_cell_aborts_the_cells_queued_behind_it(client):
    view = client[client.ids[0]]
    failing = view.execute("import time; time.sleep(0.5); 1 / 0", silent=False)
    queued = view.execute("1", silent=False)
    with pytest.raises(ipyparallel.error.RemoteError, match="ZeroDivisionError"):
        failing.get(10)
    with pytest.raises(ipyparallel.error.TaskAborted):
        queued.get(10)
    assert view.apply_sync(lambda: 3) == 3


def test_clear_empties_the_namespace(client):
    view = client[:]
    view.push({"gone": 1}, block=True)
    client.clear(block=True)
    assert view.apply_sync(lambda: "gone" in globals()) == [False] * len(client)


def test_shutdown_of_one_engine_and_then_of_the_hub(cluster: Cluster):
    controller = cluster.start_controller()
    engines = [cluster.start_engine("--id", str(i)) for i in range(2)]
    client = cluster.client(2)
    client.shutdown(targets=[0], block=True)
    wait_for(lambda: client.ids == [1], 5)
    assert engines[0].wait(10) == 0
    assert client[1].apply_sync(lambda: 1) == 1
    client.shutdown(hub=True, block=True)
    assert engines[1].wait(10) == 0
    assert controller.wait(10) == 0
    assert not cluster.connection_file("client").exists()


def test_a_killed_engine_is_noticed_and_its_task_fails(cluster: Cluster):
    cluster.start_controller()
    engine = cluster.start_engine()
    client = cluster.client(1)
    result = client[0].apply_async(time.sleep, 60)
    time.sleep(0.3)
    begin = time.monotonic()
    engine.kill()
    with pytest.raises(ipyparallel.error.RemoteError, match="EngineError"):
        result.get(10)
    assert time.monotonic() - begin < 3
    wait_for(lambda: client.ids == [], 3)


def test_two_clients_share_the_engines_and_see_only_their_own_output(cluster: Cluster):
    cluster.start_controller()
    cluster.start_engine()
    clients = [cluster.client(1), cluster.client(1)]
    results = [c[0].execute(f"print({i})", silent=False) for i, c in enumerate(clients)]
    for result in results:
        result.get(10)
        result.wait_for_output(2)
    assert [result.stdout for result in results] == ["0\n", "1\n"]


@pytest.mark.parametrize("packer", ["json", "msgpack"])
def test_the_connection_file_chooses_the_packing(cluster: Cluster, packer: str):
    if packer == "msgpack":
        pytest.importorskip("msgpack", reason="msgpack is not installed in this environment")
    cluster.start_controller(f"--packer={packer}")
    cluster.start_engine()
    client = cluster.client(1)
    assert client[0].apply_sync(lambda: 1) == 1
