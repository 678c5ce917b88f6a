"""The table of ranks: as text, as HTML, and as one that lives in a notebook."""

from __future__ import annotations

import contextlib
import html
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ..group.report import RankReport, duration
from ..shared.text import text_table
from .display import has_front_end

HEADER = ("rank", "host", "pid", "device", "memory", "use", "state", "cell", "collective")
_COLOURS = {"idle": "#2da44e", "busy": "#e8871e", "dead": "#cf222e", "no answer": "#cf222e"}

_CUT = (
    "display:inline-block;max-width:18em;overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
)


def rows(reports: Sequence[RankReport], devices: Sequence[str]) -> list[list[str]]:
    """Return a row of texts for each rank, in the order of ``HEADER``.

    Parameters
    ----------
    reports : sequence of RankReport
        By rank.
    devices : sequence of str
        The device of each rank, by rank.
    """
    return [
        [
            str(report.rank),
            report.host,
            str(report.pid or ""),
            devices[report.rank],
            _memory(report),
            "" if report.gpu is None else f"{report.gpu['utilisation']} %",
            _state(report),
            report.title,
            _collective(report),
        ]
        for report in reports
    ]


def _memory(report: RankReport) -> str:
    if report.gpu is not None:
        used, total = (report.gpu[f"memory_{which}"] / 2**30 for which in ("used", "total"))
        return f"{used:.1f} / {total:.1f} GiB"
    return f"{report.memory / 2**30:.2f} GiB" if report.memory else ""


def _state(report: RankReport) -> str:
    return f"busy {duration(report.seconds)}" if report.state == "busy" else report.state


def _collective(report: RankReport) -> str:
    if not report.collective:
        return ""
    waits = report.waiting and report.age >= 1  # less is what a training does all the time
    return f"{report.call}, waits {duration(report.age)}" if waits else report.call


def as_text(reports: Sequence[RankReport], devices: Sequence[str]) -> str:
    """Return the table in columns; those that are empty are left out."""
    return "\n".join(text_table(_full_columns(rows(reports, devices))))


def _full_columns(body: list[list[str]]) -> list[list[str]]:
    kept = [column for column in range(len(HEADER)) if any(row[column] for row in body)]
    return [[row[column] for column in kept] for row in [list(HEADER), *body]]


def as_html(reports: Sequence[RankReport], devices: Sequence[str], note: str = "") -> str:
    """Return the table for a notebook.

    Parameters
    ----------
    reports, devices
        As for :func:`rows`.
    note : str
        Below the table.
    """
    header, *body = _full_columns(rows(reports, devices))
    head = "".join(f"<th style='text-align:left'>{name}</th>" for name in header)
    lines = []
    for report, row in zip(reports, body):
        cells = dict(zip(header, map(html.escape, row)))
        cells["state"] = (
            f"<span style='color:{_COLOURS.get(report.state, 'inherit')}'>&#9679;</span> "
            f"{cells['state']}"
        )
        if "cell" in cells:
            cells["cell"] = f"<code style='{_CUT}'>{cells['cell']}</code>" if cells["cell"] else ""
        data = "".join(
            f"<td style='text-align:left;white-space:nowrap;{_bar(report, name)}'>{text}</td>"
            for name, text in cells.items()
        )
        lines.append(f"<tr>{data}</tr>")
    below = f"<div style='opacity:0.6'>{html.escape(note)}</div>" if note else ""
    return (
        "<div class='ddipp-status'><table><thead><tr>"
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>{below}</div>"
    )


def _bar(report: RankReport, column: str) -> str:
    """Fill a cell of the table in proportion to what it tells."""
    if report.gpu is None or column not in ("memory", "use"):
        return ""
    part = (
        report.gpu["memory_used"] / max(1, report.gpu["memory_total"])
        if column == "memory"
        else report.gpu["utilisation"] / 100
    )
    return f"background:linear-gradient(90deg,#2da44e44 {100 * part:.0f}%,transparent 0)"


class LiveTable:
    """Shows the ranks in a notebook and keeps what it shows up to date, also while a cell runs.

    Parameters
    ----------
    reports : callable
        Returns a report for each rank; called from a thread.
    devices : sequence of str
        As for :func:`rows`.
    """

    _PERIOD_S = 1.0

    def __init__(self, reports: Callable[[], list[RankReport]], devices: Sequence[str]) -> None:
        self._reports = reports
        self._devices = devices
        self._ended = threading.Event()
        self._handle: Any = None
        self._events: Any = None
        self._own_cell = True
        self._shown = ""
        self._thread = threading.Thread(target=self._run, name="ddipp-status", daemon=True)

    def show(self) -> None:
        """Show the table, as text once where there is no notebook."""
        if not has_front_end():
            print(as_text(self._reports(), self._devices))
            return
        from IPython import get_ipython
        from IPython.display import display

        self._handle = display(self._picture(self._reports()), raw=True, display_id=True)
        self._thread.start()
        self._events = get_ipython().events
        self._events.register("post_run_cell", self._after_cell)

    def _after_cell(self, _: Any = None) -> None:
        """Show how the ranks are after each cell: what executes a notebook reads no later."""
        if self._own_cell:
            self._own_cell = False
            return
        with contextlib.suppress(Exception):
            self._update()

    def end(self, note: str) -> None:
        """Show the ranks for the last time, with a note below."""
        if self._handle is None or self._ended.is_set():
            return
        self._ended.set()
        with contextlib.suppress(ValueError):  # the shell has forgotten it
            self._events.unregister("post_run_cell", self._after_cell)
        self._thread.join(2)
        with contextlib.suppress(Exception):  # ranks that don't answer are shown as they were
            self._last = self._reports()
        self._update(note)

    def _picture(self, reports: list[RankReport], note: str = "") -> dict[str, str]:
        self._shown = as_html(reports, self._devices, note)
        self._last = reports
        return {"text/html": self._shown, "text/plain": as_text(reports, self._devices)}

    def _update(self, note: str = "") -> None:
        before = self._shown
        picture = self._picture(self._last if note else self._reports(), note)
        if self._shown != before:
            self._handle.update(picture, raw=True)

    def _run(self) -> None:
        while not self._ended.wait(self._PERIOD_S):
            # The client may be closed at any moment, and nobody could read a traceback from here.
            with contextlib.suppress(Exception):
                self._update()
