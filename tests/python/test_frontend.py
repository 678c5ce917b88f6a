"""What a front end gets from a notebook's kernel: messages, completion, help, the live table."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cell_output import CellOutput
from ddipp.group.report import RankReport
from ddipp.notebook.lookup import body
from ddipp.notebook.status import as_html, as_text
from jupyter_client.manager import start_new_kernel


class Kernel:
    """A Jupyter kernel with a group of two CPU ranks, as a front end sees it."""

    def __init__(self) -> None:
        self.manager, self.client = start_new_kernel(kernel_name="python3")
        self.run("%load_ext ddipp\n%makedip -n 2")

    def run(self, cell: str) -> list[dict[str, Any]]:
        """Run a cell and return the messages that it has caused."""
        messages: list[dict[str, Any]] = []
        reply = self.client.execute_interactive(cell, timeout=60, output_hook=messages.append)
        assert reply["content"]["status"] == "ok", reply["content"]
        return messages

    def outputs(self, cell: str, mime: str) -> list[str]:
        """Return what a cell displays in one format."""
        found = []
        for message in self.run(cell):
            data = message["content"].get("data")
            if isinstance(data, dict) and mime in data:
                found.append(data[mime])
        return found

    def text(self, cell: str) -> str:
        """Return what a cell prints."""
        return "".join(message["content"].get("text", "") for message in self.run(cell))

    def complete(self, code: str) -> list[str]:
        content = self.client.complete(code, reply=True, timeout=10)["content"]
        start = content["cursor_start"]
        return [code[:start] + match for match in content["matches"]]

    def inspect(self, code: str) -> str:
        content = self.client.inspect(code, reply=True, timeout=10)["content"]
        return content["data"]["text/plain"] if content["found"] else ""

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel()


@pytest.fixture(scope="module")
def kernel(ipython_dir: Path) -> Iterator[Kernel]:
    running = Kernel()
    yield running
    running.close()


FIGURE = """
import matplotlib.pyplot as plt
plt.plot([1, 2, {peak}])
plt.show()
"""


def test_figures_and_tables_come_as_from_a_local_cell(kernel: Kernel):
    assert len(kernel.outputs("%%dip\n" + FIGURE.format(peak=3), "image/png")) == 1
    pytest.importorskip("pandas")
    table = "import pandas\npandas.DataFrame({'column': [1, 2]})"
    (shown,) = kernel.outputs(f"%%dip\n{table}", "text/html")
    assert "<th>column</th>" in shown


def test_equal_rich_outputs_of_ranks_are_shown_once_and_labelled(kernel: Kernel):
    equal = CellOutput(kernel.run("%%dip -S all\n" + FIGURE.format(peak=3)))
    assert len(equal.data("image/png")) == 1
    assert "[ranks 0-1]" in equal.text
    different = CellOutput(kernel.run("%%dip -S all\n" + FIGURE.format(peak="3 + rank")))
    assert len(different.data("image/png")) == 2
    assert "[rank 0]" in different.text and "[rank 1]" in different.text


def test_progress_bars_are_those_of_a_notebook(kernel: Kernel):
    pytest.importorskip("fastprogress")
    bars = kernel.outputs(
        "%%dip\nfrom fastprogress.fastprogress import progress_bar\n"
        "_ = [0 for i in progress_bar(range(3))]",
        "text/html",
    )
    assert any("<progress" in bar for bar in bars) and "100.00%" in bars[-1]
    pytest.importorskip("ipywidgets")
    messages = kernel.run(
        "%%dip -S all\nfrom tqdm.auto import tqdm\n_ = [0 for i in tqdm(range(3))]"
    )
    opened = [m["content"] for m in messages if m["msg_type"] == "comm_open"]
    names = {one["data"]["state"]["_model_name"] for one in opened}
    assert "FloatProgressModel" in names
    views = [m for m in messages if "application/vnd.jupyter.widget-view+json" in str(m["content"])]
    assert len(views) == 1  # the bars of other ranks are silent


def test_names_of_the_ranks_are_completed_in_cells_for_them(kernel: Kernel):
    kernel.run("%%dip\nremote_only = torch.nn.Linear(2, 2)")
    assert kernel.complete("remote_on") == []
    assert kernel.complete("%%dip\nremote_on") == ["%%dip\nremote_only"]
    assert kernel.complete("%%dip -q\nx = 1\nremote_only.in_feat") == [
        "%%dip -q\nx = 1\nremote_only.in_features"
    ]
    assert kernel.complete("%%dip local\nremote_on") == []
    assert "%dipush" in kernel.complete("%dipu")
    kernel.run("%autodip on")
    try:
        assert kernel.complete("remote_on") == ["remote_only"]
        assert "%dipush" in kernel.complete("%dipu")
    finally:
        kernel.run("%autodip off")


def test_help_comes_from_the_ranks(kernel: Kernel):
    kernel.run("%%dip\nboth = 'remote'\nfar = {'a': 1}")
    kernel.run("both = ['local']")
    assert "dict" in kernel.inspect("far")  # there is none here
    assert "list" in kernel.inspect("both")
    kernel.run("%autodip on")
    try:
        assert "str" in kernel.inspect("both")
        assert "String form" in kernel.outputs("both?", "text/plain")[0]
    finally:
        kernel.run("%autodip off")
    assert kernel.inspect("nowhere_at_all") == ""


def test_a_busy_rank_does_not_hold_the_completer(kernel: Kernel):
    kernel.run("%dipper group")
    kernel.run("busy = group.ranks.execute(0, 'import time; time.sleep(3)')")
    begin = time.monotonic()
    assert kernel.complete("%%dip\nremote_on") == []
    assert time.monotonic() - begin < 2
    kernel.run("busy.get()")


def test_the_table_lives_while_a_cell_runs(kernel: Kernel):
    (shown,) = kernel.outputs("%dipstat", "text/html")
    assert shown.count("<tr>") == 3
    updates = [
        m["content"]["data"]["text/html"]
        for m in kernel.run("%%dip\nimport time\ntime.sleep(2.5)\ndist.barrier()")
        if m["msg_type"] == "update_display_data"
    ]
    assert any("busy" in html and "import time" in html for html in updates)
    # A newer table takes the place of the older one, which says so.
    messages = kernel.run("%makedip -i")
    notes = [str(m["content"]["data"]) for m in messages if m["msg_type"] == "update_display_data"]
    assert any("a newer table is further down" in note for note in notes)


def test_the_help_of_each_magic_is_that_of_its_options(kernel: Kernel):
    shown = kernel.client.execute_interactive("%makedip?", timeout=20)["content"]["payload"]
    text = shown[0]["data"]["text/plain"]
    for option in ("--gpus", "--attach", "--why", "--linger"):
        assert option in text
    assert "--ranks" in kernel.text("%dip --help")


# --- without a kernel ----------------------------------------------------------------------------


def test_only_the_code_of_a_cell_for_the_ranks_is_looked_at():
    assert body("%%dip -q\nx\ny") == "x\ny"
    assert body("%%dip everywhere\nx") == "x"
    assert body("%%dip local\nx") is None
    assert body("%%time\nx") is None
    assert body("x = 1") is None


REPORTS = [
    RankReport(
        rank=0,
        state="busy",
        seconds=3.25,
        host="node<1>",
        pid=11,
        title="if a < b:",
        memory=2**30,
        collective="all_reduce",
        number=4,
        waiting=True,
        age=1.5,
        gpu={"memory_used": 2**30, "memory_total": 4 * 2**30, "utilisation": 25},
    ),
    RankReport(rank=1, state="dead"),
]


def test_the_table_in_html_and_text():
    html = as_html(REPORTS, ["GPU 3", "GPU 1"], "a <note>")
    assert "node&lt;1&gt;" in html and ">if a &lt; b:</code>" in html
    assert "a &lt;note&gt;" in html
    assert "1.0 / 4.0 GiB" in html and "25%,transparent" in html
    lines = as_text(REPORTS, ["GPU 3", "GPU 1"]).splitlines()
    assert re.split(r"  +", lines[1]) == [
        *("0", "node<1>", "11", "GPU 3", "1.0 / 4.0 GiB", "25 %", "busy 3.2 s", "if a < b:"),
        "all_reduce #4, waits 1.5 s",
    ]
    assert re.split(r"  +", lines[2]) == ["1", "GPU 1", "dead"]
    # Columns without content are left out.
    assert as_text([RankReport(0, "idle")], ["CPU"]).splitlines()[0] == "rank  device  state"
