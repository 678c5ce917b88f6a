"""What each rank is doing, as the io thread of its engine says while Python may be stuck."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..shared.text import text_table

_FRAME = re.compile(r'\s*File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)')
_CELL = re.compile(r"/ipykernel_\d+/\d+\.py$")
#: Where the user's code ends and the engine's begins.
_ENGINE = re.compile(r"IPython/core/|/ddipp_engine/|/ipykernel/|/asyncio/")


@dataclass
class RankReport:
    """The state of one rank.

    Attributes
    ----------
    rank : int
        Which.
    host, pid : str, int
        Where it runs; ``""`` and 0 for a rank that does not answer.
    state : str
        ``"idle"``, ``"busy"``, ``"dead"`` or ``"no answer"``.
    seconds : float
        How long it has been busy.
    title : str
        The first line of the cell that it runs.
    memory : int
        Bytes of main memory.
    collective : str
        Name of the collective that it waits in, or of the last one; ``""`` when there was none.
    number : int
        Of that collective in this generation, 0 for send and recv.
    elements : int
        Of its tensors.
    waiting : bool
        Whether it has not ended.
    age : float
        Seconds since it began, if waiting; else since it ended.
    generation : int
        Of the group that it is in; -1 for none.
    collectives : int
        Started in this generation.
    finished : int
        All up to this number have ended; once the group was aborted: had ended then.
    gloo_wait : float
        Seconds that the longest of its present waits in Gloo has lasted; 0 for none.
    aborting : int
        Aborts that have not returned.
    cut : bool
        Whether its group was cut.
    unanswered : float
        Seconds since an interrupt after which its Python has not run yet; 0 for none.
    stack : list of str
        Frames of the main thread, innermost first; those of the engine left out.
    gpu : dict or None
        ``memory_used`` and ``memory_total`` in bytes, ``utilisation`` in percent.
    """

    rank: int
    state: str
    seconds: float = 0.0
    host: str = ""
    pid: int = 0
    title: str = ""
    memory: int = 0
    collective: str = ""
    number: int = 0
    elements: int = 0
    waiting: bool = False
    age: float = 0.0
    generation: int = -1
    collectives: int = 0
    finished: int = 0
    gloo_wait: float = 0.0
    aborting: int = 0
    cut: bool = False
    unanswered: float = 0.0
    stack: list[str] = field(default_factory=list)
    gpu: dict[str, Any] | None = None

    @classmethod
    def read(cls, rank: int, content: dict[str, Any]) -> RankReport:
        """Make one from the content of a ``ddipp_report_reply``."""
        last = content.get("collective") or {}
        return cls(
            rank=rank,
            state=content["state"],
            seconds=content["seconds"],
            host=content["host"],
            pid=content["pid"],
            title=content["title"],
            memory=content["memory"],
            generation=content["generation"],
            collective=last.get("name", ""),
            number=last.get("number", 0),
            elements=last.get("elements", 0),
            waiting=last.get("waiting", False),
            age=last.get("age", 0.0),
            collectives=content["collectives"],
            finished=content["finished"],
            gloo_wait=content["gloo_wait"],
            aborting=content["aborting"],
            cut=content.get("cut", False),
            unanswered=content.get("unanswered", 0.0),
            stack=parse_stack(content["stack"]) if content["state"] == "busy" else [],
            gpu=content["gpu"],
        )

    @property
    def call(self) -> str:
        """The collective as users know it: ``"all_reduce #118"``."""
        return f"{self.collective} #{self.number}" if self.number else self.collective


def parse_stack(text: str) -> list[str]:
    """Read what ``faulthandler`` has written and keep the user's part of it.

    Parameters
    ----------
    text : str
        Frames, innermost first.
    """
    frames = []
    for match in map(_FRAME.match, text.splitlines()):
        if match is None:
            continue
        file, line, function = match["file"], match["line"], match["function"]
        if _CELL.search(file):
            frames.append(f"cell, line {line}, in {function}")
        elif _ENGINE.search(file):
            break
        else:
            frames.append(f"{os.path.basename(file)}:{line}, in {function}")
    return frames


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _doing(report: RankReport) -> str:
    if not report.collective:
        return "none yet"
    verb = "waits in" if report.waiting else "last was"
    ago = duration(report.age) + ("" if report.waiting else " ago")
    size = f", {report.elements:,} elements" if report.elements else ""
    return f"{verb} {report.call} ({ago}{size})"


def _gpu(report: RankReport) -> str:
    if report.gpu is None:
        return "-"
    used, total = (report.gpu[f"memory_{which}"] / 2**30 for which in ("used", "total"))
    return f"{used:.1f}/{total:.1f} GiB, {report.gpu['utilisation']} %"


def table(reports: Sequence[RankReport], frames: int = 4) -> str:
    """Return one table, a row a rank, its stack below.

    Parameters
    ----------
    reports : sequence of RankReport
        By rank.
    frames : int
        How many frames of each stack to show.
    """
    rows = [["rank", "state", "collective", "GPU"]]
    for report in reports:
        busy = f" {duration(report.seconds)}" if report.state == "busy" else ""
        rows.append([str(report.rank), report.state + busy, _doing(report), _gpu(report)])
    header, *lines = text_table(rows)
    shown = [header]
    for report, line in zip(reports, lines):
        shown.append(line)
        # The innermost frame of the cell is what users look for; calls into libraries lead there.
        shown.extend(f"      {frame}" for frame in report.stack[:frames])
        cell = [frame for frame in report.stack[frames:] if frame.startswith("cell,")]
        shown.extend(f"      … {frame}" for frame in cell[:1])
    return "\n".join(shown)
