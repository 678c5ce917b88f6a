"""Copies variables from rank to rank, and between the notebook and the ranks, by value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import DdippError
from ..on_rank import membership as rank_side
from ..on_rank import process as rank_process
from ..on_rank import share
from ..on_rank.process import host_name
from ..shared import values
from .calls import Ranks


class MissingVariable(DdippError):
    """A rank has no variable of that name."""

    def __init__(self, text: str, rank: int) -> None:
        super().__init__(text)
        self.rank = rank


def copy_variables(
    ranks: Ranks,
    names: Sequence[str] | None,
    source: int,
    targets: Sequence[int],
    *,
    classes_too: bool = False,
) -> dict[str, Any]:
    """Copy variables of the rank `source` to `targets`, through memory or over the group.

    Parameters
    ----------
    ranks : Ranks
        All of them, idle, in a group that works.
    names : sequence of str, optional
        Which; all that can be sent when not given.
    source : int
        From which rank.
    targets : sequence of int
        To which.
    classes_too : bool
        The targets don't know the classes that cells have defined.

    Returns
    -------
    dict
        ``names`` that were copied, ``skipped``: name to reason.
    """
    hosts = [fact["host"] for fact in ranks.apply(rank_process.probe)]
    near = all(hosts[rank] == hosts[source] for rank in targets)
    problem = ""
    # A class that all ranks know from running its cell stays one class; otherwise it goes along.
    for by_value in [True] if classes_too else [False, True]:
        ready = _prepare(ranks, names, source, by_value, near)
        problem = _distribute(ranks, ready, source, targets, near)
        if not problem:
            ranks.apply(rank_side.renew_copies)
            return {"names": ready["names"], "skipped": ready["skipped"]}
    raise DdippError(f"{problem} (on another rank)")


def push(ranks: Ranks, variables: dict[str, Any]) -> dict[str, str]:
    """Set variables of this process on all ranks, by value.

    Returns
    -------
    dict of str to str
        What functions among them use and can't be sent: name to reason.

    Raises
    ------
    DdippError
        When one can't be sent, or not be rebuilt on a rank.
    """
    try:
        packed = values.pack(variables)
    except values.CannotCopy as problem:
        raise DdippError(str(problem)) from None
    sizes = packed.sizes
    if sum(sizes) < share.SHARE_FROM_BYTES:
        problems = ranks.apply(share.take_joined, sizes, share.join(packed.parts))
    elif ranks.hosts() == {host_name()}:
        held = share.hold(packed.parts, in_memory=True)
        try:
            problems = ranks.apply(share.take_mapped, held["pid"], held["file"], sizes)
        finally:
            share.release()
    else:
        problems = _push_over_the_group(ranks, packed)
    for rank, why in enumerate(problems):
        if why:
            raise DdippError(f"{why} (on rank {rank})")
    return packed.left_out


def _push_over_the_group(ranks: Ranks, packed: values.Packed) -> list[str]:
    """Send the data to one rank, and from there to the others."""
    sizes = packed.sizes
    ranks.apply_on(0, share.hold_joined, sizes, share.join(packed.parts))
    try:
        return ranks.apply_each(share.take_broadcast, [(0, sizes, True)] * len(ranks))
    finally:
        ranks.apply_on(0, share.release)


def pull(ranks: Ranks, names: Sequence[str], sources: Sequence[int]) -> list[dict[str, Any]]:
    """Return variables of ranks, by value, rebuilt in this thread.

    Parameters
    ----------
    ranks : Ranks
        All of them; the sources are idle.
    names : sequence of str
        Which.
    sources : sequence of int
        Of which ranks.

    Raises
    ------
    MissingVariable
        When a rank does not have one.
    DdippError
        When one can't be sent, or not be rebuilt here.
    """
    calls = [ranks.start(rank, share.hand_over, list(names), host_name()) for rank in sources]
    answers = [ranks.take(call) for call in calls]
    holding = [rank for rank, (facts, _) in zip(sources, answers) if facts.get("file", -1) >= 0]
    try:
        return [_take_over(rank, *answer) for rank, answer in zip(sources, answers)]
    finally:
        ranks.tell(share.release, ranks=holding)


def _take_over(rank: int, facts: dict[str, Any], joined: Any) -> dict[str, Any]:
    _check(rank, facts)
    sizes = facts["sizes"]
    mapped = facts["file"] >= 0
    if mapped:
        parts = share.map_parts(facts["pid"], facts["file"], sizes)
    else:
        parts = share.split(bytearray(joined), sizes)
    try:
        return values.unpack(parts, own_memory=not mapped)
    except values.CannotCopy as problem:
        raise DdippError(f"{problem} (it came from rank {rank})") from None


def _check(rank: int, facts: dict[str, Any]) -> None:
    if "missing" in facts:
        raise MissingVariable(f"rank {rank} has no variable {facts['missing']}", rank)
    if "problem" in facts:
        raise DdippError(facts["problem"])


def _prepare(
    ranks: Ranks, names: Sequence[str] | None, source: int, by_value: bool, near: bool
) -> dict[str, Any]:
    asked = list(names) if names is not None else None
    facts = dict(ranks.apply_on(source, share.prepare, asked, by_value, near))
    _check(source, facts)
    return facts


def _distribute(
    ranks: Ranks, ready: dict[str, Any], source: int, targets: Sequence[int], near: bool
) -> str:
    """Return why a target could not rebuild the variables, or ``""``."""
    sizes = ready["sizes"]
    try:
        if near:
            calls = [
                ranks.start(rank, share.take_mapped, ready["pid"], ready["file"], sizes)
                for rank in targets
            ]
            problems = [ranks.take(call) for call in calls]
        else:
            problems = ranks.apply_each(
                share.take_broadcast,
                [(source, sizes, rank in targets) for rank in range(len(ranks))],
            )
    finally:
        ranks.apply_on(source, share.release)
    return next(filter(None, problems), "")
