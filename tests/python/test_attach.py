"""A group outlives its notebook for a while, and another one takes it back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import Notebook, wait_for
from ddipp.cluster.clusters import notes

OWNER = """
import os, signal, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="NoColor")
for cell in {cells!r}:
    shell.run_cell(cell).raise_error()
os.kill(os.getpid(), signal.SIGKILL)
"""


def leave_group_behind(*cells: str) -> None:
    """Let a notebook run these cells and die."""
    code = OWNER.format(cells=("%load_ext ddipp", *cells))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes that were started with a profile in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("IPYTHONDIR") == str(folder / "ipython"):
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return [one for one in found if one.pid != os.getpid()]


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return tmp_path


def test_variables_and_models_are_there_after_the_notebook_was_killed(fresh: Path, capsys):
    leave_group_behind(
        "%makedip -n 2",
        "%%dip\nkept = rank + 5\nnet = torch.nn.parallel.DistributedDataParallel("
        "torch.nn.Linear(2, 2))",
    )
    notebook = Notebook()
    try:
        assert (
            "a group that an earlier notebook has left still runs (2 ranks on CPU, app torch)"
            in (capsys.readouterr().err)
        )
        notebook.run("%makedip --attach")
        notebook.run(
            "%%dip -S all\nnet(torch.ones(1, 2) * rank).sum().backward()\nprint(kept)\n"
            "g = net.module.weight.grad.sum().item()"
        )
        assert {"5", "6"} <= set(capsys.readouterr().out.split())
        gradients = []
        for rank in (0, 1):
            notebook.run(f"%dipull -r {rank} g")
            gradients.append(notebook["g"])
        assert gradients[0] == gradients[1] == pytest.approx(2.0)  # of both ranks
        (note,) = notes()
        assert note.owner.pid == os.getpid()
        notebook.run("%makedip -k")
        assert notes() == []
        wait_for(lambda: not processes_of(fresh))
        assert "no group is without its notebook" in str(notebook.fail("%makedip --attach"))
    finally:
        notebook.close()


def test_a_cell_that_still_runs_is_waited_for_and_ctrl_c_ends_it(fresh: Path, capsys):
    leave_group_behind(
        "%makedip -n 2",
        "%%dip\nkept = rank",
        "%dipper group",
        "[group.ranks.execute(r, '# long\\nimport time\\nfor i in range(600): time.sleep(0.1)')"
        " for r in (0, 1)]\nimport time; time.sleep(0.5)",
    )
    notebook = Notebook()
    try:
        import threading

        timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        notebook.run("%makedip --attach")
        shown = capsys.readouterr().err
        assert "ranks 0, 1 still run a cell (import time, since" in shown
        notebook.run("%%dip\ndist.barrier()\nassert kept == rank")
        notebook.run("%makedip -k")
    finally:
        notebook.close()


def test_a_rank_that_failed_alone_does_not_hold_the_others_for_ever(fresh: Path, monkeypatch):
    leave_group_behind(
        "%makedip -n 2",
        "%dipper group",
        "[group.ranks.execute(r, 'kept = rank\\nif rank == 0: 1 / 0\\ndist.barrier()')"
        " for r in (0, 1)]\nimport time; time.sleep(0.5)",
    )
    from ddipp.group.generations import Limits

    monkeypatch.setattr(Limits.__init__, "__defaults__", (60.0, 0.5, 120.0))
    notebook = Notebook()
    try:
        notebook.run("%makedip --attach")
        notebook.run("%%dip\ndist.barrier()\nassert kept == rank")
        notebook.run("%makedip -k")
    finally:
        notebook.close()


def test_a_rank_that_died_in_between_is_told_of(fresh: Path, capsys):
    pid_file = fresh / "pid"
    leave_group_behind(
        "%makedip -n 2",
        "%%dip\nkept = 5",
        f"%%dip --ranks 1\nimport os\n_ = open({str(pid_file)!r}, 'w').write(str(os.getpid()))",
    )
    notebook = Notebook()
    try:
        victim = psutil.Process(int(pid_file.read_text()))
        victim.kill()
        wait_for(lambda: not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE)
        notebook.run("%makedip --attach")
        assert "died and was started again, without its variables" in capsys.readouterr().err
        notebook.run("%dipsync kept")
        notebook.run("%%dip\ndist.barrier()\nassert kept == 5")
        notebook.run("%makedip -k")
    finally:
        notebook.close()


def test_a_group_that_nobody_takes_back_ends_by_itself(fresh: Path):
    leave_group_behind("%makedip -n 2 --linger 2")
    assert len(notes()) == 1
    assert len(processes_of(fresh)) >= 3
    wait_for(lambda: not processes_of(fresh), 15)
    assert notes() == []
    assert list((fresh / "ipython" / "profile_default" / "security").glob("*.json")) == []


def test_ranks_that_wait_for_one_that_failed_end_though_nobody_takes_them_back(fresh: Path):
    leave_group_behind(
        "%makedip -n 2 --linger 4",
        "%dipper group",
        "[group.ranks.execute(r, 'if rank == 0: 1 / 0\\ndist.barrier()') for r in (0, 1)]\n"
        "import time; time.sleep(0.5)",
    )
    wait_for(lambda: not processes_of(fresh), 30)  # Gloo would wait for half an hour


def test_a_kernel_that_is_restarted_leaves_the_group_and_one_that_ends_does_not(fresh: Path):
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")

    def run(cell: str) -> str:
        texts = []
        client.execute_interactive(
            cell,
            timeout=60,
            output_hook=lambda m: texts.append(json.dumps(m["content"])),
        )
        return "".join(texts)

    try:
        run("%load_ext ddipp\n%makedip -n 1")
        run("%%dip\nkept = 77")
        assert len(notes()) == 1
        client.stop_channels()
        manager.restart_kernel()
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(60)
        assert "take it back with" in run("%load_ext ddipp")
        assert "1 rank on CPU" in run("%makedip --attach")
        assert "77" in run("%%dip\nkept")
        assert len(notes()) == 1
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    wait_for(lambda: not processes_of(fresh))
    assert notes() == []
