"""What is installed beside the programs: man pages, completion, services."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BIN

SHARE = Path(sys.prefix) / "share"


@pytest.mark.parametrize("program", ["dipcontroller", "dipengine", "dipcluster"])
def test_each_program_has_a_man_page_of_its_options(program: str):
    page = (SHARE / "man" / "man1" / f"{program}.1").read_text()
    assert f".TH {program.upper()}" in page
    assert "SYNOPSIS" in page and "\\fB\\-\\-version\\fR" in page
    if shutil.which("man"):
        done = subprocess.run(
            ["man", "--warnings", "-l", SHARE / "man" / "man1" / f"{program}.1"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and program in done.stdout


def complete(*words: str) -> set[str]:
    script = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ddipp;'
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    file = SHARE / "ddipp" / "ddipp-completion.bash"
    done = subprocess.run(
        ["bash", "-c", script, "bash", file, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_completion_knows_commands_and_options():
    assert complete("dipcluster", "st") == {"start", "stop", "status"}
    assert complete("dipcluster", "start", "--eng") == {"--engines", "--engine-args"}
    assert "--restart" in complete("dipengine", "--re")
    assert {"--reuse", "--restore"} <= complete("dipcontroller", "--re")
    assert complete("dipcluster", "stop", "--hosts") == set()


@pytest.mark.parametrize("kind", ["system", "user"])
def test_services_start_what_exists(kind: str):
    path = SHARE / "ddipp" / "systemd" / kind / "ddipp@.service"
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(path)
    words = unit["Service"]["ExecStart"].split()
    assert words[:3] == ["/usr/bin/env", "dipcluster", "start"]
    known = subprocess.run([BIN / "dipcluster", "start", "--help"], capture_output=True, text=True)
    options = [word.partition("=")[0] for word in words[3:] if word.startswith("--")]
    assert all(option in known.stdout for option in options)
    analyze = shutil.which("systemd-analyze")
    if analyze is not None:
        done = subprocess.run(
            [analyze, "verify", f"--{kind}", path], capture_output=True, text=True
        )
        assert "ddipp" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("library", "entry"),
    [("libddipp_engine_host.so", "PyInit_"), ("libddipp_torch.so", "ddipp_torch_")],
)
def test_a_library_in_the_user_s_process_shows_its_entry_points_only(library, entry):
    """A second copy of the C++ library that is seen there makes ``import torch`` abort."""
    path = Path(sys.prefix) / "lib" / "ddipp" / library
    if not path.exists():
        pytest.skip("built without torch")
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True
    ).stdout
    names = [line.split()[-1] for line in listed.splitlines()]
    assert names
    assert [name for name in names if not name.startswith(entry)] == []
