"""Notices that no rank makes progress any more."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .actions import Action, ShowHang
from .facts import Conduct, Sight


class HangWatch:
    """Asks once to show a hang: no rank makes progress while collectives wait.

    Progress is a collective that begins or ends on any rank.

    Parameters
    ----------
    generation : int
        Of the group.
    after_s : float or None
        For so long; None for never.
    conduct : Conduct
        Of the backend.
    now : float
        The time.
    """

    def __init__(self, generation: int, after_s: float | None, conduct: Conduct, now: float):
        self._generation = generation
        self._after_s = math.inf if after_s is None else after_s
        self._queued = conduct.queued
        self._period_s = min(5.0, self._after_s / 4)
        self._seen: list[tuple[int, bool]] = []
        self._since = now
        self._next_look = math.inf if after_s is None else now + self._period_s
        self._shown = False

    def wants_sights(self, now: float) -> bool:
        """Tell whether ``sights`` should be called with fresh reports."""
        return now >= self._next_look

    def sights(self, sights: Sequence[Sight], now: float) -> list[Action]:
        """Look at what all ranks are doing."""
        self._next_look = now + self._period_s
        seen = [(one.collectives, one.waiting) for one in sights]
        if seen != self._seen:
            self._seen, self._since, self._shown = seen, now, False
        elif not self._shown and now - self._since >= self._after_s and self._waits(sights):
            self._shown = True
            ranks = tuple(one.rank for one in sights)
            return [ShowHang(self._generation, ranks, now - self._since)]
        return []

    def _waits(self, sights: Sequence[Sight]) -> bool:
        if self._queued:
            # Python goes on, so what a rank waits for shows in the numbers only.
            return len({one.collectives for one in sights}) > 1
        return any(one.waiting for one in sights)
