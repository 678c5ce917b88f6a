"""Run the code cells of a notebook in a terminal IPython, as if they were typed.

    python examples/run_in_ipython.py examples/digits.ipynb

Ends with exit code 1 at the first cell that fails.
"""

from __future__ import annotations

import sys

import nbformat
from IPython.terminal.interactiveshell import TerminalInteractiveShell


def main(path: str) -> int:
    """Run every code cell of the notebook at `path`."""
    shell = TerminalInteractiveShell.instance()
    shell.colors = "nocolor"
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        prompt = f"In [{shell.execution_count}]: "
        print(prompt + cell.source.replace("\n", "\n" + "...: ".rjust(len(prompt))), flush=True)
        result = shell.run_cell(cell.source, store_history=True)
        print(flush=True)
        if not result.success:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
