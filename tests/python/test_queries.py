"""db_query against the stores of the installed ipyparallel, operator by operator."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from conftest import Cluster, wait_for
from ipyparallel import error
from ipyparallel.controller.dictdb import DictDB
from ipyparallel.controller.sqlitedb import SQLiteDB

# Functions of __main__ travel to the engines by value.
__name__ = "__main__"

OPERATORS = (
    *(
        "$lt",
        "$gt",
        "$eq",
        "$ne",
        "$lte",
        "$gte",
        "$in",
        "$nin",
        "$all",
        "$mod",
        "$exists",
        "$glob",
    ),
)
KEYS = (
    "msg_id",
    "label",
    "queue",
    "completed",
    "submitted",
    "engine_uuid",
    "stdout",
    "resubmitted",
)


def fill(cluster: Cluster, store: str) -> tuple[Any, list[dict[str, Any]]]:
    """Return a client and the records of some requests of every kind, one of them not finished."""
    cluster.start_controller(store)
    cluster.start_engine()
    client = cluster.client(1)
    view = client.load_balanced_view()
    for label in ("training", "", "a*b", "ab"):
        with view.temp_flags(label=label):
            view.apply_sync(lambda: 1)
    client[0].execute("print('out')", silent=False, block=True)
    client[0].apply_async(lambda: 1 / 0).wait(10)
    first = view.apply_async(lambda: 2)
    first.get(10)
    wait_for(lambda: client.queue_status()[0]["tasks"] == 0)
    client.resubmit(first.msg_ids[0], block=True)
    client[0].apply_async(lambda: __import__("time").sleep(60))
    wait_for(lambda: len(client.db_query({"completed": None}, keys=["msg_id"])) == 1)
    return client, client.db_query({})


def operands(key: str, records: list[dict[str, Any]]) -> list[Any]:
    """Return what a key is compared with: a value of each kind that is there, and others."""
    values = sorted({record[key] for record in records if record[key] is not None}, key=str)
    found: list[Any] = [None, *values[:1], *values[-1:], values[:2], [None], [*values[:1], None]]
    if key in ("completed", "submitted"):
        return found
    return [
        *found,
        "",
        "ab",
        "a?",
        "*",
        "xx-training-xx",
        ["training", "ab"],
        ["a*b", "xa*bx"],
        [],
        5,
    ]


def answer(find: Any, query: dict[str, Any]) -> Any:
    """Return the ids that a store finds, or the name of its error."""
    try:
        return sorted(record["msg_id"] for record in find(query))
    except error.RemoteError:
        return "an error"
    except Exception as caught:
        return f"an error: {type(caught).__name__}"


def is_error(answer: Any) -> bool:
    return isinstance(answer, str)


class Stock:
    """The stores of ipyparallel with the same records."""

    def __init__(self, records: list[dict[str, Any]], folder: Path) -> None:
        self.records = records
        self.dictdb = self.store(records)
        self.sqlitedb = SQLiteDB(location=str(folder))
        for record in records:
            plain = {k: v for k, v in record.items() if not k.endswith("buffers")}
            self.sqlitedb.add_record(record["msg_id"], plain)

    @staticmethod
    def store(records: list[dict[str, Any]]) -> DictDB:
        """Return a store in memory with some records."""
        made = DictDB()
        for record in records:
            made.add_record(record["msg_id"], dict(record))
        return made

    def wanted(self, key: str, operator: str, operand: Any) -> list[Any]:
        """Return the answers that are right.

        That of DictDB, the default. Where it fails because it compares null with something, null
        matches nothing; where it fails then, too, the operand is wrong, unless SQLite knows better.
        Its ``$gt`` is ``$lt``.
        """
        query = {key: {operator: operand}}
        if operator == "$gt":
            in_file = answer(self.sqlitedb.find_records, query)
            less = answer(self.dictdb.find_records, {key: {"$lte": operand}})
            right_type = not is_error(less) or self._compares(key, operand)
            return [in_file] if right_type and operand is not None else ["an error", []]
        in_memory = answer(self.dictdb.find_records, query)
        if not is_error(in_memory):
            return [in_memory]
        some = self.store([record for record in self.records if record[key] is not None])
        without_null = answer(some.find_records, query)
        if not is_error(without_null):
            return [without_null]
        return ["an error", [], answer(self.sqlitedb.find_records, query)]

    def _compares(self, key: str, operand: Any) -> bool:
        values = [record[key] for record in self.records if record[key] is not None]
        return bool(values) and isinstance(operand, type(values[0]))


@pytest.mark.parametrize("store", ["--dictdb", "--sqlitedb"])
def test_every_operator_answers_as_the_stores_of_stock(
    cluster: Cluster, tmp_path: Path, store: str
):
    client, records = fill(cluster, store)
    (tmp_path / "stock").mkdir()
    stock = Stock(records, tmp_path / "stock")
    wrong = []
    asked = 0
    for key, operator in itertools.product(KEYS, OPERATORS):
        for operand in operands(key, records):
            query = {key: {operator: operand}}
            got = answer(client.db_query, query)
            right = stock.wanted(key, operator, operand)
            if not any((is_error(got) and is_error(one)) or got == one for one in right):
                wrong.append((query, len(got), [len(one) for one in right], got, right))
            asked += 1
    for key in KEYS:
        for operand in (None, records[0][key]):
            query = {key: operand}
            assert answer(client.db_query, query) == answer(stock.dictdb.find_records, query)
    assert asked > 600
    assert not wrong, "\n".join(map(str, wrong[:40])) + f"\n{len(wrong)} of {asked}"


@pytest.mark.parametrize("store", ["--dictdb", "--sqlitedb"])
def test_the_documented_question_for_labels(cluster: Cluster, store: str):
    """As in ipyparallel's basic_task_label.py; there are requests without a label, too."""
    cluster.start_controller(store)
    cluster.start_engine()
    client = cluster.client(1)
    view = client.load_balanced_view()
    with view.temp_flags(label="mylabel"):
        labelled = view.apply_async(lambda: 1)
    labelled.get(10)
    client[0].apply_sync(lambda: 2)
    found = client.db_query({"label": {"$nin": ""}}, keys=["msg_id", "label"])
    assert [(record["msg_id"], record["label"]) for record in found] == [
        (labelled.msg_ids[0], "mylabel")
    ]
