"""Everything that ranks show reaches the front end: at once, in order, in few messages."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cell_output import CellOutput
from jupyter_client.manager import start_new_kernel


class Kernel:
    """A Jupyter kernel with a group of two CPU ranks."""

    def __init__(self) -> None:
        self.manager, self.client = start_new_kernel(kernel_name="python3")
        self.run("%load_ext ddipp\n%makedip -n 2")
        self.count = 0

    def messages(self, cell: str) -> tuple[list[tuple[float, dict[str, Any]]], dict[str, Any]]:
        """Run a cell; return its messages with the time at which they came, and the reply."""
        came: list[tuple[float, dict[str, Any]]] = []
        reply = self.client.execute_interactive(
            cell, timeout=90, output_hook=lambda message: came.append((time.time(), message))
        )
        return came, reply["content"]

    def run(self, cell: str) -> CellOutput:
        """Run a cell that has to succeed; return what it shows in the end."""
        came, reply = self.messages(cell)
        assert reply["status"] == "ok", reply
        return CellOutput([message for _, message in came])

    def fail(self, cell: str) -> tuple[CellOutput, str]:
        """Run a cell that has to fail; return what it shows and its traceback, without colours."""
        came, reply = self.messages(cell)
        assert reply["status"] == "error", reply
        text = "\n".join(reply["traceback"])
        output = CellOutput([message for _, message in came])
        self.count = reply["execution_count"]
        return output, re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.fixture(scope="module")
def kernel(ipython_dir: Path) -> Iterator[Kernel]:
    running = Kernel()
    yield running
    running.client.stop_channels()
    running.manager.shutdown_kernel()


def test_a_line_of_one_rank_is_shown_at_once(kernel: Kernel):
    came, _ = kernel.messages(
        "%%dip -S all\nimport time\nfor turn in range(12):\n"
        "    if rank == 0: print(f'at {time.time()!r}')\n    time.sleep(.15)"
    )
    seen: dict[float, float] = {}
    for arrived, message in came:
        data = message["content"].get("data", {})
        for sent in re.findall(r"at ([\d.]+)", data.get("text/plain", "")):
            seen.setdefault(float(sent), arrived)
    assert len(seen) == 12
    # 8 ms on a machine of its own; it waited for a quarter of a second once.
    assert statistics.median(arrived - sent for sent, arrived in seen.items()) < 0.1


def test_equal_lines_are_joined_in_place_however_late(kernel: Kernel):
    output = kernel.run(
        "%%dip -S all\nimport time\nfor epoch in range(3):\n"
        "    time.sleep(.4 * rank + .1)\n    print('epoch', epoch)"
    )
    assert output.text == "[ranks 0-1]\nepoch 0\nepoch 1\nepoch 2\n"


def test_many_lines_come_in_few_messages(kernel: Kernel):
    came, _ = kernel.messages(
        "%%dip -S all\nfor number in range(20_000): print('line', number)\nprint('own', rank)"
    )
    shown = [one for _, one in came if one["msg_type"] in ("display_data", "update_display_data")]
    assert len(shown) < 400
    lines = CellOutput([message for _, message in came]).text.splitlines()
    kept = [line for line in lines if not line.startswith("[")]
    assert kept[:-2] == [f"line {number}" for number in range(20_000)]
    assert sorted(kept[-2:]) == ["own 0", "own 1"]


PLOTS = """
from IPython.display import clear_output, display, HTML
import time
for epoch in range(3):
    clear_output(wait=True)
    print('epoch', epoch)
    display(HTML(f'<b>{epoch}{rank if differs else ""}</b>'))
    time.sleep(.05)
"""


@pytest.mark.parametrize("flags", ["", "-S all"])
def test_cleared_output_is_gone(kernel: Kernel, flags: str):
    kernel.run("%%dip\ndiffers = False")
    output = kernel.run(f"%%dip {flags}\n{PLOTS}")
    assert output.data("text/html") == ["<b>2</b>"]
    assert "epoch 2" in output.text and "epoch 1" not in output.text
    kernel.run("%%dip\ndiffers = True")
    output = kernel.run(f"%%dip {flags}\n{PLOTS}")
    assert output.data("text/html") == (["<b>20</b>", "<b>21</b>"] if flags else ["<b>20</b>"])


def test_display_with_clear_replaces(kernel: Kernel):
    output = kernel.run(
        "%%dip\nfrom IPython.display import display\n"
        "for number in range(3): display({'n': number}, clear=True)"
    )
    assert [one["data"]["text/plain"] for one in output.outputs] == ["{'n': 2}"]


def test_a_display_of_an_earlier_cell_is_updated(kernel: Kernel):
    first, _ = kernel.messages(
        "%%dip\nfrom IPython.display import display\n"
        "handle = display({'state': 'begun'}, display_id=True)"
    )
    second, _ = kernel.messages("%%dip\nhandle.update({'state': 'done'})")
    output = CellOutput([message for _, message in [*first, *second]])
    assert [one["data"]["text/plain"] for one in output.outputs] == ["{'state': 'done'}"]


def test_bars_of_several_ranks_stay_in_their_lines(kernel: Kernel):
    output = kernel.run(
        "%%dip -S all\nimport time\nfor i in range(5):\n"
        "    print(f'\\rstep {i} of {rank}', end='', flush=True); time.sleep(.1)"
    )
    assert output.text == "[rank 0]\nstep 4 of 0\n[rank 1]\nstep 4 of 1\n"


def test_help_of_a_cell_on_the_ranks_is_shown(kernel: Kernel):
    assert "all_reduce" in kernel.run("%%dip\ndist.all_reduce?").text


def test_captured_output_is_text(kernel: Kernel):
    output = kernel.run(
        "%%capture held\nfrom IPython import get_ipython\n"
        "get_ipython().run_cell_magic('dip', '-S all', 'print(\"rank\", rank)')"
    )
    assert output.outputs == []
    shown = kernel.run("print(held.stdout)").text
    assert "rank 0\n" in shown and "rank 1\n" in shown


def test_a_thread_that_goes_on_is_shown_in_its_own_cell(kernel: Kernel):
    began, _ = kernel.messages(
        "%%dip\nimport threading, time\ndef later():\n    time.sleep(.5); print('late words')\n"
        "threading.Thread(target=later).start()"
    )
    cell = began[0][1]["parent_header"]["msg_id"]
    kernel.run("x = 1")
    while True:
        message = kernel.client.get_iopub_msg(timeout=30)
        if "late words" in message["content"].get("text", ""):
            break
    assert message["parent_header"]["msg_id"] == cell


def test_the_next_input_is_set_once(kernel: Kernel):
    _, reply = kernel.messages("%%dip -S all\nget_ipython().set_next_input('x = 5')")
    texts = [one["text"] for one in reply["payload"] if one["source"] == "set_next_input"]
    assert texts == ["x = 5"]


def test_the_table_says_after_a_cell_how_the_ranks_are(kernel: Kernel):
    shown, _ = kernel.messages("%dipstat")
    after, _ = kernel.messages("%%dip\nimport time; time.sleep(1.5)")
    of_that_cell = after[0][1]["parent_header"]["msg_id"]
    updates = [
        one for _, one in after
        if one["msg_type"] == "update_display_data"
        and one["parent_header"]["msg_id"] == of_that_cell
    ]  # fmt: skip
    output = CellOutput([*(one for _, one in shown), *updates])
    assert "idle" in output.data("text/html")[0] and "busy" not in output.data("text/html")[0]


# --- errors -------------------------------------------------------------------------------------


def test_tracebacks_name_the_notebook_s_own_cell_and_line(kernel: Kernel):
    _, traceback = kernel.fail("%%dip -S all\n\nx = 1\n1 / 0")
    assert f"In[{kernel.count}], line 4" in traceback and "----> 4 1 / 0" in traceback
    assert "%%dip -S all" in traceback
    kernel.run("x = 'numbers go on here'")
    _, traceback = kernel.fail("%%dip\ndef f(\n")
    assert f"In[{kernel.count}], line 2" in traceback or "line 2" in traceback
    kernel.run("%%dip\n\ndef fails():\n    raise KeyError('mine')")
    defined = kernel.count
    _, traceback = kernel.fail("%%dip\nfails()")
    assert "line 4, in fails" in traceback or "line 4" in traceback
    assert f"In[{kernel.count}], line 2" in traceback and kernel.count > defined


def test_an_error_that_a_cell_goes_on_after_is_shown_once(kernel: Kernel):
    came, reply = kernel.messages(
        "%%dip\nget_ipython().run_cell('1 / 0')\nimport time; time.sleep(.1)\nprint('after')"
    )
    output = CellOutput([message for _, message in came])
    everything = output.text + "\n".join(reply.get("traceback", []))
    assert everything.count("ZeroDivisionError: ") + everything.count("ZeroDivisionError:\x1b") < 3
    assert "ZeroDivisionError" in everything and "after" in output.text


def test_a_system_exit_does_not_recommend_what_is_not_there(kernel: Kernel):
    output, traceback = kernel.fail("%%dip\nimport sys\nsys.exit(3)")
    assert "SystemExit" in traceback and "%tb" not in traceback + output.text


def test_a_script_shows_the_traceback_of_the_rank(tmp_path: Path, ipython_dir: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "import ddipp\nwith ddipp.Group.start(ranks=1) as group:\n    group.run('x = 1\\n1 / 0')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "----> 2 1 / 0" in done.stderr and "rank 0 raised ZeroDivisionError" in done.stderr
    assert "\x1b" not in done.stderr
