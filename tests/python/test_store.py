"""Result stores: limits, the SQLite file, and that stock ipyparallel and ours read each other's."""

from __future__ import annotations

import sqlite3
import time

import pytest
from conftest import Cluster, wait_for
from ipyparallel import error

# Functions of __main__ travel to the engines by value.
__name__ = "__main__"


def settled(client) -> None:
    """Wait until the hub has seen every result."""
    wait_for(lambda: all(n["queue"] == n["tasks"] == 0 for n in queues(client)))


def queues(client) -> list:
    return [value for key, value in client.queue_status().items() if key != "unassigned"]


@pytest.mark.parametrize("store", ["--dictdb", "--sqlitedb"])
def test_another_client_gets_results_with_their_output(cluster: Cluster, store):
    cluster.start_controller(store)
    cluster.start_engine()
    client = cluster.client(1)
    executed = client[0].execute("print('hello'); 6 * 7", silent=False)
    executed.get(10)
    array = bytes(range(256)) * 1000
    applied = client.load_balanced_view().apply_async(lambda x: x, array)
    applied.get(10)
    failed = client[0].apply_async(lambda: 1 / 0)
    failed.wait(10)
    settled(client)

    other = cluster.client(1)
    assert other.get_result(applied.msg_ids, owner=False).get(10) == [array]
    again = other.get_result(executed.msg_ids[0], owner=False)
    again.wait(10)
    assert again.stdout == "hello\n"
    with pytest.raises(error.RemoteError, match="ZeroDivisionError"):
        other.get_result(failed.msg_ids[0], owner=False).get(10)
    record = other.db_query({"msg_id": executed.msg_ids[0]}, keys=["execute_input", "queue"])[0]
    assert record["execute_input"] == "print('hello'); 6 * 7"
    assert record["queue"] == "mux"
    buffers = other.db_query({"queue": "task"}, keys=["result_buffers"])[0]["result_buffers"]
    assert array in b"".join(bytes(buffer) for buffer in buffers)


def test_without_a_store_questions_say_how_to_have_one(cluster: Cluster):
    cluster.start_controller("--nodb")
    cluster.start_engine()
    client = cluster.client(1)
    assert client[0].apply_sync(lambda: 1) == 1
    with pytest.raises(error.RemoteError, match="start it with --dictdb or --sqlitedb"):
        client.hub_history()
    assert client.queue_status()[0]["completed"] == 1


def test_the_memory_store_keeps_to_its_limits_and_fails_nothing(cluster: Cluster):
    cluster.start_controller("--DictDB.record_limit=20", "--DictDB.size_limit=200000")
    cluster.start_engine()
    client = cluster.client(1)
    view = client[0]
    for _ in range(50):
        assert view.apply_sync(len, b"x" * 10_000) == 10_000
    assert len(client.hub_history()) <= 20
    big = b"x" * 1_000_000
    assert view.apply_sync(lambda x: x, big) == big
    assert view.apply_sync(lambda: 1) == 1


def test_results_survive_the_controller(cluster: Cluster):
    controller = cluster.start_controller("--sqlitedb")
    cluster.start_engine()
    client = cluster.client(1)
    result = client[0].apply_async(lambda: {"answer": 42})
    result.get(10)
    settled(client)
    time.sleep(0.3)  # longer than the interval of writing
    controller.kill()
    controller.wait()
    cluster.connection_file("client").unlink()
    cluster.start_controller("--sqlitedb")
    again = cluster.client()
    assert again.get_result(result.msg_ids[0], owner=False).get(10) == {"answer": 42}


def test_unfinished_tasks_run_after_a_restart(cluster: Cluster):
    controller = cluster.start_controller("--sqlitedb", "--reuse")
    cluster.start_engine()
    client = cluster.client(1)
    view = client.load_balanced_view()
    tasks = [view.apply_async(lambda i: (__import__("time").sleep(0.5), i)[1], i) for i in range(4)]
    time.sleep(0.4)
    controller.kill()
    controller.wait()
    cluster.spawn("dipcontroller", "--ping=500", "--sqlitedb", "--restore")
    # The old client has another address for the new controller: results are asked for by id.
    ids = [task.msg_ids[0] for task in tasks]
    again = cluster.client(1)
    assert [again.get_result(i, owner=False).get(20) for i in ids] == [0, 1, 2, 3]


def make_records(cluster: Cluster) -> dict[str, object]:
    """Run something of each kind with whatever controller runs; msg_id -> result."""
    client = cluster.client(1)
    results = {}
    for call in (
        client[0].apply_async(lambda: "direct"),
        client.load_balanced_view().apply_async(lambda: b"x" * 5000),
        client[0].apply_async(lambda x, y: [x, y], b"", b""),
    ):
        results[call.msg_ids[0]] = call.get(10)
    settled(client)
    time.sleep(2.5)  # stock commits every 2 s
    return results


def stock_controller(cluster: Cluster) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "ipyparallel.controller", "--profile-dir", str(cluster.folder)]
    with (cluster.folder / "stock.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--ping=250", "--sqlitedb"], stdout=log, stderr=subprocess.STDOUT
        )
    cluster.processes.append(process)
    wait_for(cluster.connection_file("client").exists, 30)


def test_ours_reads_the_file_of_stock(cluster: Cluster):
    stock_controller(cluster)
    cluster.start_engine()
    expected = make_records(cluster)
    cluster.stop()
    cluster.clients.clear()
    for path in (cluster.folder / "security").iterdir():
        path.unlink()

    cluster.start_controller("--sqlitedb")
    client = cluster.client()
    for msg_id, value in expected.items():
        assert client.get_result(msg_id, owner=False).get(10) == value
    records = client.db_query({"completed": {"$ne": None}})
    assert {record["msg_id"] for record in records} >= set(expected)
    assert all(record["submitted"] <= record["completed"] for record in records)
    kinds = {record["queue"] for record in client.db_query({}, keys=["queue"])}
    assert kinds == {"mux", "task"}


def test_the_code_of_stock_reads_our_file(cluster: Cluster, monkeypatch):
    """The table check of stock is left out: with SQLite 3.37 and later it refuses every table.

    SQLite reports the columns' type as TEXT there and stock expects text, so that it does not
    open a table of its own again either.
    """
    from ipyparallel.controller.sqlitedb import SQLiteDB
    from ipyparallel.serialize import deserialize_object
    from tornado.ioloop import PeriodicCallback

    cluster.start_controller("--sqlitedb")
    cluster.start_engine()
    expected = make_records(cluster)
    monkeypatch.setattr(SQLiteDB, "_check_table", lambda self: True)
    monkeypatch.setattr(PeriodicCallback, "start", lambda self: None)
    monkeypatch.setattr(PeriodicCallback, "stop", lambda self: None)
    database = SQLiteDB(location=str(cluster.folder))
    assert database.get_history() == list(expected)
    for msg_id, value in expected.items():
        record = database.get_record(msg_id)
        assert deserialize_object(record["result_buffers"])[0] == value
        assert record["header"]["msg_id"] == msg_id
        assert record["submitted"] <= record["started"] <= record["completed"]
        assert record["result_content"]["status"] == "ok"
    found = database.find_records({"queue": "task", "completed": {"$ne": None}}, keys=["queue"])
    assert len(found) == 1
    database.close()


def test_a_file_that_is_no_database_is_said_in_one_line(cluster: Cluster):
    (cluster.folder / "tasks.db").write_text("this is no database, it is a text " * 50)
    controller = cluster.spawn("dipcontroller", "--sqlitedb")
    assert controller.wait(10) == 1
    log = controller.log.read_text()
    assert "can't use the result database" in log
    assert "tasks.db: file is not a database" in log


def test_a_full_disk_fails_no_request(cluster: Cluster):
    """The file is made too big for its process, which SQLite sees as a full disk."""
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    controller = cluster.spawn("dipcontroller", "--ping=500", "--sqlitedb", preexec_fn=limit)
    wait_for(cluster.connection_file("client").exists)
    cluster.start_engine()
    client = cluster.client(1)
    for _ in range(5):
        assert client[0].apply_sync(len, b"x" * 300_000) == 300_000
    wait_for(lambda: "results can't be written to" in controller.log.read_text())
    assert client[0].apply_sync(lambda: 5) == 5
    assert controller.log.read_text().count("results can't be written to") == 1
    # What is not written yet is not missing.
    assert len(client.db_query({}, keys=["msg_id"])) == 6
    assert len(client.hub_history()) == 6


def test_the_table_has_the_columns_that_stock_expects(cluster: Cluster):
    from ipyparallel.controller.sqlitedb import SQLiteDB

    cluster.start_controller("--sqlitedb")
    cluster.client()
    with sqlite3.connect(cluster.folder / "tasks.db") as database:
        columns = database.execute("PRAGMA table_info('ipython-tasks')").fetchall()
    expected = SQLiteDB._types.default_args[0]
    assert {name: kind.lower() for _, name, kind, *_ in columns} == expected
    assert [name for _, name, *_ in columns] == list(expected)
