"""Completion and help for names that exist on the ranks only.

In a cell for the ranks the completer asks rank 0, and what front ends show when the pointer rests
on a name, or for Shift-Tab, comes from there. Both only while the rank is idle, and never for long.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..group.group import Group
    from .autodip import Autodip

#: What a person would wait for a list of names, in seconds.
PATIENCE_S = 1.0
#: More names than anybody reads.
LIMIT = 300


# --- on the rank ---------------------------------------------------------------------------------


def complete_here(code: str, offset: int) -> list[tuple[int, str, str]]:
    """Return start, text and type of what could stand at an offset of the code.

    Parameters
    ----------
    code : str
        A cell.
    offset : int
        Of the cursor, in characters.
    """
    import warnings

    from IPython import get_ipython

    completer = get_ipython().Completer
    static, completer.use_jedi = completer.use_jedi, False  # the objects are here
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the interface is "provisional" since IPython 6
            found = list(itertools.islice(completer.completions(code, offset), LIMIT))
    finally:
        completer.use_jedi = static
    return [(one.start, one.text, one.type) for one in found]


def inspect_here(name: str, detail_level: int) -> dict[str, str] | None:
    """Return what IPython knows of a name, by MIME type; None when there is no such name."""
    from IPython import get_ipython

    try:
        return dict(get_ipython().object_inspect_mime(name, detail_level=detail_level))
    except KeyError:
        return None


# --- in the notebook -----------------------------------------------------------------------------


def body(cell: str) -> str | None:
    """Return the part of a cell for the ranks that is code; None for another cell.

    Parameters
    ----------
    cell : str
        As it stands in the notebook, or as %autodip directs it.
    """
    head, _, rest = cell.partition("\n")
    words = head.split()
    if not words or words[0] != "%%dip" or {"local", "locally"} & set(words[1:2]):
        return None
    return rest


class RemoteNames:
    """Adds the names of rank 0 to the completer and the inspector of a shell.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
        Of the notebook.
    group : callable
        Returns the group, or None.
    autodip : Autodip
        Knows which cells go to the ranks.
    """

    def __init__(self, shell: Any, group: Callable[[], Group | None], autodip: Autodip) -> None:
        self._shell = shell
        self._group = group
        self._autodip = autodip
        self._inspect_locally = shell.object_inspect_mime
        self._matcher: Any = None
        self._add_matcher()
        shell.object_inspect_mime = self._inspect

    def remove(self) -> None:
        """Leave the shell as it was."""
        with contextlib.suppress(AttributeError):
            del self._shell.object_inspect_mime
        if self._matcher is not None:
            self._shell.Completer.custom_matchers.remove(self._matcher)

    def _add_matcher(self) -> None:
        try:
            from IPython.core.completer import context_matcher
        except ImportError:  # IPython before 8.6
            return

        @context_matcher()
        def ddipp_matcher(context: Any) -> dict[str, Any]:
            return self._match(context)

        self._matcher = ddipp_matcher
        self._shell.Completer.custom_matchers.append(ddipp_matcher)

    def _ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function on rank 0; None when it is busy or takes long."""
        group = self._group()
        if group is None or 0 in group.ranks.gone():
            return None
        with contextlib.suppress(Exception):  # of no other use than to be a name less
            if group.ranks.reports(stack=False, timeout_s=0.2)[0].state == "idle":
                return group.ranks.take(group.ranks.start(0, function, *args), PATIENCE_S)
        return None

    def _match(self, context: Any) -> dict[str, Any]:
        from IPython.core.completer import SimpleCompletion

        nothing: dict[str, Any] = {"completions": []}
        lines = context.full_text.split("\n")
        directed = self._autodip.direct(context.full_text.splitlines(keepends=True))
        code = body("".join(directed))
        skipped = len(lines) - 1 - (code or "").count("\n")  # the line of %%dip, if it is there
        if code is None or context.cursor_line < skipped or context.token.startswith("%"):
            return nothing
        before = lines[skipped : context.cursor_line]
        offset = sum(len(line) + 1 for line in before) + context.cursor_position
        found = self._ask(complete_here, code, offset)
        if not found:
            return nothing
        start = min(start for start, _, _ in found)
        return {
            "completions": [
                SimpleCompletion(text, type=kind) for begin, text, kind in found if begin == start
            ],
            "matched_fragment": code[start:offset],
            "suppress": True,
        }

    def _inspect(self, name: str, detail_level: int = 0, **options: Any) -> dict[str, str]:
        if self._autodip.on and (remote := self._ask(inspect_here, name, detail_level)):
            return dict(remote)
        try:
            return dict(self._inspect_locally(name, detail_level, **options))
        except KeyError:
            if not self._autodip.on and (remote := self._ask(inspect_here, name, detail_level)):
                return dict(remote)
            raise
