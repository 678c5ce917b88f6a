"""The fate of a cell: from its start to its end on every rank, whatever happens in between."""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from .actions import Abandon, Action, Cut, Leave, Settle, ordered
from .escalation import Escalation
from .facts import Conduct, Outcome, Sight
from .policy import Policy


class Phase(enum.Enum):
    """How far a cell is."""

    RUNNING = "running"
    #: A rank has failed; the others are freed of what they wait in.
    FREEING = "freeing"
    #: The user, or the time, wants an end.
    INTERRUPTING = "interrupting"
    #: All connections are shut down; whoever does not end now is given up.
    LAST_RESORT = "last resort"
    ENDED = "ended"


class CellFate:
    """Decides what is done for the ranks of a cell.

    Events are methods that take the time; what follows from them is in the list that they return.

    Parameters
    ----------
    ranks : iterable of int
        Where the cell runs.
    generation : int
        Of the group.
    policy : Policy
        How patient.
    conduct : Conduct
        Of the backend.
    deadline : float, optional
        When the cell is out of time.

    Attributes
    ----------
    phase : Phase
        How far the cell is.
    presses : int
        Interrupts so far, those for the time included.
    timed_out : bool
        Whether the cell was out of time.
    abandoned : tuple of int
        Ranks that were given up.
    aborted : dict of int to int
        Ranks that were taken out of a queued collective and notice it only by an interrupt; its
        number, 0 where it is not known.
    """

    def __init__(
        self,
        ranks: Iterable[int],
        generation: int,
        policy: Policy,
        conduct: Conduct,
        deadline: float | None = None,
    ) -> None:
        self._generation = generation
        self._policy = policy
        self._conduct = conduct
        self._steps = Escalation(generation, policy, conduct)
        self._pending = set(ranks)
        self._failed: list[int] = []
        self._dead: set[int] = set()
        self._settling: set[int] = set()
        self._failed_at = math.inf
        self._grace_ends = math.inf
        self._grace_s = policy.grace_s  # twice as long each time
        self._deadline = math.inf if deadline is None else deadline
        self._next_look = math.inf
        self._answered = False
        self.phase = Phase.RUNNING if self._pending else Phase.ENDED
        self.presses = 0
        self.timed_out = False
        self.abandoned: tuple[int, ...] = ()
        self.aborted: dict[int, int] = {}

    # --- what is known -----------------------------------------------------------------------

    @property
    def pending(self) -> tuple[int, ...]:
        """The ranks on which the cell has not ended."""
        return ordered(self._pending)

    @property
    def failed(self) -> tuple[int, ...]:
        """The ranks on which it has failed, in that order."""
        return tuple(self._failed)

    @property
    def broken(self) -> bool:
        """Whether the group has to be formed again, whatever the cell has returned."""
        return bool(self._failed) or self._steps.begun

    def wants_sights(self, now: float) -> bool:
        """Tell whether ``sights`` should be called with fresh reports."""
        return bool(self._pending) and now >= self._next_look

    # --- events ------------------------------------------------------------------------------

    def results(self, outcomes: Mapping[int, Outcome], now: float) -> list[Action]:
        """Take note of ranks on which the cell has ended."""
        new = [rank for rank in sorted(outcomes) if rank in self._pending]
        self._pending.difference_update(new)
        failed = [rank for rank in new if outcomes[rank] is not Outcome.OK]
        # Ranks that fail because of another come after it.
        failed.sort(key=lambda rank: outcomes[rank] is Outcome.CONSEQUENCE)
        self._failed.extend(failed)
        self._dead.update(rank for rank in failed if outcomes[rank] is Outcome.DEATH)
        actions = self._note_failures(failed, outcomes, now)
        if not self._pending:
            self.phase = Phase.ENDED
        return actions

    def _note_failures(
        self, failed: Sequence[int], outcomes: Mapping[int, Outcome], now: float
    ) -> list[Action]:
        if not failed:
            return []
        if self.phase is Phase.RUNNING:
            self.phase = Phase.FREEING
        self._failed_at = min(self._failed_at, now)
        self._next_look = min(self._next_look, now)
        # Whoever the user has interrupted may take its time, as long as nothing else has failed.
        caused = any(outcomes[rank] is not Outcome.CONSEQUENCE for rank in failed)
        if self._grace_ends == math.inf and (caused or self.phase is Phase.FREEING):
            self._grace_ends = now + self._grace_s
        living = ordered(
            rank for rank in failed if outcomes[rank] not in (Outcome.DEATH, Outcome.UNKNOWN)
        )
        if not living or not self._pending:
            return []
        if self._conduct.queued:
            self._settling.update(living)
            return [Settle(self._generation, living)]
        return [Leave(self._generation, living), Cut(self._generation, living)]

    def settled(self, ranks: Collection[int]) -> None:
        """Take note of ranks whose devices have finished what they could."""
        self._settling.difference_update(ranks)

    def press(self, now: float) -> list[Action]:
        """Interrupt the cell: the user wants its end."""
        if not self._pending:
            return []
        self.presses += 1
        self._next_look = now
        if self.presses >= self._policy.presses:
            if self._steps.gives_up:
                return []
            self.phase = Phase.LAST_RESORT
            return [
                *self._steps.interrupt(self._pending),
                *self._steps.last_resort(self._pending, now),
            ]
        self.phase = Phase.INTERRUPTING
        self._answered = False
        if self._grace_ends < math.inf:
            self._grace_ends = max(self._grace_ends, now + self._grace_s)
        return self._steps.interrupt(self._pending)

    def controller_replaced(self, now: float) -> list[Action]:
        """Take note that nobody will say how the cell ends: ask the ranks themselves."""
        return self.results(dict.fromkeys(self._pending, Outcome.UNKNOWN), now)

    def tick(self, now: float) -> list[Action]:
        """Let time pass."""
        if not self._pending:
            return []
        actions = self._steps.tick(self._pending, now)
        for action in actions:
            if isinstance(action, Abandon):
                self.abandoned = action.ranks
                self._pending.clear()
                self.phase = Phase.ENDED
                return actions
        if now >= self._deadline:
            self.timed_out = True
            patient = self.presses > 0 and self._answered
            self._deadline = now + (self._policy.grace_s if patient else self._policy.insist_s)
            actions += self.press(now)
        if now >= self._grace_ends:
            self._grace_s *= 2
            self._grace_ends = now + self._grace_s
            actions += self._steps.interrupt(self._pending)
        return actions

    def sights(self, sights: Sequence[Sight], now: float) -> list[Action]:
        """Look at what all ranks are doing."""
        self._next_look = now + self._policy.look_s
        if not self._pending:
            return []
        busy = [one for one in sights if one.rank in self._pending and one.state == "busy"]
        self._answered = bool(busy) and all(one.unanswered == 0 for one in busy)
        actions = self._free(sights, now) if self._failed else []
        cut = {rank for action in actions if isinstance(action, Cut) for rank in action.ranks}
        return actions + self._steps.look(self._pending - cut, sights)

    # --- peers of ranks that have failed -----------------------------------------------------

    def _free(self, sights: Sequence[Sight], now: float) -> list[Action]:
        """End the wait of ranks that wait in vain for one that has failed."""
        by_rank = {one.rank: one for one in sights}
        if any(by_rank[rank].state == "no answer" for rank in self._failed):
            return []  # how far it came is not known; the grace time ends
        if self._conduct.queued:
            return self._free_queued(by_rank)
        # 0 of one that has died
        finished = min(0 if rank in self._dead else by_rank[rank].finished for rank in self._failed)
        late = now - self._failed_at > self._policy.patience_s

        def in_vain(one: Sight) -> bool:
            if one.state != "busy":
                return False
            if one.waiting and one.collectives > finished:
                return True
            return late and one.gloo_wait > self._policy.patience_s

        return self._steps.cut_off([rank for rank in self._pending if in_vain(by_rank[rank])])

    def _free_queued(self, by_rank: Mapping[int, Sight]) -> list[Action]:
        """Abort what can't succeed, once all that can has.

        What all ranks have begun will succeed, and nothing may disturb it: what is queued behind
        it, such as the step of an optimizer, counts on its result.
        """
        counts = {
            rank: 0 if rank in self._dead else by_rank[rank].collectives for rank in self._failed
        }
        begun = min(counts.values())
        if any(rank in self._settling for rank, count in counts.items() if count == begun):
            return []
        doomed = [
            rank
            for rank in self.pending
            if by_rank[rank].state == "busy"
            and by_rank[rank].collectives > begun
            and rank not in self.aborted
        ]
        if not doomed:
            return []
        number = 0 if self._dead.intersection(self._failed) else begun + 1
        self.aborted |= dict.fromkeys(doomed, number)
        # The interrupt first: it waits for Python to go on, which the abort lets it. Whoever has
        # got one already may be in its handler.
        fresh = [rank for rank in doomed if rank not in self._steps.interrupted]
        return [*self._steps.interrupt(fresh), *self._steps.cut_off(doomed)]
