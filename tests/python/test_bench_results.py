"""The benchmark keeps every row that it has measured, and the document's table is made of them."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PATH = Path(__file__).resolve().parents[2] / "bench" / "results.py"


@pytest.fixture
def results(tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_results", PATH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.FILE = tmp_path / "bench.json"
    return module


def row(name: str, ours: float, others: float = 0.0) -> dict[str, Any]:
    measured = {"date": "2026-01-31", "machine": "a machine, 2 cores", "commit": "abc1234"}
    found = {"name": name, "unit": "ms", "ours": ours, "stock": 2 * ours, "ratio": 2.0}
    found |= {"ceiling": None, "target": "<= 5 ms", "met": ours <= 5}
    return found | measured | {"load": {"others": others, "steal": 0.0}}


def test_rows_are_kept_and_half_a_file_is_none(results: ModuleType):
    assert results.read() == []
    results.write([row("a", 1)])
    results.write([row("a", 1), row("b", 2)])
    assert [kept["name"] for kept in results.read()] == ["a", "b"]
    results.FILE.write_text(json.dumps([row("a", 1)])[:40])
    assert results.read() == []


def test_the_table_of_the_document_is_written_from_the_rows(results: ModuleType):
    text = results.merged(f"before\n{results.BEGIN}\n{results.END}\nafter\n", [row("a", 1234.5)])
    text = results.merged(text, [row("b", 2, others=0.5)])
    text = results.merged(text, [row("a", 4)])
    assert text.startswith("before\n") and text.endswith("after\n")
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert rows == [
        "| a | ms | 4 | 8 | 2 |  | <= 5 ms | met | 2026-01-31, abc1234 |",
        "| b | ms | 2 | 4 | 2 |  | <= 5 ms | met | 2026-01-31, abc1234, on a loaded machine |",
    ]
    assert "a machine, 2 cores" in text


def test_the_document_has_the_place_for_the_table(results: ModuleType):
    text = results.DOCUMENT.read_text()
    assert results.merged(text, []).count("\n| ") == text.count("\n| ")


def test_the_work_of_others_is_noticed_and_ones_own_is_not(results: ModuleType):
    load = results.Load()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    shares = load.shares()
    assert 0 <= shares["others"] <= 1.01 and 0 <= shares["steal"] <= 1
    assert results.is_loaded({"others": 0.3, "steal": 0.0})
    assert not results.is_loaded({"others": 0.02, "steal": 0.0})
