"""How ranks are made to stop: interrupted, cut off from what they wait in, and at last given up.

This is the one place that decides it, for cells, for what is left of cells, and for formations.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .actions import Abandon, Action, Cut, CutAll, Interrupt, ShowWaits, ordered
from .facts import Conduct, Sight
from .policy import Policy


class Escalation:
    """The steps taken against the ranks of a generation that are to stop.

    An interrupt is one SIGINT. Whoever takes it, that is, runs Python after it, is left alone:
    what it does then, such as saving a model, takes the time it takes. Whoever does not, since it
    waits in a collective, is cut off from it.

    Parameters
    ----------
    generation : int
        Of the group.
    policy : Policy
        How patient.
    conduct : Conduct
        Of the backend.
    """

    def __init__(self, generation: int, policy: Policy, conduct: Conduct) -> None:
        self.generation = generation
        self._policy = policy
        self._conduct = conduct
        self._interrupted: set[int] = set()
        self._cut: set[int] = set()
        self._give_up_at: float | None = None

    @property
    def begun(self) -> bool:
        """Whether any rank was interrupted or cut, so that the group can't be used any more."""
        return bool(self._interrupted or self._cut)

    @property
    def interrupted(self) -> frozenset[int]:
        """The ranks that were interrupted."""
        return frozenset(self._interrupted)

    @property
    def gives_up(self) -> bool:
        """Whether the last step was taken."""
        return self._give_up_at is not None

    def interrupt(self, ranks: Collection[int]) -> list[Action]:
        """Send one interrupt to ranks."""
        if not ranks:
            return []
        self._interrupted.update(ranks)
        return [Interrupt(self.generation, ordered(ranks))]

    def cut_off(self, ranks: Collection[int]) -> list[Action]:
        """Cut ranks that wait in vain."""
        if not ranks:
            return []
        self._cut.update(ranks)
        return [Cut(self.generation, ordered(ranks))]

    def look(self, pending: Collection[int], sights: Sequence[Sight]) -> list[Action]:
        """Cut those that were interrupted and have not taken it."""
        stuck = ordered(
            sight.rank
            for sight in sights
            if sight.rank in self._interrupted
            and sight.rank in pending
            and sight.state == "busy"
            and self._is_stuck(sight)
        )
        self._cut.update(stuck)
        # They may have taken it since they said so.
        return [Cut(self.generation, stuck, unanswered=True)] if stuck else []

    def _is_stuck(self, sight: Sight) -> bool:
        waits = sight.waiting or sight.gloo_wait > 0 or self._conduct.queued
        limit_s = self._policy.cut_after_s if waits else self._policy.unknown_after_s
        return sight.unanswered >= limit_s

    def last_resort(self, ranks: Collection[int], now: float) -> list[Action]:
        """Do what is left to do before ranks are given up."""
        self._give_up_at = now + self._policy.last_resort_s
        self._cut.update(ranks)
        who = ordered(ranks)
        return [
            ShowWaits(self.generation, who),
            Cut(self.generation, who),
            CutAll(self.generation, who),
        ]

    def tick(self, pending: Collection[int], now: float) -> list[Action]:
        """Give up on ranks that even the last resort has not ended."""
        if self._give_up_at is None or now < self._give_up_at or not pending:
            return []
        return [Abandon(self.generation, ordered(pending))]
