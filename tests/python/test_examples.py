"""The example notebooks, run as a front end would run them, and what they show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import Cluster
from test_two_hosts import HERE, other_host, start_engine_there  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]

RUN = """
import sys
import nbclient, nbformat
source, target, folder = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
client = nbclient.NotebookClient(
    notebook, timeout=150, kernel_name="python3", resources={"metadata": {"path": folder}}
)
try:
    client.execute()
finally:
    nbformat.write(notebook, target)
"""


class Executed:
    """A notebook after its run."""

    def __init__(self, name: str, folder: Path, python: str | Path = sys.executable) -> None:
        source, target = ROOT / "examples" / f"{name}.ipynb", folder / f"{name}.ipynb"
        done = subprocess.run(
            [python, "-c", RUN, source, target, folder],
            capture_output=True,
            text=True,
            timeout=170,
            env={**os.environ, "IPYTHONDIR": str(folder / "ipython")},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        self.cells = [
            cell for cell in nbformat.read(target, as_version=4).cells if cell.cell_type == "code"
        ]

    def cell(self, part: str) -> Any:
        """Return the one cell that has this in its source."""
        (found,) = [cell for cell in self.cells if part in cell.source]
        return found

    def text(self, part: str, stream: str = "stdout") -> str:
        """Return what the cell has printed."""
        outputs = self.cell(part).outputs
        return "".join(one.text for one in outputs if one.get("name") == stream).strip()

    def of_ranks(self, part: str) -> str:
        """Return the text of several ranks that the cell shows."""
        return "\n".join(data["text/plain"] for data in self.data(part))

    def data(self, part: str) -> list[dict[str, str]]:
        """Return what the cell has displayed."""
        return [one.data for one in self.cell(part).outputs if "data" in one]

    def error(self, part: str) -> str:
        """Return the traceback of the cell, without colours."""
        (error,) = [one for one in self.cell(part).outputs if one.output_type == "error"]
        return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))


def test_tour(tmp_path: Path):
    tour = Executed("tour", tmp_path)
    ranks = int(re.match(r"ddipp: (\d+) ranks", tour.text("%makedip $where"))[1])
    assert tour.text('"of", world_size, "on"').startswith(f"rank 0 of {ranks} on ")
    assert tour.of_ranks("the same everywhere").splitlines()[:2] == [
        f"[ranks 0-{ranks - 1}]",
        "the same everywhere",
    ]
    assert "tensor([" in tour.data("total = torch.tensor")[0]["text/plain"]
    assert tour.cell("nobody sees this").outputs == []
    assert tour.data("scale([1, 2, 3])")[0]["text/plain"] == "[2, 4, 6]"
    assert tour.text('"only rank"') == "only rank 1 120"
    assert "tour 30.0" in tour.of_ranks("mine = weights")
    assert "[ 6.,  8., 10.]" in tour.data("%dipull -r 1 mine")[0]["text/plain"]
    assert "mine: from rank 0 to 1" in tour.text("%dipsync -f 0")
    assert "15.0" in tour.data("%%dip -S all\nmine.sum()")[-1]["text/plain"]
    assert tour.of_ranks("world_size * 10") == f"[ranks 0-{ranks - 1}]\n{10 * ranks}"
    assert tour.data("dip_locally")[0]["text/plain"] in ("'-n 2'", "'-g all'")
    assert "image/png" in tour.data("plt.plot")[0]
    table = tour.data("%dipstat")[0]["text/html"]
    assert table.count("<tr>") == ranks + 1 and "the group has ended" in table
    assert float(tour.text("for epoch in").split()[-1]) < 0.1
    assert tour.text("%dip --replay") == tour.text("steps so far")
    assert "last was" in tour.text("%makedip --why")
    assert tour.text("from Python") == "from Python: 0"
    assert tour.text("%dipull --help").startswith("usage: %dipull")
    assert tour.text("%makedip -k") == f"ddipp: ended {ranks} ranks"


def test_failure_and_recovery(tmp_path: Path):
    notebook = Executed("failure_and_recovery", tmp_path)
    losses = [
        float(text.split()[1])
        for cell in notebook.cells
        if 'print(f"loss {train(20)' in cell.source
        for text in [cell.outputs[0].text]
    ]
    assert losses[0] > losses[1] > losses[2]
    raised = notebook.error("a bad batch")
    assert "ValueError: a bad batch" in raised
    assert re.search(r"rank 0 aborted in barrier #\d+ because rank 1 raised ValueError$", raised)
    assert "no rank has made progress for 2 s" in notebook.text("time.sleep(600)", "stderr")
    assert "cell, line 5" in notebook.text("time.sleep(600)", "stderr")
    assert "not done after 4 s: interrupted" in notebook.error("time.sleep(600)")
    assert "killed by signal 9 (SIGKILL)" in notebook.error("os.kill")
    assert "was started again, without its variables" in notebook.text("os.kill", "stderr")
    assert re.search(r"model, .*: from rank 0 to 1$", notebook.text("%dipsync"))
    assert "loss below 1: True" in notebook.of_ranks("loss below 1")


def test_fastai_v2(tmp_path: Path):
    pytest.importorskip("fastai")
    notebook = Executed("fastai_v2", tmp_path)
    assert "image/png" in notebook.data("show_batch")[0]
    assert notebook.text("lr_find") == "True"
    assert "valid_loss" in notebook.data("fit_one_cycle")[-1]["text/plain"]
    assert re.match(r"predicted \d with", notebook.text("learn.predict"))
    assert notebook.text("%dipull") == "accuracy True SimpleCNN (1, 10)"


def test_fastai_v1_in_its_own_environment(tmp_path: Path, ddipp_for_fastai_v1: Path):
    notebook = Executed("fastai_v1", tmp_path, ddipp_for_fastai_v1)
    assert "app fastai_v1" in notebook.text("%makedip $where")
    assert "image/png" in notebook.data("show_batch")[0]
    assert "valid_loss" in notebook.data("fit_one_cycle")[-1]["text/html"]
    assert re.match(r"predicted \d", notebook.text("learn.predict"))
    assert notebook.text("%dipull") == "accuracy True Sequential (1, 10)"


def test_two_nodes(tmp_path: Path, cluster: Cluster, other_host: str):  # noqa: F811
    cluster.folder = tmp_path / "ipython" / "profile_default"
    cluster.folder.mkdir(parents=True)
    cluster.start_controller(f"--ip={HERE}", f"--location={HERE}")
    for start in (
        cluster.start_engine,
        lambda: start_engine_there(cluster, other_host),
        cluster.start_engine,
        lambda: start_engine_there(cluster, other_host),
    ):
        start()
    client = cluster.client(4)
    notebook = Executed("two_nodes", tmp_path)
    assert "4 ranks on CPU, gloo" in notebook.text("%makedip --connect")
    lines = notebook.of_ranks("local rank").splitlines()
    # Two on each host, numbered host by host.
    assert sorted(zip(lines[::2], lines[1::2])) == [
        ("[ranks 0, 2]", "local rank 0 of 2"),
        ("[ranks 1, 3]", "local rank 1 of 2"),
    ]
    assert notebook.text("trained:") == "trained: True"
    assert len(client.ids) == 4  # the engines go on
