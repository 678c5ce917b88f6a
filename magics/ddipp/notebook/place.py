"""Where code that a magic was given stands in the cell that the person has typed."""

from __future__ import annotations

from typing import Any

from ..shared.wire import CellPlace


def place_of(shell: Any, code: str) -> CellPlace | None:
    """Return the number of the cell that runs, and its lines above some code of it.

    Parameters
    ----------
    shell : InteractiveShell
        Of the notebook.
    code : str
        The end of the cell.

    Returns
    -------
    CellPlace or None
        None where the code is not a part of it.
    """
    history = shell.history_manager.input_hist_raw
    cell = history[-1].rstrip() if history else ""
    code = code.rstrip()
    if not code or not cell.endswith(code):
        return None
    # Whether execution_count is that of this cell or of the next depends on the version.
    return CellPlace(len(history) - 1, tuple(cell[: -len(code)].splitlines()))
