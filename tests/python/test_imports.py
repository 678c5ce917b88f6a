"""Each folder of the package runs in one place, and imports only what runs there too."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import ddipp
import pytest

ROOT = Path(ddipp.__file__).parent

#: Folder: those of the package that it may import, itself left out.
ALLOWED = {
    "shared": {"errors"},
    "recovery": set(),
    "backends": {"recovery"},
    "on_rank": {"shared", "backends", "apps"},
    "apps": {"shared", "on_rank", "errors"},
    "cluster": {"shared", "errors"},
    "group": {"shared", "recovery", "backends", "on_rank", "apps", "cluster", "errors"},
}


def imports(file: Path) -> set[str]:
    """Return the folders and modules of ddipp that a file imports, wherever in it."""
    found = set()
    place = file.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found |= {name.split(".")[1] for name in names if name.startswith("ddipp.")}
        elif isinstance(node, ast.ImportFrom) and node.level:
            above = place[: len(place) - node.level + 1]
            parts = [*above, *(node.module or "").split(".")]
            names = [part for part in parts if part]
            found |= {names[0]} if names else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ddipp."):
            found.add((node.module or "").split(".")[1])
    return found


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_imports_only_what_runs_in_its_place(folder: str):
    files = list((ROOT / folder).glob("*.py"))
    assert files
    for file in files:
        beyond = imports(file) - ALLOWED[folder] - {folder}
        assert not beyond, f"{file.relative_to(ROOT)} imports {', '.join(sorted(beyond))}"


def test_the_notebook_loads_no_torch():
    code = (
        "import sys, ddipp.notebook.magics, ddipp.on_rank.membership, ddipp.on_rank.share\n"
        "assert 'torch' not in sys.modules and 'IPython.core.magic' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
