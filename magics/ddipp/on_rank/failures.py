"""Failures that a rank has only because another one failed, or because its group was ended.

Known by where they come from, not by what they say: a user's ``RuntimeError("training aborted")``
is a cause.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from typing import Any

from ..shared.wire import INTERRUPTS, Facts
from .engine_link import engine

#: Where exceptions are raised that collectives fail with.
_PLACES = ("torch/distributed/", "torch/autograd/", "torch/nn/parallel/")


def describe(error: BaseException) -> dict[str, Any]:
    """Return what goes with the reply of a request that has failed with `error`."""
    return {Facts.CONSEQUENCE: is_consequence(error)}


def is_consequence(error: BaseException) -> bool:
    """Tell whether an exception, or one that it was raised from, comes from an ended collective."""
    state = engine().group_state()
    return any(_is_from_collective(one, state) for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__]


def _is_from_collective(error: BaseException, state: tuple[bool, bool, list[str]]) -> bool:
    _, broken, texts = state
    if not isinstance(error, RuntimeError):
        return False
    try:
        said = str(error)
    except Exception:
        return False
    if any(text in said for text in texts):
        return True
    if not broken:
        return False
    dist: Any = sys.modules.get("torch.distributed")
    kind = getattr(dist, "DistError", None)
    return (kind is not None and isinstance(error, kind)) or _innermost(error)


def _innermost(error: BaseException) -> bool:
    """Tell whether C++ has raised it in one of the places of collectives."""
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    return bool(frames) and any(place in frames[0].filename for place in _PLACES)


def shorten_tracebacks(shell: Any) -> None:
    """Let a shell format consequences and interrupts as plain Python does.

    The notebook names their cause in one line instead of showing them, so the ranks need not spend
    a tenth of a second on a traceback for people.

    Parameters
    ----------
    shell : IPython.InteractiveShell
        Of a rank.
    """
    formatter = shell.InteractiveTB
    rich = formatter.structured_traceback
    if getattr(rich, "shortens", False):
        return

    # The names of its parameters are not the same in all versions of IPython.
    def structured_traceback(*args: Any, **kwargs: Any) -> list[str]:
        kind, value, trace = (*args, None, None, None)[:3]
        if kind is None or value is None:
            return list(rich(*args, **kwargs))
        if kind.__name__ not in INTERRUPTS and not is_consequence(value):
            return list(rich(*args, **kwargs))
        # The first frame is the shell's own.
        return traceback.format_exception(kind, value, trace and trace.tb_next)

    structured_traceback.shortens = True  # type: ignore[attr-defined]
    formatter.structured_traceback = structured_traceback


def watch_failures(shell: Any) -> None:
    """Let a shell say of its failures where they come from, and survive ``exit()``."""
    shorten_tracebacks(shell)
    shell.describe_failure = describe
    shell.ask_exit = _stay


def _stay() -> None:
    print(
        "ddipp: exit() does not end a rank: its variables are kept, and so is the group. To end "
        "them all: %makedip -k",
        file=sys.stderr,
    )
