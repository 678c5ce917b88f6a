"""Copies variables of one rank to others, seen from the notebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import DdippError
from ..on_rank import membership as rank_side
from ..on_rank import process as rank_process
from ..on_rank import share
from .calls import Ranks


class MissingVariable(DdippError):
    """The source has no variable of that name."""


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
            if ready["models"]:
                ranks.apply(rank_side.renew_models)
            return {"names": ready["names"], "skipped": ready["skipped"]}
    raise DdippError(f"can't be rebuilt on another rank: {problem}")


def spread(ranks: Ranks, variables: dict[str, Any]) -> None:
    """Set variables of this process on all ranks, which are on this host, through memory.

    Raises
    ------
    DdippError
        When one can't be sent.
    """
    try:
        ready = share.prepare_values(variables, by_value=True, in_memory=True)
    except TypeError as error:
        raise DdippError(f"{', '.join(variables)} {error}") from None
    try:
        problems = ranks.apply(share.take_mapped, ready["pid"], ready["file"], ready["sizes"])
    finally:
        share.release()
    if problem := next(filter(None, problems), ""):
        raise DdippError(f"can't be rebuilt on a rank: {problem}")


def _prepare(
    ranks: Ranks, names: Sequence[str] | None, source: int, by_value: bool, near: bool
) -> dict[str, Any]:
    import ipyparallel.error

    asked = list(names) if names is not None else None
    try:
        return dict(ranks.apply_on(source, share.prepare, asked, by_value, near))
    except ipyparallel.error.RemoteError as error:
        if error.ename == "NameError":
            raise MissingVariable(f"rank {source} has no variable {error.evalue}") from None
        if error.ename == "TypeError":
            raise DdippError(f"{', '.join(asked or [])} {error.evalue}") from None
        raise


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
