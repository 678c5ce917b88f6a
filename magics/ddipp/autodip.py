"""Directs every cell to the group, except those that ask to stay."""

from __future__ import annotations

#: A cell with this comment on a line of its own runs in the notebook.
LOCAL_MARK = "#dip_locally"

#: Cells that begin with one of these are for the notebook by their nature.
OWN_MAGICS = (
    "%makedip",
    "%dipstat",
    "%dipush",
    "%dipull",
    "%dipsync",
    "%dipper",
    "%dip ",
    "%autodip",
    "%load_ext",
    "%reload_ext",
)


def directed_lines(lines: list[str], flags: str) -> list[str]:
    """Put ``%%dip`` in front of a cell unless it names its place itself.

    Parameters
    ----------
    lines : list of str
        The cell as IPython's transformers take it, line ends included.
    flags : str
        Passed on to ``%%dip``.
    """
    text = [line.strip() for line in lines]
    first = next((line for line in text if line), "")
    if not first or first.startswith("%%") or LOCAL_MARK in text or first.startswith(OWN_MAGICS):
        return lines
    return [f"%%dip remote {flags}".rstrip() + "\n", *lines]
