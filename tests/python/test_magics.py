"""The magics in a real IPython shell, on two CPU ranks."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time

import pytest
from conftest import Notebook
from ddipp import CellFailed, CellInterrupted, DdippError
from ddipp.shared.devices import choose_gpus, parse_ids


@pytest.fixture(scope="module")
def group(notebook: Notebook) -> Notebook:
    notebook.run("%makedip -n 2")
    return notebook


@pytest.fixture
def works(group: Notebook):
    """After the test the group works and the variables are kept."""
    group.run("%%dip\nkept = rank + 10")
    yield group
    group.run(
        "%%dip\nx = torch.ones(1)\ndist.all_reduce(x)\nassert x.item() == 2\n"
        "assert kept == rank + 10"
    )


def interrupt_after(seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    return timer


def test_ids_are_lists_and_ranges_in_any_order():
    assert parse_ids("3,1") == [3, 1]
    assert parse_ids("0-2, 5") == [0, 1, 2, 5]
    for wrong in ("", "a", "2-1", "1,1", "-1"):
        with pytest.raises(DdippError):
            parse_ids(wrong)


def test_gpus_are_checked_before_anything_is_started():
    assert choose_gpus("all", 2) == [0, 1]
    assert choose_gpus("1,0", 2) == [1, 0]
    with pytest.raises(DdippError, match="there is no GPU on this machine; use CPU ranks"):
        choose_gpus("all", 0)
    with pytest.raises(DdippError, match="there is no GPU 2; this machine has GPUs 0-1"):
        choose_gpus("0,2", 2)
    with pytest.raises(DdippError, match="there is no GPU 1; this machine has only GPU 0"):
        choose_gpus("1", 1)


def test_each_magic_says_what_is_missing_without_a_group(notebook: Notebook):
    for cell in ("%%dip\n1", "%dipush a", "%dipull a", "%autodip on", "%makedip -i"):
        assert "there is no group; make one with" in str(notebook.fail(cell))
    assert "there is no group to end" in str(notebook.fail("%makedip -k"))
    assert "say where: %makedip -g all" in str(notebook.fail("%makedip"))
    assert "invalid int value" in str(notebook.fail("%makedip -n x"))
    assert "installed are: accelerate" in str(notebook.fail("%makedip -n 2 -a nonsense"))
    assert "how many ranks?" in str(notebook.fail("%makedip -n 0"))


def test_an_error_of_ours_is_shown_as_one_line(notebook: Notebook, capsys):
    notebook.fail("%dipush a")
    shown = capsys.readouterr().out.strip()
    assert shown == "ddipp: there is no group; make one with %makedip -g all or %makedip -n 2"


def test_a_cell_runs_on_every_rank(group: Notebook, capsys):
    group.run("%%dip -S all\nprint('rank', rank, 'of', world_size)")
    assert capsys.readouterr().out.count("of 2") == 2


def test_rank_0_is_shown_and_the_last_expression_too(group: Notebook, capsys):
    group.run("%%dip\nprint('rank', rank)\n1 + 1")
    assert capsys.readouterr().out == "rank 0\n2\n"
    group.run("%%dip -S 1\nprint('rank', rank)")
    assert capsys.readouterr().out == "rank 1\n"
    group.run("%%dip -q\nprint('rank', rank)")
    assert capsys.readouterr().out == ""


def test_the_environment_is_that_of_torchrun(group: Notebook):
    group.run(
        "%%dip\nimport os\nenv = {k: os.environ.get(k) for k in ('RANK', 'LOCAL_RANK', "
        "'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR')}"
    )
    for rank in (0, 1):
        group.run(f"%dipull -r {rank} env")
        assert group["env"] == {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
        }


def test_output_is_live(group: Notebook, monkeypatch):
    import sys

    seen = []

    class Stream:
        def write(self, text):
            seen.append((time.monotonic(), text))

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stdout", Stream())
    group.run("%%dip\nimport time\nfor i in range(3): print(i); time.sleep(0.4)")
    times = [t for t, text in seen if text.strip() in "012"]
    assert times[-1] - times[0] > 0.6


def test_push_and_pull(group: Notebook):
    group.run("import numpy\na = {'x': [1, 2]}\nb = numpy.arange(5)\n%dipush a b")
    group.run("%%dip\nc = b.sum() + rank + len(a['x'])")
    group.run("%dipull -r 1 c")
    assert group["c"] == 13


def test_the_client_keeps_nothing_of_what_was_pulled_or_run(group: Notebook):
    client = group.shell.magics_manager.registry["DdippMagics"].group.client
    group.run("%%dip\nbig = b'x' * 1_000_000")
    group.run("%dipull big")
    assert client.results == {}


def test_push_and_pull_of_missing_names_change_nothing(group: Notebook):
    group.run("present = 1")
    assert "the notebook has no variable absent; nothing was pushed" in str(
        group.fail("%dipush present absent")
    )
    group.run("%%dip\nassert 'present' not in globals()")
    assert "rank 0 has no variable absent" in str(group.fail("%dipull absent"))
    assert "there is no rank 7" in str(group.fail("%dipull -r 7 rank"))
    assert "there is no rank 2" in str(group.fail("%%dip -S 2\n1"))


def test_local_and_everywhere(group: Notebook, capsys):
    group.run("%%dip local\nhere_only = 1")
    assert group["here_only"] == 1
    group.run("%%dip\nassert 'here_only' not in globals()")
    group.run("%%dip everywhere\nprint('x'); everywhere_value = 5")
    assert capsys.readouterr().out == "x\nx\n"
    assert group["everywhere_value"] == 5
    group.run("%%dip\nassert everywhere_value == 5")
    assert "it was not run on the ranks" in str(group.fail("%%dip everywhere\n1 / 0"))
    assert "say remote, local or everywhere" in str(group.fail("%%dip elsewhere\n1"))


def test_autodip_directs_cells_until_it_is_off(group: Notebook, capsys):
    group.run("%autodip on -q")
    try:
        group.run("directed = rank")
        assert "directed" not in group.shell.user_ns
        group.run("#dip_locally\nstayed = 1")
        group.run("%%dip locally\nstayed_too = 1")
        group.run("%dipull directed")
        assert (group["directed"], group["stayed"], group["stayed_too"]) == (0, 1, 1)
    finally:
        group.run("%autodip off")
    group.run("here = 3")
    assert group["here"] == 3
    assert "%autodip on, or %autodip off" in str(group.fail("%autodip maybe"))


def test_a_rank_that_raises_while_its_peer_waits_for_it(works: Notebook):
    begin = time.monotonic()
    error = works.fail(
        "%%dip\nif rank == 1: raise ValueError('on purpose')\ndist.all_reduce(torch.ones(3))"
    )
    assert time.monotonic() - begin < 5
    assert isinstance(error, CellFailed)
    assert re.fullmatch(
        r"rank 1 raised ValueError; rank 0 aborted in all_reduce #\d+ because rank 1 raised "
        "ValueError",
        str(error),
    )
    assert list(error.errors) == [1, 0]
    shown = "\n".join(error._render_traceback_())
    assert "on purpose" in shown
    assert "all_reduce" in shown  # the source line below the raise
    assert "RuntimeError" not in shown


def test_both_ranks_raise_the_same(works: Notebook):
    error = works.fail("%%dip\n1 / 0")
    assert str(error) in (
        "rank 0 raised ZeroDivisionError; rank 1 too",
        "rank 1 raised ZeroDivisionError; rank 0 too",
    )


def test_a_syntax_error(works: Notebook):
    assert "raised SyntaxError" in str(works.fail("%%dip\n1 +"))


def test_a_peer_that_computes_may_finish(works: Notebook):
    error = works.fail(
        "%%dip\nimport time\nif rank == 1: raise ValueError\ntime.sleep(1); finished = True"
    )
    assert list(error.errors) == [1]
    works.run("%dipull finished")
    assert works["finished"] is True


@pytest.mark.parametrize(
    "cell",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "x = torch.ones(2)\nwhile True: dist.all_reduce(x)",
        "import time\nif rank == 0: time.sleep(60)\ndist.barrier()",
        "if rank == 0: dist.barrier()\nelse: dist.recv(torch.ones(1), src=0)",
        "import asyncio\nawait asyncio.sleep(60)",
    ],
    ids=["busy", "sleep", "collectives", "one waits", "all wait", "await"],
)
def test_ctrl_c_ends_the_cell(works: Notebook, cell: str):
    timer = interrupt_after(0.7)
    begin = time.monotonic()
    error = works.fail("%%dip\n" + cell)
    timer.join()
    assert time.monotonic() - begin < 6
    assert isinstance(error, CellInterrupted)
    assert "all variables kept" in str(error)


def test_a_failure_frees_what_its_traceback_held(works: Notebook):
    works.run("%%dip\nimport weakref\nclass Big: pass")
    works.fail(
        "%%dip\ndef f():\n    big = Big()\n    global ref\n    ref = weakref.ref(big)\n"
        "    raise ValueError\nf()"
    )
    works.run("%%dip\nassert ref() is None")


def test_the_torch_plugin_aborts_the_groups_of_its_generation_only(works: Notebook):
    """On Gloo the abort itself does nothing; that it is reached is what can be tested here."""
    works.run(
        "%%dip\n"
        "from ddipp.on_rank import membership as side, plugin\n"
        "torch_plugin, problem = plugin.load()\n"
        "assert problem == '', problem\n"
        "assert torch_plugin.abort(side._generation + 1) == 0\n"
        "assert torch_plugin.abort(side._generation) >= 1\n"
        "assert torch_plugin.add('no such group') == -1"
    )


def test_errors_and_interrupts_in_a_row_never_hang(works: Notebook):
    for turn in range(10):
        if turn % 2:
            timer = interrupt_after(0.2 + 0.05 * turn)
            works.fail("%%dip\nx = torch.ones(2)\nwhile True: dist.all_reduce(x)")
            timer.join()
        else:
            works.fail(
                f"%%dip\nfor i in range(100):\n    if (rank, i) == (1, {7 * turn}): 1 / 0\n"
                "    dist.all_reduce(torch.ones(2))"
            )


def test_a_cell_may_run_on_some_ranks_only(group: Notebook, capsys):
    group.run("%%dip --ranks 1\nalone = rank\nprint('from', rank)")
    assert capsys.readouterr().out == "from 1\n"
    group.run("%%dip\nassert ('alone' in globals()) == (rank == 1)")
    assert "there is no rank 5" in str(group.fail("%%dip --ranks 5\n1"))
    error = group.fail("%%dip --ranks 1\n1 / 0")
    assert list(error.errors) == [1]
    group.run("%%dip\ndist.barrier()")


def test_a_cell_with_a_time_limit_is_interrupted(group: Notebook):
    begin = time.monotonic()
    error = group.fail("%%dip --timeout 0.5\nimport time; time.sleep(60)")
    assert time.monotonic() - begin < 5
    assert isinstance(error, CellInterrupted)
    assert str(error).startswith("not done after 0.5 s: interrupted")
    group.run("%%dip --timeout 60\ndist.barrier()")
    timer = interrupt_after(0.5)
    error = group.fail("%%dip --timeout 60\nimport time; time.sleep(60)")
    timer.join()
    assert str(error).startswith("interrupted;")


def test_a_command_runs_before_the_cell(group: Notebook):
    group.run('%%dip -a "before = rank * 2"\nassert before == rank * 2')


def test_the_last_output_is_shown_again(group: Notebook, capsys):
    group.run("%%dip -q\nprint('seen later', rank)")
    assert capsys.readouterr().out == ""
    group.run("%dip --replay")
    assert capsys.readouterr().out == "seen later 0\n"
    group.run("%dip --replay -S all")
    assert "seen later 1" in capsys.readouterr().out


def test_no_output_is_lost_however_fast_a_cell_ends(group: Notebook, capsys):
    for turn in range(200):
        group.run(f"%%dip\nprint({turn})")
        assert capsys.readouterr().out == f"{turn}\n"


@pytest.mark.parametrize(
    "line", ["remote", "local", "locally", "everywhere", "-q", "--quiet", "-S all", "--see 0,1"]
)
def test_the_lines_of_the_guide_for_dip_run(group: Notebook, line: str):
    group.run(f"%%dip {line}\nhere_or_there = 1")
    if "everywhere" in line or "local" in line:
        assert group["here_or_there"] == 1


@pytest.mark.parametrize("flags", ["", "-q", '-a "before = 7"', "--see all -q"])
def test_autodip_passes_flags_on(group: Notebook, flags: str):
    group.run(f"%autodip on {flags}")
    try:
        group.run("directed = rank")
        group.run("stays = 5  #dip_locally")
        assert group["stays"] == 5
    finally:
        group.run("%autodip off")
    group.run("%%dip\nassert directed == rank" + ("\nassert before == 7" if "-a" in flags else ""))


def test_dipper_gives_the_group_a_name(group: Notebook, capsys):
    group.run("%dipper ours")
    group.run("ours.run('print(world_size)')")
    assert capsys.readouterr().out == "2\n"
    assert "which name?" in str(group.fail("%dipper 1a"))


def test_a_second_group_is_refused_and_restart_replaces_it(notebook: Notebook, group, capsys):
    assert "there is a group of 2 ranks" in str(notebook.fail("%makedip -n 3"))
    notebook.run("%makedip -r -n 1 -a torch")
    notebook.run("%makedip -i")
    shown = capsys.readouterr().out
    assert "ddipp: 1 rank on CPU, gloo, app torch" in shown
    assert re.search(r"^0 +\S+ +\d+ +CPU +\d\.\d\d GiB +(idle|busy .*)$", shown, re.MULTILINE)
    notebook.run("%makedip -k")


def test_a_rank_that_does_not_react_is_given_up_at_the_third_ctrl_c(notebook: Notebook, capsys):
    notebook.shell.run_cell("%makedip -k")
    notebook.run("%makedip -n 2")
    notebook.run("%%dip\nimport os\npid = os.getpid()\nkept = 5")
    notebook.run("%dipull -r 1 pid")
    os.kill(notebook["pid"], signal.SIGSTOP)
    try:
        timers = [interrupt_after(seconds) for seconds in (0.5, 1.0, 1.5)]
        begin = time.monotonic()
        error = notebook.fail("%%dip\n1")
        assert time.monotonic() - begin < 5
        assert str(error).startswith("rank 1 did not react to 3 interrupts; %makedip --renew")
        for timer in timers:
            timer.join()
        assert "rank 1 does not react" in str(notebook.fail("%%dip\n1"))
        notebook.run("%dipull kept")
        assert notebook["kept"] == 5
        notebook.run("%makedip --renew")  # which kills it
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(notebook["pid"], signal.SIGCONT)
    assert "rank 1 started again, without its variables" in capsys.readouterr().err
    notebook.run("%%dip\ndist.barrier()\nassert ('kept' in globals()) == (rank == 0)")
    assert "all ranks can go on" in str(notebook.fail("%makedip --renew"))
    notebook.run("%makedip --renew 0-1")
    notebook.run("%%dip\ndist.barrier()\nassert 'kept' not in globals()")


def test_all_ranks_may_be_given_up(notebook: Notebook):
    notebook.shell.run_cell("%makedip -k")
    notebook.run("%makedip -n 1")
    timers = [interrupt_after(seconds) for seconds in (0.5, 1.0, 1.5)]
    error = notebook.fail(
        "%%dip\nimport signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(600)"
    )
    assert str(error).startswith("rank 0 did not react to 3 interrupts; %makedip --renew gives it")
    for timer in timers:
        timer.join()
    notebook.run("%makedip -r")
    notebook.run("%%dip\ndist.barrier()")
    notebook.run("%makedip -k")


def test_torch_that_is_not_installed_is_one_line_and_leaves_nothing_running(
    notebook: Notebook, monkeypatch, tmp_path
):
    import psutil

    notebook.shell.run_cell("%makedip -k")
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    error = notebook.fail("%makedip -n 1")
    assert "torch is not installed in this environment; install it with:" in str(error)
    names = [child.name() for child in psutil.Process().children(recursive=True)]
    assert not {"dipengine", "dipcontroller"} & set(names)


def test_every_option_is_in_the_guide():
    from pathlib import Path

    from ddipp.notebook import options

    guide = (Path(__file__).resolve().parents[2] / "docs" / "guide.md").read_text()
    for parser in (options.makedip(), options.dip(), options.dipull(), options.dipsync()):
        for action in parser._actions:
            spellings = action.option_strings
            # Not as a part of another word: "-r" stands in many.
            found = any(
                re.search(rf"(?<![\w-]){re.escape(spelling)}(?![\w-])", guide)
                for spelling in spellings
            )
            assert found or not spellings, f"{parser.prog} {spellings}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "-g all -a fastai_v1 --verbose True",
            {"gpus": "all", "app": "fastai_v1", "verbose": True},
        ),
        ("-g 3,1 -v", {"gpus": "3,1", "verbose": True}),
        ("-r", {"restart": True}),
        ("-k", {"kill": True}),
        ("-i", {"info": True}),
        ("-t 30 -n 4", {"timeout": 30.0, "ranks": 4}),
    ],
)
def test_the_lines_of_the_guide_for_makedip_are_read(line: str, expected: dict):
    from ddipp.notebook import options

    args = vars(options.makedip().read(line))
    assert {name: args[name] for name in expected} == expected
