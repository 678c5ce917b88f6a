"""Ranks that are simulated on a virtual clock: what the nemesis of the recovery plays against.

A rank does the steps of its program: it computes, takes part in collectives, raises, dies, ignores
interrupts, or handles them. Its collectives fail as those of Gloo do, or block as those of NCCL.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from ddipp.recovery import actions as act
from ddipp.recovery.cell import CellFate
from ddipp.recovery.facts import Conduct, Outcome
from ddipp.recovery.leftover import Formation, Leftover
from ddipp.recovery.policy import Policy

GENERATION = 5
STEP_S = 0.05


@dataclass
class Sighting:
    """What a simulated rank's report says."""

    rank: int
    state: str
    generation: int = GENERATION
    collectives: int = 0
    finished: int = 0
    waiting: bool = False
    gloo_wait: float = 0.0
    unanswered: float = 0.0


@dataclass
class Rank:
    """One simulated rank: the steps that it has still to do, and where it is."""

    number: int
    steps: list[tuple[str, float]]
    busy_until: float = 0.0
    doing: str = "next"
    since: float = 0.0
    collectives: int = 0
    finished: int = 0
    cut: bool = False
    left: bool = False
    deaf: bool = False
    told: bool = True  # of the end of its peers' connections, where they end under a message
    interrupts: int = 0
    unanswered_since: float | None = None
    handler_s: float = 0.0
    swallows: int = 0
    handled: int = 0
    outcome: Outcome | None = None
    queue: list[int] = field(default_factory=list)  # of NCCL: what the device has yet to do
    blamed: bool = False  # whether anything was done to it


class World:
    """A cell on simulated ranks, driven as :class:`ddipp.group.cell.CellRun` drives one."""

    def __init__(self, seed: int, policy: Policy, make: Any = CellFate) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.policy = policy
        self.queued = self.chance.random() < 0.4
        self.size = self.chance.choice([2, 2, 2, 3, 4])
        self.log: list[Any] = []
        self.presses: list[float] = []
        self.faulty = False  # whether anything goes wrong in it at all
        self.done_at: dict[tuple[int, int], float] = {}  # (rank, collective) -> end
        self.complete_at: dict[int, float] = {}  # when all were in a collective
        self.length = self.chance.randint(1, 6)
        self.ranks = [Rank(number, self.program(number)) for number in range(self.size)]
        self.victims: set[int] = set()
        self.spoil()
        deadline = None
        if self.chance.random() < 0.15:
            deadline = self.chance.uniform(0.5, 8)
            self.faulty = True
        self.fate = make(
            range(self.size), GENERATION, policy, Conduct(queued=self.queued), deadline
        )
        self.reports: list[tuple[float, list[Sighting]]] = []  # under way
        self.settling: list[tuple[float, int]] = []
        self.results: list[tuple[float, int, Outcome]] = []
        self.problems: list[str] = []
        self.presses_in_vain = 0.0

    def program(self, number: int) -> list[tuple[str, float]]:
        steps: list[tuple[str, float]] = []
        for _ in range(self.length):
            steps.append(("compute", self.chance.choice([0.0, 0.02, 0.1, 0.5])))
            steps.append(("collective", self.chance.choice([0.0, 0.0, 0.05, 0.3])))
        return steps

    def spoil(self) -> None:
        """Put faults in: none, one, or several, at random places of the program."""
        for _ in range(self.chance.choice([0, 1, 1, 1, 2, 3])):
            victim = self.chance.choice(self.ranks)
            self.victims.add(victim.number)
            self.faulty = True
            kind = self.chance.choice(["raise", "raise", "die", "long", "c code"])
            seconds = self.chance.choice([0.1, 5.0, 15.0, 40.0])
            victim.steps.insert(self.chance.randint(0, len(victim.steps)), (kind, seconds))
        for rank in self.ranks:
            rank.handler_s = self.chance.choice([0.0, 0.0, 0.0, 0.4, 3.0, 12.0])
            rank.told = self.chance.random() < 0.7
            if self.chance.random() < 0.05:
                rank.deaf = True  # only a new process helps
        if self.chance.random() < 0.4:
            self.faulty = True
            at = self.chance.uniform(0, 3)
            for _ in range(self.chance.choice([1, 1, 1, 3])):
                self.presses.append(at)
                at += self.chance.uniform(0.3, 3)
        self.planned = list(self.presses)

    # --- what ranks do -----------------------------------------------------------------------

    def step(self, rank: Rank) -> None:
        if rank.outcome is not None:
            return
        if rank.doing == "next":
            self.begin(rank)
        elif rank.doing in ("compute", "long", "handler", "deaf"):
            self.take_interrupt(rank)
            if rank.outcome is None and self.now >= rank.busy_until and rank.doing != "deaf":
                rank.doing = "next"
        elif rank.doing == "c code" and self.now >= rank.busy_until:
            rank.doing = "next"
            self.take_interrupt(rank)
        elif rank.doing == "collective":
            self.wait_in_collective(rank)
        elif rank.doing == "synchronize" and self.drained(rank):
            rank.doing = "next"
            self.take_interrupt(rank)

    def begin(self, rank: Rank) -> None:
        self.take_interrupt(rank)
        if rank.outcome is not None or rank.doing != "next":
            return
        if not rank.steps:
            if self.queued and not self.drained(rank):
                rank.doing, rank.since = "synchronize", self.now
                return
            return self.end(rank, Outcome.OK)
        kind, seconds = rank.steps.pop(0)
        rank.since, rank.busy_until = self.now, self.now + seconds
        if kind in ("raise", "die"):
            self.end(rank, Outcome.CAUSE if kind == "raise" else Outcome.DEATH)
        elif kind != "collective":
            rank.doing = kind
        elif self.queued:
            rank.collectives += 1
            rank.queue.append(rank.collectives)
            rank.doing = self.chance.choice(["next", "synchronize"])
        else:
            rank.collectives += 1
            rank.doing = "collective"

    def wait_in_collective(self, rank: Rank) -> None:
        number = rank.collectives
        if rank.cut:
            return self.end(rank, Outcome.CONSEQUENCE)
        if all(one.collectives >= number for one in self.ranks):
            delay = self.chance.choice([0.0, 0.1, 0.3])
            self.complete_at.setdefault(number, self.now)
            done = self.done_at.setdefault((rank.number, number), self.now + delay)
            if self.now >= done:
                rank.finished, rank.doing = number, "next"
            return
        gone = any(one.left or one.cut or one.outcome is Outcome.DEATH for one in self.ranks)
        if gone and rank.told and self.now - rank.since > 0.1:
            self.end(rank, Outcome.CONSEQUENCE)

    def drained(self, rank: Rank) -> bool:
        """Tell whether the device has nothing left to do, as far as it can."""
        if rank.cut:
            rank.queue.clear()
        while rank.queue and all(one.collectives >= rank.queue[0] for one in self.ranks):
            if any(one.cut and one.finished < rank.queue[0] for one in self.ranks):
                break  # a peer's part of it was aborted
            rank.finished = rank.queue.pop(0)
        return not rank.queue

    def take_interrupt(self, rank: Rank) -> None:
        """Run the handler of an interrupt, if one came: Python runs."""
        if rank.unanswered_since is None or rank.deaf:
            return
        rank.unanswered_since = None
        if rank.doing == "handler":
            return self.end(rank, Outcome.CONSEQUENCE)  # torn
        rank.handled += 1
        if rank.handler_s == 0:
            return self.end(rank, Outcome.CONSEQUENCE)
        rank.steps = []
        rank.doing, rank.busy_until = "handler", self.now + rank.handler_s
        rank.since = self.now

    def end(self, rank: Rank, outcome: Outcome) -> None:
        rank.outcome = outcome
        rank.doing = "dead" if outcome is Outcome.DEATH else "ended"
        late = self.chance.choice([0.0, 0.0, 0.05, 0.4])
        self.results.append((self.now + late, rank.number, outcome))

    def sighting(self, rank: Rank) -> Sighting:
        if rank.outcome is Outcome.DEATH:
            return Sighting(rank.number, "dead", generation=-1)
        waiting = rank.doing == "collective"
        lasted = self.now - rank.since if waiting else 0.0
        since = rank.unanswered_since
        return Sighting(
            rank.number,
            "idle" if rank.outcome else "busy",
            GENERATION,
            rank.collectives,
            rank.finished,
            waiting,
            lasted,
            0.0 if since is None else self.now - since + 1e-9,
        )

    # --- what the driver does ----------------------------------------------------------------

    def perform(self, actions: list[act.Action]) -> None:
        for action in actions:
            self.log.append((round(self.now, 3), action))
            if action.generation != GENERATION:
                self.problems.append(f"{action} is for another generation")
            for number in action.ranks:
                self.perform_on(action, self.ranks[number])

    def perform_on(self, action: act.Action, rank: Rank) -> None:
        if isinstance(action, act.Interrupt):
            rank.blamed = True
            if rank.outcome is None:
                rank.interrupts += 1
                if rank.unanswered_since is None:
                    rank.unanswered_since = self.now
        elif isinstance(action, act.Cut) and action.unanswered and rank.unanswered_since is None:
            pass
        elif isinstance(action, (act.Cut, act.CutAll)):
            if rank.outcome is None:
                rank.blamed = True
                self.check_cut(rank)
            rank.cut = True
        elif isinstance(action, act.Leave):
            if rank.outcome is None:
                self.problems.append(f"rank {rank.number} is to leave while it runs")
            rank.left = True
        elif isinstance(action, act.Settle):
            rank.blamed = True
            self.settling.append((self.now + self.chance.choice([0.0, 0.2, 2.0]), rank.number))
        elif isinstance(action, act.Abandon):
            self.check_abandoned(rank)

    def check_cut(self, rank: Rank) -> None:
        """Nobody is cut whose collective would have succeeded, or who has taken an interrupt."""
        last = self.fate.phase.value == "last resort"
        failed = last or self.fate.failed  # its group has no future then
        if rank.doing == "handler" and not (failed or self.queued or rank.unanswered_since):
            self.problems.append(f"rank {rank.number} is cut in its handler")
        if self.presses or self.fate.timed_out or self.fate.phase.value == "last resort":
            return
        if any(one.outcome is Outcome.DEATH for one in self.ranks):
            return  # what it has begun nobody knows
        stuck = rank.deaf or rank.doing in ("c code", "handler")
        if self.queued and rank.queue and not stuck and not self.blocked(rank):
            self.problems.append(f"rank {rank.number} is aborted in what would have succeeded")
        if self.queued or rank.doing != "collective":
            return
        complete_at = self.complete_at.get(rank.collectives, -1.0)
        if self.now - complete_at < self.policy.patience_s and not any(
            one.cut for one in self.ranks if one.outcome is None
        ):
            self.problems.append(f"rank {rank.number} is cut in what would have succeeded")

    def blocked(self, rank: Rank) -> bool:
        last = rank.queue[-1]
        return any(
            one.collectives < last or (one.cut and one.finished < last) for one in self.ranks
        )

    def check_abandoned(self, rank: Rank) -> None:
        if rank.outcome is not None:
            return  # its result is under way
        enough = self.fate.presses >= self.policy.presses
        excused = rank.deaf or rank.doing in ("c code", "handler")
        if not enough or not excused:
            self.problems.append(f"rank {rank.number} is given up in {rank.doing}")

    def look(self) -> None:
        if self.reports:
            return  # one at a time
        sights = [self.sighting(rank) for rank in self.ranks]
        for sight in sights:
            if self.chance.random() < 0.03 and sight.state != "dead":
                sight.state, sight.waiting, sight.gloo_wait = "no answer", False, 0.0
                sight.collectives = sight.finished = 0
                sight.unanswered = 0.0
        self.reports.append((self.now + self.chance.choice([0.0, 0.0, 0.05, 0.6]), sights))

    def run(self, limit_s: float = 400.0) -> None:
        """Play the cell to its end."""
        fate = self.fate
        while fate.pending and self.now < limit_s:
            for rank in self.ranks:
                self.step(rank)
            self.deliver()
            while self.presses and self.planned and self.planned[0] <= self.now:
                self.planned.pop(0)
                self.perform(fate.press(self.now))
            self.perform(fate.tick(self.now))
            if fate.wants_sights(self.now):
                self.look()
            # A user who waits in vain presses at last.
            if self.now > 120 and self.now - self.presses_in_vain > 5:
                self.presses_in_vain = self.now
                self.presses.append(self.now)
                self.perform(fate.press(self.now))
            # Long computations need no short steps.
            self.now += STEP_S if self.now < 8 else 5 * STEP_S
        self.check_end()

    def deliver(self) -> None:
        due = {rank: outcome for at, rank, outcome in self.results if at <= self.now}
        self.results = [one for one in self.results if one[0] > self.now]
        if due:
            self.perform(self.fate.results(due, self.now))
        self.fate.settled([rank for at, rank in self.settling if at <= self.now])
        self.settling = [one for one in self.settling if one[0] > self.now]
        for at, sights in list(self.reports):
            if at <= self.now:
                self.reports.remove((at, sights))
                self.perform(self.fate.sights(sights, self.now))

    def check_end(self) -> None:
        fate = self.fate
        if fate.pending:
            self.problems.append(f"ranks {fate.pending} wait for ever")
        running = {one.number for one in self.ranks if one.outcome is None}
        if running - set(fate.abandoned):
            self.problems.append(f"ranks {running} still run after the end")
        if not self.faulty and (self.log or fate.broken):
            self.problems.append(f"something was done though nothing was wrong: {self.log}")
        touched = any(one.cut or one.left for one in self.ranks)
        if touched and not fate.broken:
            self.problems.append("the group was cut and is taken for whole")
        self.check_presses()

    def check_presses(self) -> None:
        """A press is one SIGINT, and a handler is not torn by a second one."""
        fate = self.fate
        if fate.timed_out or self.victims:
            return
        for one in self.ranks:
            if one.interrupts > fate.presses:
                self.problems.append(
                    f"rank {one.number} got {one.interrupts} interrupts of {fate.presses} presses"
                )


class LeftoverWorld(World):
    """The same ranks, whose cell nobody waits for: what they do is known by their reports alone."""

    def __init__(self, seed: int, policy: Policy, make: Any = Leftover) -> None:
        super().__init__(seed, policy)
        self.patient = self.chance.random() < 0.5
        conduct = Conduct(queued=self.queued)
        self.left = make(range(self.size), policy, conduct, 0.0, patient=self.patient)

    def run(self, limit_s: float = 400.0) -> None:
        """Play it to its end."""
        left = self.left
        while left.pending and self.now < limit_s:
            for rank in self.ranks:
                self.step(rank)
            if self.patient and self.planned and self.planned[0] <= self.now:
                self.planned.pop(0)
                left.press(self.now)
            self.perform(left.tick(self.now))
            if left.wants_sights(self.now):
                self.look()
            for at, sights in list(self.reports):
                if at <= self.now:
                    self.reports.remove((at, sights))
                    self.perform(left.sights(sights, self.now))
            if self.patient and self.now > 120 and self.now - self.presses_in_vain > 5:
                self.presses_in_vain = self.now
                left.press(self.now)
            self.now += STEP_S if self.now < 8 else 5 * STEP_S
        running = {one.number for one in self.ranks if one.outcome is None}
        if left.pending or running - set(left.abandoned):
            self.problems.append(f"ranks {running} still run after the end")
        if self.patient and not self.faulty and self.log:
            self.problems.append(f"something was done though nothing was wrong: {self.log}")

    def check_cut(self, rank: Rank) -> None:
        """What is left of a cell may be cut: its group is formed again."""

    def check_abandoned(self, rank: Rank) -> None:
        if rank.outcome is None and self.left.presses < self.policy.presses:
            self.problems.append(f"rank {rank.number} is given up in {rank.doing}")


class FormationWorld:
    """Ranks that join a group, of which some fail, die, or come late, at any moment."""

    def __init__(self, seed: int, policy: Policy) -> None:
        self.chance = random.Random(seed)
        self.policy = policy
        self.size = self.chance.choice([2, 3, 4, 8])
        self.deadline = self.chance.choice([5.0, 60.0])
        self.fate = Formation(range(self.size), GENERATION, policy, self.deadline)
        self.arrive = [self.chance.choice([0.0, 0.1, 1.0]) for _ in range(self.size)]
        self.fail_at = dict.fromkeys(range(self.size), float("inf"))
        self.stuck: set[int] = set()
        for _ in range(self.chance.choice([0, 0, 1, 2, 3])):
            victim = self.chance.randrange(self.size)
            self.fail_at[victim] = self.chance.uniform(0, 1.5)
        if self.chance.random() < 0.1:
            self.stuck.add(self.chance.randrange(self.size))  # it is never heard of again
        self.press_at = self.chance.uniform(0, 3) if self.chance.random() < 0.1 else float("inf")
        self.log: list[Any] = []
        self.problems: list[str] = []

    def run(self) -> None:
        """Play it to its end."""
        fate, now = self.fate, 0.0
        pending = set(range(self.size))
        cut: set[int] = set()
        while not fate.over and now < 200:
            there = [rank for rank in pending if self.arrive[rank] <= now]
            complete = len(there) == self.size and not self.stuck
            for rank in list(pending - self.stuck):
                if now >= self.fail_at[rank]:
                    fate.result(rank, ok=False, now=now)
                elif complete or rank in cut:
                    fate.result(rank, ok=rank not in cut, now=now)
                else:
                    continue
                pending.discard(rank)
            if now >= self.press_at:
                fate.press(now)
            for action in fate.tick(now):
                self.log.append((round(now, 3), action))
                cut.update(action.ranks)
                if action.generation != GENERATION:
                    self.problems.append(f"{action} is for another generation")
                if not fate.failed:
                    self.problems.append("ranks are cut that form a group")
            now += STEP_S
        if now >= 200:
            self.problems.append("it never ends")
        if pending - self.stuck - cut:
            self.problems.append(f"ranks {pending} are left waiting")
