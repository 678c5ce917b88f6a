"""Carries out what a recovery asks for: the hands of :mod:`ddipp.recovery`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..on_rank import membership as rank_side
from ..on_rank import process as rank_process
from ..recovery import actions as act
from ..recovery.facts import Conduct
from ..shared.text import ranks_text
from .announcer import Announcer
from .report import RankReport, table

if TYPE_CHECKING:
    from .calls import Look, Ranks
    from .generations import Generations


class Carrier:
    """Sends to ranks what a machine decides, and brings back what they say.

    Parameters
    ----------
    ranks : Ranks
        All of them.
    announcer : Announcer
        Who is told.
    generations : Generations
        Which counts the ranks that are given up.
    results : mapping of int to AsyncResult, optional
        The requests that ranks run for a cell; without, what they run is interrupted.
    conduct : Conduct
        Of the backend.
    wake : callable, optional
        Called, on another thread, when :meth:`sights` may have something.

    Attributes
    ----------
    conduct : Conduct
        Of the backend.
    interrupted : set of int
        Ranks that were interrupted.
    """

    def __init__(
        self,
        ranks: Ranks,
        announcer: Announcer,
        generations: Generations,
        results: Mapping[int, Any] | None = None,
        *,
        conduct: Conduct,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self.conduct = conduct
        self._wake = wake
        self._ranks = ranks
        self._announcer = announcer
        self._generations = generations
        self._results = {} if results is None else results
        self._looking: Look | None = None
        self._settling: dict[int, Any] = {}
        self.interrupted: set[int] = set()

    def perform(self, actions: Iterable[act.Action]) -> None:
        """Do what is asked, in that order, without waiting."""
        for action in actions:
            self._perform(action)

    def _perform(self, action: act.Action) -> None:
        ranks, generation = action.ranks, action.generation
        if isinstance(action, act.Interrupt):
            self.interrupt(ranks)
        elif isinstance(action, act.CutAll):
            self._ranks.cut(generation, ranks, everything=True)
        elif isinstance(action, act.Cut):
            self._ranks.cut(generation, ranks, unanswered=action.unanswered)
        elif isinstance(action, act.Leave):
            self._ranks.tell(rank_side.leave_group, ranks=ranks)
        elif isinstance(action, act.Settle):
            self._settle(ranks)
        elif isinstance(action, act.ShowHang):
            self._show_hang(action.seconds)
        elif isinstance(action, act.ShowWaits):
            self._show_waits(ranks)
        elif isinstance(action, act.Abandon):
            self._generations.abandon(ranks)

    def interrupt(self, ranks: Sequence[int]) -> None:
        """Send SIGINT to what ranks run, or are about to run, for the cell."""
        self.interrupted.update(ranks)
        for rank in ranks:
            result = self._results.get(rank)
            msg_id = result.msg_ids[0] if result is not None else ""
            self._ranks.signal(signal.SIGINT, [rank], msg_id)

    def _settle(self, ranks: Sequence[int]) -> None:
        limit_s = self._generations.policy.grace_s
        for rank in ranks:
            self._settling[rank] = self._ranks.start(rank, rank_process.settle, limit_s)

    def settled(self) -> list[int]:
        """Return the ranks whose devices have finished what they could."""
        return [rank for rank, answer in self._settling.items() if answer.ready()]

    def forget(self) -> None:
        """Let go of the answers of ranks."""
        self._ranks.forget([one for one in self._settling.values() if one.ready()])

    # --- looking -----------------------------------------------------------------------------

    def look(self) -> None:
        """Ask all ranks what they are doing, unless they are asked already."""
        if self._looking is None:
            self._looking = self._ranks.look(stack=False)
            self._looking.wake(self._wake)

    def sights(self) -> list[RankReport] | None:
        """Return what the ranks have said, once; None while they are still asked."""
        if self._looking is None or not self._looking.ready():
            return None
        looking, self._looking = self._looking, None
        return looking.reports()

    # --- telling -----------------------------------------------------------------------------

    def _show_hang(self, seconds: float) -> None:
        self._announcer.say(
            f"no rank has made progress for {seconds:.0f} s; Ctrl-C ends the cell "
            f"and keeps all variables\n{table(self._ranks.reports())}"
        )

    def _show_waits(self, ranks: Sequence[int]) -> None:
        reports = [one for one in self._ranks.reports(timeout_s=0.5) if one.rank in ranks]
        verb = "does" if len(ranks) == 1 else "do"
        self._announcer.say(
            f"{ranks_text(ranks)} {verb} not react; all connections of "
            f"{'its process' if len(ranks) == 1 else 'their processes'} are shut down now, as a "
            f"last attempt\n{table(reports)}"
        )
