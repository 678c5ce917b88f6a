"""A terminal IPython in a pseudo-terminal: typing, Ctrl-C, text bars, the end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import psutil
import pytest
from conftest import BIN, wait_for

PROMPT = r"In \[\d+\]: "


class Terminal:
    """Types cells and reads what comes."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.process = pexpect.spawn(
            str(BIN / "ipython"),
            ["--no-banner", "--colors=nocolor", *options],
            env={**os.environ, "IPYTHONDIR": str(folder), "TERM": "dumb"},
            encoding="utf-8",
            timeout=60,
            dimensions=(40, 200),
        )
        self.process.expect(PROMPT)

    def type(self, line: str) -> str:
        """Type one line and return what is shown until the next prompt."""
        self.process.sendline(line)
        return self.until_prompt().partition("\n")[2]

    def until_prompt(self) -> str:
        self.process.expect(PROMPT)
        return self.process.before.replace("\r\n", "\n").strip()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    running = Terminal(tmp_path, "--simple-prompt")
    yield running
    running.process.close(force=True)


def test_a_session_in_a_terminal(terminal: Terminal):
    terminal.type("%load_ext ddipp")
    assert terminal.type("%makedip -n 2") == "ddipp: 2 ranks on CPU, gloo, app torch"
    children = psutil.Process(terminal.process.pid).children(recursive=True)
    assert "run on the ranks" in terminal.type("%autodip on")
    # One line is a whole cell, as it is without autodip.
    assert terminal.type("kept = rank + 1") == ""
    assert terminal.type("kept") == "1"
    assert "int" in terminal.type("kept?")
    table = terminal.type("%dipstat").splitlines()
    assert table[0].split()[:5] == ["rank", "host", "pid", "device", "memory"]
    assert [line.split()[0] for line in table[1:]] == ["0", "1"]

    # Libraries choose text for a terminal; without that they would show widgets' names.
    bar = terminal.type("from tqdm.auto import tqdm; _ = [0 for i in tqdm(range(3))]")
    assert "3/3 [" in bar and "100%" in bar
    pytest.importorskip("ipywidgets")
    # What a widget sends beside its text finds no front end, and nothing breaks.
    terminal.type("import ipywidgets; slider = ipywidgets.IntSlider(); slider.value = 3")
    assert terminal.type("slider.value") == "3"

    terminal.process.sendline("import time; slept = [time.sleep(0.1) for _ in range(1000)]")
    time.sleep(1)
    begin = time.monotonic()
    terminal.process.sendintr()
    assert "interrupted; ranks 0, 1 of 2 stopped, all variables kept" in terminal.until_prompt()
    assert time.monotonic() - begin < 2
    assert terminal.type("kept") == "1"
    failed = terminal.type("x = torch.ones(1) / 0 if rank else 1 / 0")
    assert "ZeroDivisionError" in failed and "ddipp: rank 0 raised ZeroDivisionError" in failed

    assert terminal.type("here = 'here' #dip_locally") == ""
    assert "NameError" in terminal.type("here")
    terminal.type("%autodip off")
    assert "'here'" in terminal.type("here")
    terminal.type("%autodip on")
    terminal.process.sendline("exit")
    terminal.process.expect(pexpect.EOF)
    wait_for(lambda: not any(child.is_running() for child in children))


def test_ctrl_c_at_the_prompt_and_the_death_of_the_terminal(terminal: Terminal):
    terminal.type("%load_ext ddipp")
    terminal.type("%makedip -n 2 --linger 1")
    terminal.process.sendintr()
    terminal.until_prompt()
    assert terminal.type("%dip --replay") == ""
    ranks = terminal.type("%dipstat")
    pids = [int(line.split()[2]) for line in ranks.splitlines()[1:]]
    assert len(pids) == 2 and all(map(psutil.pid_exists, pids))
    terminal.process.close(force=True)  # as when its window is closed
    wait_for(lambda: not any(map(psutil.pid_exists, pids)), 15)


def test_the_full_terminal_shell_takes_lines_for_the_ranks(tmp_path: Path):
    """With prompt_toolkit, which asks whether a cell is complete while it is typed."""
    terminal = Terminal(tmp_path)
    terminal.process.setecho(False)
    try:
        terminal.type("%load_ext ddipp")
        terminal.process.sendline("%makedip -n 1")
        terminal.process.expect("1 rank on CPU")
        terminal.process.sendline("%autodip on")
        terminal.process.expect("run on the ranks")
        terminal.process.sendline("print('sum', rank + 40)")
        terminal.process.expect("sum 40")
        terminal.process.sendline("exit")
        terminal.process.expect(pexpect.EOF)
    finally:
        terminal.process.close(force=True)
