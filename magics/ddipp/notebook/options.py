"""The options of the magics, their help and the errors in them."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from ..errors import DdippError
from ..shared.devices import parse_ids

F = TypeVar("F", bound=Callable[..., Any])


def without_comment(line: str) -> str:
    """Return the line of a magic up to a ``#`` that begins a word outside of quotes."""
    quote = ""
    for index, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and (index == 0 or line[index - 1].isspace()):
            return line[:index].rstrip()
    return line


class Parser(argparse.ArgumentParser):
    """Reports a wrong option in one line instead of ending the process.

    Parameters
    ----------
    prog, description, usage
        As for argparse.
    lists : sequence of str
        Options whose value, a list of ids, may be several words: ``-S 0 1``.
    """

    def __init__(
        self, prog: str, description: str, usage: str | None = None, lists: Sequence[str] = ()
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            usage=usage,
            add_help=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._lists = frozenset(lists)
        # Ours returns; argparse's own would end the process.
        self.add_argument("-h", "--help", action="store_true", help="show this")

    def error(self, message: str) -> NoReturn:
        """Raise a DdippError; argparse calls it."""
        raise DdippError(f"{self.prog}: {message}. {' '.join(self.format_usage().split())}")

    def read(self, line: str) -> argparse.Namespace | None:
        """Return the options of a line; None when it asked for help, which is shown then.

        Raises
        ------
        DdippError
            With one line that says what is wrong.
        """
        try:
            words = self._join_lists(shlex.split(without_comment(line)))
        except ValueError as error:
            raise DdippError(f"{self.prog}: {error}") from None
        if {"-h", "--help"} & set(words):
            print(self.format_help())
            return None
        return self.parse_args(words)

    def _join_lists(self, words: list[str]) -> list[str]:
        """Make one word of the ids that follow an option which takes a list."""
        joined: list[str] = []
        open_list = False
        for word in words:
            if open_list and re.fullmatch(r"[\d,][\d,-]*", word):
                start = "" if joined[-1] in self._lists else joined.pop().rstrip(",") + ","
                joined.append(start + word.lstrip(","))
            else:
                joined.append(word)
                open_list = word in self._lists
        return joined


def documented(make: Callable[[], Parser]) -> Callable[[F], F]:
    """Let a magic's docstring, what ``%name?`` shows, be the help of its options."""

    def set_doc(function: F) -> F:
        function.__doc__ = make().format_help()
        return function

    return set_doc


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


def _rank_or_all(text: str) -> int | None:
    return None if text == "all" else int(text)


def makedip() -> Parser:
    """Return the parser of ``%makedip``."""
    parser = Parser(
        "%makedip",
        "Make a group of ranks, one process for each GPU; show it, change it, end it.",
        lists=("-g", "--gpus", "--renew"),
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-g", "--gpus", help="'all', or GPU ids in rank order, such as 3,1")
    where.add_argument("-n", "--ranks", type=int, metavar="N", help="this many CPU ranks")
    where.add_argument(
        "--attach",
        nargs="?",
        const="",
        metavar="NAME",
        help="take back the group that a notebook has left whose kernel is gone or was restarted",
    )
    where.add_argument(
        "--connect",
        nargs="?",
        const="",
        metavar="FILE",
        help="all engines of a running controller, on any hosts, by its ipcontroller-client.json "
        "[of the default profile]",
    )
    parser.add_argument(
        "-a",
        "--app",
        default="auto",
        help="library to prepare the ranks for [the one that the notebook has imported]",
    )
    parser.add_argument(
        "-t", "--timeout", type=_seconds, default=60.0, help="seconds for the start [60]"
    )
    parser.add_argument(
        "-v",
        "--verbose",
        nargs="?",
        const=True,
        default=False,
        type=_yes_or_no,
        metavar="True",
        help="show the log of the start",
    )
    parser.add_argument(
        "-r",
        "--restart",
        action="store_true",
        help="end the group and start it again, the same or with other options",
    )
    parser.add_argument(
        "--renew",
        nargs="?",
        const="",
        metavar="RANKS",
        help="start these ranks again, the others keep their variables [those that can't go on]",
    )
    parser.add_argument("-k", "--kill", action="store_true", help="end the group")
    parser.add_argument("-i", "--info", action="store_true", help="show the ranks, as %%dipstat")
    parser.add_argument(
        "-w", "--why", action="store_true", help="show what each rank is doing, and where"
    )
    parser.add_argument(
        "--grace",
        type=_seconds,
        help="seconds that peers of a rank that failed may go on computing [10]",
    )
    parser.add_argument(
        "--hang-after",
        type=_seconds,
        help="seconds without progress after which --why is shown by itself, 0 for never [120]",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="start each rank as a new Python, not as a fork of one that has loaded torch",
    )
    parser.add_argument(
        "--linger",
        type=int,
        default=900,
        help="seconds that the ranks, idle, wait for --attach when the notebook is gone [900]",
    )
    return parser


def dip() -> Parser:
    """Return the parser of ``%%dip``."""
    parser = Parser(
        "%%dip",
        "Run the cell on the ranks (remote), in the notebook (local), or in the notebook and then\n"
        "on the ranks (everywhere).",
        usage="%%%%dip [remote|local|everywhere] [options], or %%dip --replay",
        lists=("-S", "--see", "--ranks"),
    )
    parser.add_argument("where", nargs="?", default="remote", help=argparse.SUPPRESS)
    parser.add_argument("-q", "--quiet", action="store_true", help="show errors only")
    parser.add_argument(
        "-S", "--see", help="ranks whose output is shown, such as 0,2, or 'all' [0]"
    )
    parser.add_argument(
        "--ranks", type=parse_ids, help="ranks that run the cell, such as 0,2-3 [all]"
    )
    parser.add_argument("--timeout", type=_seconds, help="interrupt the cell after so many seconds")
    parser.add_argument(
        "-a", "--appcmd", metavar="CODE", help="run this on the ranks before the cell"
    )
    parser.add_argument(
        "--replay", action="store_true", help="show what the last cell has shown once more"
    )
    return parser


def dipull() -> Parser:
    """Return the parser of ``%dipull``."""
    parser = Parser("%dipull", "Get variables of a rank, or of all.")
    parser.add_argument(
        "-r",
        "--rank",
        type=_rank_or_all,
        default=0,
        help="of this rank, or a list by rank: all [0]",
    )
    parser.add_argument(
        "--gather",
        action="store_true",
        help="of all ranks, joined along the first axis: arrays, tensors, lists, DataFrames",
    )
    parser.add_argument("names", nargs="+", help="the variables")
    return parser


def dipsync() -> Parser:
    """Return the parser of ``%dipsync``."""
    parser = Parser(
        "%dipsync",
        "Copy variables of one rank to others. Name a model and its optimizer together. Without\n"
        "names a rank that has died gets all variables that can be copied.",
    )
    parser.add_argument(
        "-f",
        "--from",
        dest="source",
        type=int,
        metavar="RANK",
        help="from this rank [the first that has not lost its variables]",
    )
    parser.add_argument(
        "-t",
        "--to",
        dest="targets",
        type=parse_ids,
        metavar="RANKS",
        help="to these [those that have lost theirs, else all others]",
    )
    parser.add_argument("names", nargs="*", help="the variables")
    return parser
