"""The example notebook in a real Jupyter kernel and in a terminal IPython."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def texts(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def test_digits_in_a_jupyter_kernel(ipython_dir: Path):
    client = pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / "digits.ipynb", as_version=4)
    client.NotebookClient(notebook, timeout=150, kernel_name="python3").execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    training = next(cell for cell in code if "optimizer.step()" in cell.source)
    losses = [float(x) for x in re.findall(r"loss (\d+\.\d+)", texts(training))]
    assert len(losses) == 8
    assert losses[-1] < losses[0] / 5
    assert "epoch 0:" in texts(training)
    outcome = re.fullmatch(r"demo: ok ranks=(\d+) accuracy=(\d\.\d+)\n", texts(code[-1]))
    assert outcome and float(outcome[2]) >= 0.95


def test_a_saved_notebook_holds_the_last_state(ipython_dir: Path):
    """As papermill and ``jupyter nbconvert --execute`` save it: they read no later than a cell."""
    client = pytest.importorskip("nbclient")
    cells = [
        "%load_ext ddipp\n%makedip -n 2",
        "%dipstat",
        "%%dip -S all\nimport time\ntime.sleep(.3 * rank)\nprint('equal')\nprint('own', rank)",
        "%%dip\nfrom tqdm.auto import tqdm\nimport time\nfor _ in tqdm(range(5)): time.sleep(.3)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client.NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
    _, table, printed, _ = notebook.cells
    html = table.outputs[0].data["text/html"]
    assert "idle" in html and "busy" not in html
    shown = "\n".join(one.data["text/plain"] for one in printed.outputs)
    assert shown == "[ranks 0-1]\nequal\n[rank 0]\nown 0\n[rank 1]\nown 1"
    if "widgets" in notebook.metadata:  # ipywidgets is there
        (saved,) = notebook.metadata.widgets.values()
        bars = [one for one in saved["state"].values() if "Progress" in one["model_name"]]
        assert [one["state"]["value"] for one in bars if "value" in one["state"]] == [5.0]


def test_digits_in_a_terminal_ipython(ipython_dir: Path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "run_in_ipython.py", EXAMPLES / "digits.ipynb"],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(
        r"^demo: ok ranks=\d+ accuracy=0\.9\d+$|accuracy=1\.000$", done.stdout, re.MULTILINE
    )


def test_a_cell_that_fails_ends_the_terminal_run(ipython_dir: Path, tmp_path: Path):
    cell = nbformat.v4.new_code_cell("1 / 0")
    path = tmp_path / "fails.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    done = subprocess.run(
        [sys.executable, EXAMPLES / "run_in_ipython.py", path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
