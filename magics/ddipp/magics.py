"""The magics: ``%makedip``, ``%%dip``, ``%dipush``, ``%dipull``, ``%dipsync``, ``%autodip``."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Iterator
from typing import Any, NoReturn

from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class

from .autodip import directed_lines
from .devices import parse_ids
from .display import text_table
from .errors import DdippError
from .group import Group
from .report import table as report_table


class _Parser(argparse.ArgumentParser):
    """Reports a wrong option in one line instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise DdippError(f"{self.prog}: {message}. {self.format_usage().strip()}")

    def read(self, line: str) -> argparse.Namespace:
        try:
            return self.parse_args(shlex.split(line))
        except ValueError as error:
            raise DdippError(f"{self.prog}: {error}") from None


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return seconds


def _yes_or_no(text: str) -> bool:
    if text.lower() in ("true", "yes", "on", "1"):
        return True
    if text.lower() in ("false", "no", "off", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def _makedip_parser() -> _Parser:
    parser = _Parser(prog="%makedip", add_help=False)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-g", "--gpus", help="'all' or GPU ids in rank order, such as 3,1")
    where.add_argument("-n", "--ranks", type=int, help="number of CPU ranks")
    parser.add_argument("-a", "--app", default="torch", help="client library to prepare")
    parser.add_argument("-v", "--verbose", nargs="?", const=True, default=False, type=_yes_or_no)
    parser.add_argument("-i", "--info", action="store_true", help="show the ranks")
    parser.add_argument("-k", "--kill", action="store_true", help="end the group")
    parser.add_argument("-r", "--restart", action="store_true", help="end and start the group")
    parser.add_argument("-t", "--timeout", type=float, default=60.0, help="seconds for the start")
    parser.add_argument("-w", "--why", action="store_true", help="show what each rank is doing")
    parser.add_argument("--grace", type=_seconds, help="seconds that peers of a failed rank have")
    parser.add_argument("--hang-after", type=_seconds, help="seconds without progress; 0: never")
    return parser


def _dip_parser() -> _Parser:
    parser = _Parser(prog="%%dip", add_help=False)
    parser.add_argument("where", nargs="?", default="remote")
    parser.add_argument("-q", "--quiet", action="store_true", help="show errors only")
    parser.add_argument("-S", "--see", help="ranks whose output is shown, or 'all'")
    parser.add_argument("--ranks", type=parse_ids, help="ranks that run the cell")
    parser.add_argument("--timeout", type=_seconds, help="seconds after which it is interrupted")
    parser.add_argument("-a", "--appcmd", help="code that runs on the ranks before the cell")
    parser.add_argument("--replay", action="store_true", help="show the last cell's output again")
    return parser


PLACES = {
    "remote": "remote",
    "remotely": "remote",
    "local": "local",
    "locally": "local",
    "everywhere": "everywhere",
}


@magics_class
class DdippMagics(Magics):
    """Directs cells to the notebook or to a group of ranks."""

    shell: Any

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self.group: Group | None = None
        self._last_start: dict[str, Any] | None = None
        self._autodip_flags: str | None = None
        self._suspended = False
        shell.input_transformers_cleanup.append(self._transform)

    def unload(self) -> None:
        """End the group and leave IPython as it was."""
        self.shell.input_transformers_cleanup.remove(self._transform)
        self._end_group()

    # --- the group ---------------------------------------------------------------------------

    @line_magic
    def makedip(self, line: str) -> None:
        """Make, show or end a group.

        ``%makedip -g all`` on all GPUs, ``-g 3,1`` on some, ``-n 2`` on two CPU ranks; ``-a app``,
        ``-t seconds``, ``-v``; ``-i`` shows the ranks, ``-k`` ends them, ``-r`` starts them again;
        ``--why`` shows what each rank is doing. ``--grace`` is how long peers of a rank that failed
        may go on computing (10 s), ``--hang-after`` after how long without progress ``--why`` is
        shown by itself (120 s, 0 for never); both also change a group that is there.
        """
        args = _makedip_parser().read(line)
        if args.kill:
            return self._kill()
        asked = args.gpus is not None or args.ranks is not None
        if not asked and not args.restart:
            shown = args.info or args.why or args.grace is not None or args.hang_after is not None
            if shown:
                return self._adjust(args)
        if asked:
            start = {"gpus": args.gpus, "ranks": args.ranks, "app": args.app}
        elif args.restart and self._last_start is not None:
            start = self._last_start
        else:
            raise DdippError("say where: %makedip -g all (GPUs) or %makedip -n 2 (CPU ranks)")
        if self.group is not None and not args.restart:
            raise DdippError(
                f"there is a group of {self.group.world_size} ranks; end it with %makedip -k or "
                "replace it with -r"
            )
        self._end_group()
        self.group = Group.start(**start, timeout_s=args.timeout, verbose=args.verbose)
        self._last_start = start
        print(self._describe(self.group))
        self._adjust(args)

    def _adjust(self, args: argparse.Namespace) -> None:
        """Do what is asked of a group that is there."""
        group = self._need_group()
        if args.grace is not None:
            group.grace_s = args.grace
        if args.hang_after is not None:
            group.hang_after_s = args.hang_after or None
        if args.info:
            self._info()
        if args.why:
            print(report_table(group.reports()))

    @staticmethod
    def _describe(group: Group) -> str:
        device = "CPU" if group.gpus is None else f"GPU {', '.join(map(str, group.gpus))}"
        word = "rank" if group.world_size == 1 else "ranks"
        return f"ddipp: {group.world_size} {word} on {device}, {group.backend}, app {group.app}"

    def _kill(self) -> None:
        if self.group is None:
            raise DdippError("there is no group to end")
        ranks = self.group.world_size
        self._end_group()
        print(f"ddipp: ended {ranks} ranks")

    def _end_group(self) -> None:
        if self.group is not None:
            group, self.group = self.group, None
            group.shutdown()

    def _info(self) -> None:
        rows = self._need_group().status()
        columns = ["rank", "host", "pid", "device", "memory", "group"]
        table = [columns] + [
            [str(rank), *(str(row[name]) for name in columns[1:])] for rank, row in enumerate(rows)
        ]
        print("\n".join(text_table(table)))

    def _need_group(self) -> Group:
        if self.group is None:
            raise DdippError("there is no group; make one with %makedip -g all or %makedip -n 2")
        return self.group

    # --- cells -------------------------------------------------------------------------------

    @line_cell_magic
    def dip(self, line: str, cell: str | None = None) -> None:
        """Run the cell on the ranks (``remote``), here (``local``), or here and then there
        (``everywhere``).

        ``-q`` shows errors only, ``-S 0,2`` or ``-S all`` whose output to show (rank 0's),
        ``--ranks 0,2-3`` where to run it, ``--timeout seconds`` how long it may take, ``-a "code"``
        what to run on the ranks before it. ``%dip --replay`` shows the last output again.
        """
        args = _dip_parser().read(line)
        place = PLACES.get(args.where)
        if place is None:
            raise DdippError(f"%%dip {args.where}: say remote, local or everywhere")
        if place != "local":
            group = self._need_group()
            see = self._ranks_to_see(args, group)
        if args.replay:
            return self._need_group().replay(self._ranks_to_see(args, self._need_group()))
        if cell is None:
            raise DdippError("%dip --replay, or %%dip above the code that is to run on the ranks")
        if place in ("local", "everywhere"):
            with self._without_autodip():
                result = self.shell.run_cell(cell)
            if not result.success:
                raise DdippError(
                    "the cell failed here"
                    + ("; it was not run on the ranks" if place == "everywhere" else "")
                )
        if place in ("remote", "everywhere"):
            options = {"see": see, "quiet": args.quiet, "ranks": args.ranks}
            if args.appcmd:
                group.run(args.appcmd, **options)
            group.run(cell, timeout_s=args.timeout, **options)

    @staticmethod
    def _ranks_to_see(args: argparse.Namespace, group: Group) -> list[int] | None:
        if args.see is None:
            return [args.ranks[0]] if args.ranks else [0]
        see = None if args.see.lower() == "all" else parse_ids(args.see)
        unknown = [rank for rank in [*(see or []), *(args.ranks or [])] if rank >= group.world_size]
        if unknown:
            raise DdippError(
                f"there is no rank {unknown[0]}; the group has ranks 0-{group.world_size - 1}"
            )
        return see

    @line_magic
    def dipper(self, line: str) -> None:
        """``%dipper name``: give the group object, a :class:`ddipp.Group`, that name here."""
        name = line.strip()
        if not name.isidentifier():
            raise DdippError("which name? %dipper name")
        self.shell.user_ns[name] = self._need_group()

    @line_magic
    def autodip(self, line: str) -> None:
        """``%autodip on [flags of %%dip]`` directs all cells to the ranks, ``off`` ends it."""
        word, _, flags = line.strip().partition(" ")
        if word == "on":
            self._need_group()
            _dip_parser().read(flags)
            self._autodip_flags = flags.strip()
            print(f"ddipp: cells run on the ranks; those with {'#dip_locally'} stay here")
        elif word == "off":
            self._autodip_flags = None
            print("ddipp: cells run in the notebook")
        else:
            raise DdippError("%autodip on, or %autodip off")

    def _transform(self, lines: list[str]) -> list[str]:
        if self._autodip_flags is None or self._suspended:
            return lines
        return directed_lines(lines, self._autodip_flags)

    @contextlib.contextmanager
    def _without_autodip(self) -> Iterator[None]:
        self._suspended = True
        try:
            yield
        finally:
            self._suspended = False

    # --- variables ---------------------------------------------------------------------------

    @line_magic
    def dipush(self, line: str) -> None:
        """``%dipush a b``: set variables of the notebook on all ranks."""
        names = line.replace(",", " ").split()
        if not names:
            raise DdippError("which variables? %dipush name [name ...]")
        group = self._need_group()
        missing = [name for name in names if name not in self.shell.user_ns]
        if missing:
            raise DdippError(
                f"the notebook has no variable {', '.join(missing)}; nothing was pushed"
            )
        group.push({name: self.shell.user_ns[name] for name in names})

    @line_magic
    def dipull(self, line: str) -> None:
        """``%dipull [-r rank] a b``: get variables of a rank, of rank 0 by default."""
        parser = _Parser(prog="%dipull", add_help=False)
        parser.add_argument("-r", "--rank", type=int, default=0)
        parser.add_argument("names", nargs="+")
        args = parser.read(line.replace(",", " "))
        self.shell.user_ns.update(self._need_group().pull(args.names, args.rank))

    @line_magic
    def dipsync(self, line: str) -> None:
        """``%dipsync [-f rank] [-t ranks] [a b]``: copy variables of one rank to others.

        From the first rank that has not lost its variables, to those that have or else to all
        others. Without names all that can be copied. Name a model and its optimizer together.
        """
        parser = _Parser(prog="%dipsync", add_help=False)
        parser.add_argument("-f", "--from", dest="source", type=int)
        parser.add_argument("-t", "--to", dest="targets", type=parse_ids)
        parser.add_argument("names", nargs="*")
        # Only names are separated by commas as well as by spaces.
        args = parser.read(line)
        names = [name for text in args.names for name in text.split(",") if name]
        done = self._need_group().sync(names or None, args.source, args.targets)
        targets = ", ".join(map(str, done["targets"]))
        print(f"ddipp: {', '.join(done['names'])}: from rank {done['source']} to {targets}")
        for name, why in done["skipped"].items():
            print(f"ddipp: not copied: {name} ({why})")
