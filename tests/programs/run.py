"""``make programs``: what people run goes on after a fault, with the results of a run without.

Each program of ``cases/`` runs a few steps on real ranks, meets a fault, is put back to where it
was before the step, goes on with the *same objects*, meets another fault, and goes on again. What
it holds then has to equal what a run without faults holds. After a death variables are copied from
another rank; what can't be is made anew on all ranks, if a line says so.

Writes ``build/programs.json``, and with ``--table`` the table in ``docs/group.md``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ddipp

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIMIT_S = 60.0  # of a cell: what takes longer hangs
STEPS = 2  # of a cell

#: Pairs of faults, the second after the recovery from the first.
QUICK = [
    (("raise", "forward"), ("raise", "backward")),
    (("interrupt", "backward"), ("raise", "before")),
    (("kill", "backward"), ("raise", "forward")),
]
FULL = [
    *QUICK,
    (("raise", "backward"), ("raise", "forward")),
    (("raise", "before"), ("interrupt", "forward")),
    (("raise", "optimizer"), ("raise", "after")),
    (("interrupt", "forward"), ("interrupt", "optimizer")),
    (("kill", "forward"), ("kill", "backward")),
    (("raise", "backward"), ("kill", "optimizer")),
]

#: In the quick part, which CI runs.
QUICK_PROGRAMS = (
    "compiled_ddp",
    "ddp",
    "ddp_several",
    "ddp_static_graph",
    "fsdp1",
    "fsdp2",
    "fsdp2_accumulate",
    "init_twice",
    "lightning_ddp",
    "new_group",
    "tensor_parallel",
    "workers_of_cells",
    "zero",
)


class Wrong(Exception):
    """A program did not go on as it should."""


@dataclass
class Outcome:
    """Of a program and a pair of faults."""

    program: str
    title: str
    ranks: int
    faults: list[str]
    result: str  # "goes on", "made anew", "failed"
    note: str
    seconds: float


@dataclass
class Program:
    """One file of ``cases/``."""

    name: str
    title: str
    ranks: int
    code: str
    skips: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Program:
        code = path.read_text()
        ranks = re.search(r"^# ranks: (\d+)$", code, re.M)
        skips = re.search(r"^# without: (.+)$", code, re.M)
        return cls(
            path.stem,
            code.splitlines()[0].removeprefix("# "),
            int(ranks[1]) if ranks else 2,
            code,
            tuple(skips[1].split(", ")) if skips else (),
        )


class Session:
    """A group of ranks, which is started again when a program has broken it."""

    def __init__(self) -> None:
        self._group: ddipp.Group | None = None
        self.shown: list[str] = []

    def group(self, ranks: int) -> ddipp.Group:
        if self._group is not None and self._group.world_size != ranks:
            self.close()
        if self._group is None:
            self._group = ddipp.Group.start(ranks=ranks)
        return self._group

    def close(self) -> None:
        if self._group is not None:
            self._group.shutdown()
        self._group = None

    def cell(self, ranks: int, code: str) -> None:
        """Run a cell that has to succeed."""
        try:
            self.group(ranks).run(code, see=[], timeout_s=LIMIT_S)
        except ddipp.DdippError as error:
            last = (getattr(error, "_traceback", None) or [""])[-1]
            raise Wrong(f"{error}; {last.strip().splitlines()[-1] if last else ''}") from None

    def fail(self, ranks: int, code: str, interrupt: bool) -> None:
        """Run a cell that meets a fault."""
        began = time.monotonic()
        timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
        if interrupt:
            timer.start()
        try:
            self.group(ranks).run(code, see=[], timeout_s=LIMIT_S)
        except ddipp.DdippError:
            pass
        except KeyboardInterrupt:
            pass
        else:
            raise Wrong("the cell did not fail")
        finally:
            timer.cancel()
        if time.monotonic() - began > LIMIT_S:
            raise Wrong("the failed cell did not end")


def _begin(session: Session, program: Program) -> None:
    session.cell(program.ranks, (HERE / "prelude.py").read_text())
    session.cell(program.ranks, program.code)


def _report(session: Session, program: Program) -> list[Any]:
    session.cell(program.ranks, "what_it_holds = report()")
    group = session.group(program.ranks)
    return [group.pull(["what_it_holds"], rank)["what_it_holds"] for rank in range(program.ranks)]


def expected(session: Session, program: Program) -> list[Any]:
    """Return what each rank holds after a run without a fault."""
    _begin(session, program)
    for begin in range(0, 3 * STEPS, STEPS):
        session.cell(program.ranks, f"run({begin}, {begin + STEPS})")
    return _report(session, program)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float):
        return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-5)
    return bool(one == other)


def _after_death(session: Session, program: Program) -> str:
    """Give the restarted rank its variables; returns why the objects were made anew, or ``""``."""
    group = session.group(program.ranks)
    copied = group.sync()
    own = set(re.findall(r"^(\w+) = ", program.code, re.M)) | {"step", "saved", "run"}
    missing = {name: why for name, why in copied["skipped"].items() if name in own}
    if not missing:
        return ""
    _begin(session, program)
    name, why = next(iter(missing.items()))
    return f"{name}: {why.splitlines()[0][:200]}"


def _try(session: Session, program: Program, faults: Any, goal: list[Any]) -> tuple[str, str]:
    _begin(session, program)
    note = ""
    begin = 0
    session.cell(program.ranks, f"run({begin}, {begin + STEPS})")
    for kind, place in faults:
        begin += STEPS
        arm = f"arm({kind!r}, {place!r})\nrun({begin}, {begin + STEPS})"
        session.fail(program.ranks, arm, kind == "interrupt")
        if kind == "kill" and (why := _after_death(session, program)):
            note, begin = why, -STEPS
            for again in range(0, 2 * STEPS, STEPS):
                session.cell(program.ranks, f"run({again}, {again + STEPS})")
            begin = STEPS
            continue
        session.cell(program.ranks, f"heal()\nrun({begin}, {begin + STEPS})")
    for missing in range(begin + STEPS, 3 * STEPS, STEPS):
        session.cell(program.ranks, f"run({missing}, {missing + STEPS})")
    found = _report(session, program)
    if any(kind == "kill" for kind, _ in faults):  # what it noted itself came from another rank
        found, goal = [one[1] for one in found], [one[1] for one in goal]
    if not _same(found, goal):
        raise Wrong(f"holds {found}, and {goal} without a fault")
    return ("made anew" if note else "goes on"), note


def check(session: Session, program: Program, pairs: Any) -> list[Outcome]:
    """Try a program with pairs of faults."""
    outcomes = []
    goal: list[Any] = []
    for faults in pairs:
        names = [f"{kind} {place}" for kind, place in faults]
        if any(kind in program.skips or place in program.skips for kind, place in faults):
            continue
        began = time.monotonic()
        try:
            goal = goal or expected(session, program)
            result, note = _try(session, program, faults, goal)
        except (Wrong, ddipp.DdippError, KeyboardInterrupt) as error:
            result, note = "failed", str(error)[:600]
            session.close()
        except Exception as error:
            result, note = "failed", f"{type(error).__name__}: {error}"[:600]
            session.close()
        outcomes.append(
            Outcome(
                program.name,
                program.title,
                program.ranks,
                names,
                result,
                note,
                round(time.monotonic() - began, 1),
            )
        )
        print(f"{result:10} {program.name}: {', then '.join(names)} {note}", flush=True)
    return outcomes


# --- the table ------------------------------------------------------------------------------------


def hardest(faults: list[str]) -> str:
    """Return the kind of a pair's fault that takes most away."""
    return next(
        kind
        for kind in ("kill", "interrupt", "raise")
        if any(name.startswith(kind) for name in faults)
    )


def table(outcomes: list[Outcome]) -> str:
    """Return the table for ``docs/group.md``."""
    lines = ["| program | raises | Ctrl-C | kill -9 |", "|---|---|---|---|"]
    for title in dict.fromkeys(one.title for one in outcomes):
        row = [title]
        for kind in ("raise", "interrupt", "kill"):
            results = {
                one.result for one in outcomes if one.title == title and hardest(one.faults) == kind
            }
            word = next(
                (w for w in ("failed", "made anew", "goes on") if w in results), "not tried"
            )
            row.append(word)
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the chosen programs; the exit status says whether all went on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("programs", nargs="*", help="names of files in cases/; all if none")
    parser.add_argument("--quick", action="store_true", help="the part that CI runs")
    parser.add_argument("--table", action="store_true", help="write the table in docs/group.md")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "programs.json")
    options = parser.parse_args()
    names = options.programs or sorted(path.stem for path in (HERE / "cases").glob("*.py"))
    if options.quick and not options.programs:
        names = [name for name in names if name in QUICK_PROGRAMS]
    programs = [Program.read(HERE / "cases" / f"{name}.py") for name in names]
    programs.sort(key=lambda one: one.ranks)
    session, outcomes = Session(), []
    try:
        for program in programs:
            outcomes += check(session, program, QUICK if options.quick else FULL)
    finally:
        session.close()
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps([asdict(one) for one in outcomes], indent=1) + "\n")
    if options.table:
        page = ROOT / "docs" / "group.md"
        begin, end = "<!-- programs: begin -->\n", "<!-- programs: end -->"
        before, _, rest = page.read_text().partition(begin)
        after = rest.partition(end)[2]
        page.write_text(f"{before}{begin}{table(outcomes)}{end}{after}")
    failed = [one for one in outcomes if one.result == "failed"]
    print(f"{len(outcomes)} pairs of faults, {len(failed)} failed; {options.out}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
