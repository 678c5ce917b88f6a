"""What ranks still run of a cell whose notebook does not wait for it, or no longer."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from .actions import Abandon, Action, ordered
from .escalation import Escalation
from .facts import Conduct, Sight
from .policy import Policy


class Leftover:
    """Brings ranks to an end that run a cell of which no reply will come.

    Parameters
    ----------
    ranks : collection of int
        Which.
    policy : Policy
        How patient.
    conduct : Conduct
        Of the backend.
    now : float
        The time.
    patient : bool
        Whether the cell may go on as long as it can, rather than be interrupted at once. Ranks that
        wait for one that has ended it can't.

    Attributes
    ----------
    pending : tuple of int
        The ranks that are not known to be idle.
    abandoned : tuple of int
        Those that were given up.
    presses : int
        Interrupts so far.
    """

    def __init__(
        self,
        ranks: Collection[int],
        policy: Policy,
        conduct: Conduct,
        now: float,
        *,
        patient: bool,
    ) -> None:
        self._policy = policy
        self._conduct = conduct
        # A cut of what was left behind is of the generation that each rank is in.
        self._steps: dict[int, Escalation] = {}
        self._patient = patient
        self.presses = 0
        self._stuck_since = math.inf
        self._next_look = now
        self._next_press = math.inf if patient else now
        self.pending = ordered(ranks)
        self.abandoned: tuple[int, ...] = ()

    def wants_sights(self, now: float) -> bool:
        """Tell whether ``sights`` should be called with fresh reports."""
        return bool(self.pending) and now >= self._next_look

    def press(self, now: float) -> list[Action]:
        """End it: the user does not want to wait."""
        self._next_press = now
        self._next_look = now
        return []

    def sights(self, sights: Sequence[Sight], now: float) -> list[Action]:
        """Look at what all ranks are doing."""
        self._next_look = now + self._policy.look_s
        busy = [one for one in sights if one.rank in self.pending and one.state != "idle"]
        # One that has died has nothing left, and comes back by itself.
        busy = [one for one in busy if one.state != "dead"]
        self.pending = ordered(one.rank for one in busy)
        if not busy:
            return []
        for one in busy:
            if one.rank not in self._steps:
                self._steps[one.rank] = Escalation(one.generation, self._policy, self._conduct)
            elif one.state == "busy":  # else it has not said
                self._steps[one.rank].generation = one.generation
        actions: list[Action] = []
        if now >= self._next_press:
            actions += self._press(now)
        if self._patient:
            actions += self._free_stuck(sights, busy, now)
        for one in busy:
            actions += self._steps[one.rank].look([one.rank], [one])
        return actions

    def _press(self, now: float) -> list[Action]:
        self.presses += 1
        # The user presses again, if there is one who waits.
        self._next_press = math.inf if self._patient else now + self._policy.insist_s
        actions: list[Action] = []
        last = self.presses >= self._policy.presses
        for rank in self.pending:
            steps = self._steps[rank]
            if steps.gives_up:
                continue
            actions += steps.interrupt([rank])
            if last:
                actions += steps.last_resort([rank], now)
        return actions

    def _free_stuck(
        self, sights: Sequence[Sight], busy: Sequence[Sight], now: float
    ) -> list[Action]:
        """Free ranks that are in a collective though another one has ended its cell."""
        ended = [one.collectives for one in sights if one.state == "idle"]
        stuck = [
            one
            for one in busy
            if ended and one.state == "busy" and (one.waiting or one.collectives > min(ended))
        ]
        if not stuck:
            self._stuck_since = math.inf
            return []
        self._stuck_since = min(self._stuck_since, now)
        if now - self._stuck_since <= self._policy.grace_s:
            return []
        self._stuck_since = now
        actions: list[Action] = []
        for one in stuck:
            actions += self._steps[one.rank].interrupt([one.rank])
            actions += self._steps[one.rank].cut_off([one.rank])
        return actions

    def tick(self, now: float) -> list[Action]:
        """Let time pass."""
        given_up: list[Action] = []
        for rank in self.pending:
            if rank in self._steps:
                given_up += self._steps[rank].tick([rank], now)
        for action in given_up:
            if isinstance(action, Abandon):
                self.abandoned = ordered((*self.abandoned, *action.ranks))
        self.pending = ordered(set(self.pending) - set(self.abandoned))
        return given_up


class Formation:
    """Frees ranks that form a group together when one of them has failed, or died.

    Parameters
    ----------
    ranks : collection of int
        Which.
    generation : int
        That they form.
    policy : Policy
        How patient.
    deadline : float
        When it has taken too long.

    Attributes
    ----------
    over : bool
        Whether nobody needs to wait any longer, though ranks may not have ended.
    failed : bool
        Whether it can't succeed any more.
    """

    def __init__(
        self, ranks: Collection[int], generation: int, policy: Policy, deadline: float
    ) -> None:
        self._pending = set(ranks)
        self._generation = generation
        self._policy = policy
        self._deadline = deadline
        self._gives_up_at = math.inf
        self._next_cut = math.inf
        self.failed = False

    @property
    def over(self) -> bool:
        """Whether nobody needs to wait any longer."""
        return not self._pending

    def result(self, rank: int, ok: bool, now: float) -> None:
        """Take note of how it has ended on a rank."""
        self._pending.discard(rank)
        if not ok:
            self._fail(now)

    def press(self, now: float) -> None:
        """Take note that the user does not want to wait."""
        self._fail(now)

    def _fail(self, now: float) -> None:
        if self.failed:
            return
        self.failed = True
        self._next_cut = now
        self._gives_up_at = now + self._policy.form_end_s

    def tick(self, now: float) -> list[Action]:
        """Let time pass: free those that wait for ranks that will not come."""
        if now >= self._deadline:
            self._fail(now)
        if not self.failed or not self._pending:
            return []
        if now >= self._gives_up_at:
            self._pending.clear()
            return []
        if now < self._next_cut:
            return []
        # Again: a rank may have opened new connections since.
        self._next_cut = now + self._policy.look_s
        return Escalation(self._generation, self._policy, Conduct()).cut_off(self._pending)
