"""How a cell ended on a rank, by what the rank and the controller say in fields, not in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..recovery.facts import Outcome
from ..shared.text import ranks_text
from ..shared.wire import ENTRY, INTERRUPTS, Facts
from .report import RankReport


def keep_facts(client: Any) -> None:
    """Let the exceptions of a client carry what ours say beside ipyparallel's fields."""
    unwrap = client._unwrap_exception
    if hasattr(unwrap, "keeps_facts"):
        return

    def unwrap_with_facts(content: dict[str, Any]) -> Exception:
        error: Exception = unwrap(content)
        error.facts = content.get(ENTRY) or {}  # type: ignore[attr-defined]
        return error

    unwrap_with_facts.keeps_facts = True  # type: ignore[attr-defined]
    client._unwrap_exception = unwrap_with_facts


def facts_of(error: BaseException) -> Mapping[str, Any]:
    """Return what is known of a failure beside its name and text."""
    facts: Mapping[str, Any] = getattr(error, "facts", {})
    return facts


def is_death(error: BaseException) -> bool:
    """Tell whether a call failed because an engine has died."""
    names = [one[0] for one in getattr(error, "elist", [])]
    return "EngineError" in (name_of(error), *names)


def name_of(error: BaseException) -> str:
    """Return the name of a failure's exception, of the rank's own where it has one."""
    return str(getattr(error, "ename", None) or type(error).__name__)


def text_of(error: BaseException) -> str:
    """Return what its exception says."""
    return str(getattr(error, "evalue", error))


def outcome_of(error: BaseException, interrupted: bool) -> Outcome:
    """Return what kind of end a failure is.

    Parameters
    ----------
    error : BaseException
        Of one rank.
    interrupted : bool
        Whether we have interrupted that rank.
    """
    if is_death(error):
        return Outcome.DEATH
    if name_of(error) in INTERRUPTS:
        return Outcome.CONSEQUENCE if interrupted else Outcome.CAUSE
    return Outcome.CONSEQUENCE if facts_of(error).get(Facts.CONSEQUENCE) else Outcome.CAUSE


def shown_failure(reply: Any) -> Exception | None:
    """Return the error that a cell has shown though it did not fail, as ``%run`` does."""
    import ipyparallel.error

    facts = getattr(reply, "_content", {}).get(ENTRY) or {}
    shown = facts.get(Facts.SHOWN)
    if not shown:
        return None
    error: Exception = ipyparallel.error.RemoteError(
        shown["ename"], shown["evalue"], "\n".join(shown["traceback"])
    )
    error.facts = facts  # type: ignore[attr-defined]
    return error


def traceback_lines(error: BaseException) -> list[str]:
    """Return the lines of a failure's traceback."""
    text = getattr(error, "traceback", None)
    return text.splitlines() if text else [f"{name_of(error)}: {text_of(error)}"]


def summarize(
    errors: Mapping[int, BaseException],
    outcomes: Mapping[int, Outcome],
    reports: Sequence[RankReport],
    interrupted: bool,
    aborted: Mapping[int, int] | None = None,
) -> str:
    """Say in one line what happened on which rank.

    Parameters
    ----------
    errors : mapping of int to exception
        By rank, the one that failed first in front.
    outcomes : mapping of int to Outcome
        What kind of end each is.
    reports : sequence of RankReport
        Of all ranks, taken after the cell.
    interrupted : bool
        Whether the user asked for it.
    aborted : mapping of int to int, optional
        Ranks that an interrupt has told of the abort of their collective; its number, or 0.
    """
    aborted = aborted or {}
    if interrupted:
        return (
            f"interrupted; {ranks_text(list(errors))} of {len(reports)} stopped, all variables kept"
        )
    first, *others = errors
    name = name_of(errors[first])
    if outcomes[first] is Outcome.DEATH:
        cause = facts_of(errors[first]).get(Facts.DEATH, "")
        because = "died"
        parts = [f"rank {first} died{': ' if cause else ''}{cause}"]
    else:
        because = f"raised {name}"
        parts = [f"rank {first} {because}"]
    stopped = [rank for rank in others if outcomes[rank] is Outcome.CONSEQUENCE]
    same = [rank for rank in others if rank not in stopped and name_of(errors[rank]) == name]
    different = [rank for rank in others if rank not in same and rank not in stopped]
    if same:
        parts.append(f"{ranks_text(same)} too")
    parts += _consequences(stopped, errors, reports, aborted, f"because rank {first} {because}")
    parts.extend(f"rank {rank} raised {name_of(errors[rank])}" for rank in different)
    return "; ".join(parts)


def _consequences(
    ranks: Collection[int],
    errors: Mapping[int, BaseException],
    reports: Sequence[RankReport],
    aborted: Mapping[int, int],
    because: str,
) -> list[str]:
    calls: dict[str, list[int]] = {}
    for rank in ranks:
        call = reports[rank].call
        if aborted.get(rank, 0) not in (0, reports[rank].number):
            call = f"collective #{aborted[rank]}"  # others were queued behind it
        elif name_of(errors[rank]) in INTERRUPTS and rank not in aborted:
            call = ""
        calls.setdefault(call, []).append(rank)
    return [
        f"{ranks_text(who)} {f'aborted in {call}' if call else 'stopped'} {because}"
        for call, who in calls.items()
    ]
