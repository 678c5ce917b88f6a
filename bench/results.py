"""What is kept of a run: build/bench.json, row by row, and the table of the document."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "build" / "bench.json"
DOCUMENT = ROOT / "docs" / "performance.md"
#: The lines of the document between which the table stands.
BEGIN, END = "<!-- from build/bench.json -->", "<!-- end of build/bench.json -->"
#: A row was measured beside other work when that took more of the cores than this.
BUSY = 0.1


def commit() -> str:
    """Return the commit that is measured, with a + when files differ from it."""
    git = ["git", "-C", str(ROOT)]
    name = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True)
    changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"])
    return name.strip() + ("+" if changed.strip() else "")


def machine() -> str:
    """Return the processor, its cores and the system, in a few words."""
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


class Load:
    """How much of the machine others use while a row is measured.

    What the row's own processes use counts as theirs: this process and its ended children.
    """

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._busy, self._stolen = self._ticks()
        self._own = self._own_seconds()

    @staticmethod
    def _ticks() -> tuple[float, float]:
        user, nice, system, _, _, irq, softirq, steal = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        hertz = os.sysconf("SC_CLK_TCK")
        return (user + nice + system + irq + softirq) / hertz, steal / hertz

    @staticmethod
    def _own_seconds() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system

    def shares(self) -> dict[str, float]:
        """Return the shares of the cores that other work and the hypervisor have taken."""
        seconds = max(time.monotonic() - self._begin, 0.001) * (os.cpu_count() or 1)
        busy, stolen = self._ticks()
        others = busy - self._busy - (self._own_seconds() - self._own)
        return {
            "others": round(max(others, 0.0) / seconds, 3),
            "steal": round((stolen - self._stolen) / seconds, 3),
        }


def is_loaded(shares: dict[str, float]) -> bool:
    """Return whether a measurement says more of the machine than of what was measured."""
    return max(shares.values()) > BUSY


def read() -> list[dict[str, Any]]:
    """Return the rows of the last run, none when there was none."""
    try:
        rows: list[dict[str, Any]] = json.loads(FILE.read_text())
    except (FileNotFoundError, ValueError):
        return []
    return rows


def write(rows: list[dict[str, Any]]) -> None:
    """Keep the rows, all or none of them whoever ends this process."""
    FILE.parent.mkdir(exist_ok=True)
    new = FILE.with_suffix(".new")
    new.write_text(json.dumps(rows, indent=1) + "\n")
    new.replace(FILE)


def stamp() -> dict[str, str]:
    """Return when, where and what is measured."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "commit": commit(),
    }


# --- the document ----------------------------------------------------------------------------

HEAD = (
    "| row | unit | ours | stock | ratio | ceiling | target | | measured |",
    "|---|---|---|---|---|---|---|---|---|",
)


def number(value: float | None) -> str:
    """Return a value as the table shows it."""
    if value is None:
        return ""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}".replace(",", " ")


def table_row(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    met = {True: "met", False: "missed", None: ""}[row["met"]]
    measured = f"{row['date']}, {row['commit']}"
    if is_loaded(row["load"]):
        measured += ", on a loaded machine"
    cells = [
        row["name"], row["unit"], number(row["ours"]), number(row["stock"]), number(row["ratio"]),
        number(row["ceiling"]), row["target"], met, measured,
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def merged(text: str, rows: list[dict[str, Any]]) -> str:
    """Return the document with these rows in its table, new ones at its end."""
    before, rest = text.split(BEGIN, 1)
    old, after = rest.split(END, 1)
    lines = {
        line.split("|")[1].strip(): line
        for line in old.splitlines()
        if line.startswith("| ") and not line.startswith("| row ")
    }
    lines.update({row["name"]: table_row(row) for row in rows})
    machines = sorted({row["machine"] for row in rows})
    where = f"The last rows are of {'; '.join(machines)}.\n\n" if rows else ""
    body = "\n".join([*HEAD, *lines.values()])
    return f"{before}{BEGIN}\n{where}{body}\n{END}{after}"


def write_document(rows: list[dict[str, Any]]) -> None:
    """Put the rows into docs/performance.md."""
    DOCUMENT.write_text(merged(DOCUMENT.read_text(), rows))
