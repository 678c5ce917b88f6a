"""What the lines of the magics mean."""

from __future__ import annotations

import pytest
from conftest import Notebook
from ddipp.notebook import options
from ddipp.notebook.autodip import directed_lines

# --- what a line means -----------------------------------------------------------------------


def test_what_follows_a_sign_of_number_is_a_comment():
    assert options.without_comment("# Add this to the first line") == ""
    assert options.without_comment("everywhere # both") == "everywhere"
    assert options.without_comment("-a 'x # y' -q # don't") == "-a 'x # y' -q"
    assert options.without_comment("--connect a#b.json") == "--connect a#b.json"


@pytest.mark.parametrize(
    ("line", "see"),
    [("-S 0 1", "0,1"), ("-S 0, 1 everywhere", "0,1"), ("--see 0,1 -q", "0,1"), ("-S all", "all")],
)
def test_a_list_of_ranks_may_be_several_words(line: str, see: str):
    args = options.dip().read(line)
    assert args is not None and args.see == see
    assert args.where == ("everywhere" if "everywhere" in line else "remote")


def test_a_list_of_gpus_may_be_several_words():
    args = options.makedip().read("-g 0 1 -a torch")
    assert args is not None and (args.gpus, args.app) == ("0,1", "torch")


def directed(cell: str, flags: str = "") -> str:
    return "".join(directed_lines(cell.splitlines(keepends=True), flags))


def test_own_magics_stay_in_the_notebook_wherever_they_stand():
    assert directed("%dipull q\n") == "%dipull q\n"
    assert directed("# take it here\n%dipull q\n") == "# take it here\n%dipull q\n"
    assert directed("\n\n%makedip -k\n") == "\n\n%makedip -k\n"
    for cell in ("q = 1\n%dipull q\nprint(q)\n",):
        lines = directed(cell, "-q").splitlines()
        assert lines == [
            "get_ipython().run_cell_magic('dip', 'remote -q', 'q = 1\\n')",
            "%dipull q",
            "get_ipython().run_cell_magic('dip', 'remote -q', 'print(q)\\n')",
        ]
    # A statement is whole: what stands in a loop with such a magic stays too.
    loop = "for i in range(2):\n    %dipull -r {i} q\nelse:\n    done = 1\n"
    assert directed(loop) == loop
    assert directed("import os\n" + loop).endswith("'import os\\n')\n" + loop)
    function = "@decorator\ndef f():\n    %dipush a\n"
    assert directed(function) == function
    # What only looks like one goes to the ranks.
    text = 's = """\n%dipull q\n"""\n'
    assert directed(text) == "%%dip remote\n" + text
    assert directed("%time f()\n") == "%%dip remote\n%time f()\n"
    assert directed("%%time\n%dipull q\n") == "%%time\n%dipull q\n"
    assert directed("x = 1  # dip_locally\n") == "x = 1  # dip_locally\n"


def test_a_wrong_restart_leaves_the_group_alone(notebook: Notebook):
    notebook.run("%makedip -n 2")
    notebook.run("%%dip\nkept = 7")
    for line, why in {
        "-n 0 -r": "how many ranks?",
        "-n 2 -r -a nonsense": "there is no app 'nonsense'",
        "-g 99 -r": "there is no GPU",
    }.items():
        assert why in str(notebook.fail(f"%makedip {line}")), line
    notebook.run("%dipull kept")
    assert notebook["kept"] == 7
