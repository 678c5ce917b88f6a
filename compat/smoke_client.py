"""What an older ipyparallel client does in a day, as tests: run by its own interpreter.

    python smoke_client.py CONNECTION_FILE

Prints one line of JSON: the outcome of each test, "passed" or the error.
"""

import json
import sys
import time
import traceback

import ipyparallel
from ipyparallel import error


def test_apply(client):
    assert client[:].apply_sync(lambda x: x + 1, 41) == [42] * len(client.ids)


def test_push_and_pull(client):
    view = client[:]
    view.push({"a": list(range(1000))}, block=True)
    assert view.pull("a", block=True) == [list(range(1000))] * len(client.ids)


def test_scatter_and_gather(client):
    view = client[:]
    view.scatter("part", list(range(20)), block=True)
    assert view.gather("part", block=True) == list(range(20))


def test_execute_with_output(client):
    result = client[:].execute("print('hello'); 6 * 7", silent=False)
    result.get(20)
    result.wait_for_output(5)
    assert result.stdout == ["hello\n"] * len(client.ids)


def test_remote_error(client):
    try:
        client[0].apply_sync(lambda: 1 / 0)
    except error.RemoteError as caught:
        assert caught.ename == "ZeroDivisionError"
    else:
        raise AssertionError("no error")


def test_load_balanced_map(client):
    view = client.load_balanced_view()
    assert view.map_sync(lambda x: x * x, range(30)) == [x * x for x in range(30)]


def test_dependencies(client):
    view = client.load_balanced_view()
    first = view.apply_async(lambda: __import__("os").getpid())
    with view.temp_flags(follow=first):
        second = view.apply_async(lambda: __import__("os").getpid())
    assert second.get(20) == first.get(20)


def test_broadcast(client):
    assert client.broadcast_view().apply_sync(lambda: 5) == [5] * len(client.ids)
    coalescing = client.broadcast_view(is_coalescing=True)
    assert coalescing.apply_sync(lambda: 6) == [6] * len(client.ids)


def test_queue_status(client):
    status = client.queue_status()
    assert set(status) == {*client.ids, "unassigned"}


def test_result_from_the_hub(client):
    result = client[0].apply_async(lambda: "kept")
    result.get(20)
    other = ipyparallel.Client(sys.argv[1])
    try:
        assert other.get_result(result.msg_ids[0]).get(20) == "kept"
    finally:
        other.close()


def test_history_query_and_purge(client):
    result = client[0].apply_async(lambda: 1)
    result.get(20)
    time.sleep(0.2)
    assert client.hub_history()[-1] == result.msg_ids[0]
    records = client.db_query({"msg_id": {"$in": result.msg_ids}}, keys=["completed"])
    assert records[0]["completed"] is not None
    client.purge_hub_results("all")
    assert client.hub_history() == []


def test_resubmit(client):
    result = client.load_balanced_view().apply_async(lambda: __import__("random").random())
    first = result.get(20)
    time.sleep(0.2)
    again = client.resubmit(result.msg_ids)
    assert again.get(20) != first


def test_abort(client):
    view = client[0]
    busy = view.apply_async(time.sleep, 1)
    waiting = view.apply_async(lambda: 1)
    waiting.abort()
    busy.get(20)
    try:
        waiting.get(20)
    except error.TaskAborted:
        return
    raise AssertionError("it ran")


def test_shutdown_of_everything(client):
    client.shutdown(hub=True, block=False)


def main():
    client = ipyparallel.Client(sys.argv[1], timeout=20)
    deadline = time.time() + 60
    while len(client.ids) < 2 and time.time() < deadline:
        time.sleep(0.05)
    outcomes = {}
    for name, test in list(globals().items()):
        if not name.startswith("test_"):
            continue
        try:
            test(client)
            outcomes[name] = "passed"
        except Exception as caught:
            line = traceback.extract_tb(caught.__traceback__)[-1].line
            outcomes[name] = f"{type(caught).__name__}: {caught} ({line})"
    print(json.dumps({"client": ipyparallel.__version__, "outcomes": outcomes}))


__name__ = "__main__"  # functions of __main__ travel by value
main()
