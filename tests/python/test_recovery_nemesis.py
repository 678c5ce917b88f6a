"""Tens of thousands of random schedules of faults against the machine that recovers from them.

Each schedule has its seed; one that fails is played again with ``play(seed)``.
"""

from __future__ import annotations

import ast
import os
from collections import Counter
from pathlib import Path
from typing import Any

import ddipp.recovery
import pytest
from ddipp.recovery import cell
from ddipp.recovery.facts import Outcome
from ddipp.recovery.policy import Policy
from simulated_ranks import FormationWorld, LeftoverWorld, World

ROUNDS = int(os.environ.get("DDIPP_NEMESIS_ROUNDS", "10000"))
POLICY = Policy()


def play(seed: int, make: Any = cell.CellFate) -> World:
    world = World(seed, POLICY, make)
    world.run()
    return world


def test_every_schedule_ends_as_it_should():
    seen: Counter[str] = Counter()
    for seed in range(ROUNDS):
        world = play(seed)
        assert not world.problems, (seed, world.problems, world.log)
        seen.update({type(action).__name__ for _, action in world.log})
        seen.update(f"{one.outcome}" for one in world.ranks)
    # Everything that can happen has happened.
    for name in ("Interrupt", "Cut", "CutAll", "Leave", "Settle", "ShowWaits", "Abandon"):
        assert seen[name] > ROUNDS / 1000, (name, seen)
    for outcome in (Outcome.OK, Outcome.CAUSE, Outcome.CONSEQUENCE, Outcome.DEATH):
        assert seen[f"{outcome}"] > ROUNDS / 100, (outcome, seen)


def test_what_is_left_of_a_cell_ends_too():
    for seed in range(ROUNDS // 4):
        world = LeftoverWorld(seed, POLICY)
        world.run()
        assert not world.problems, (seed, world.problems, world.log)


def test_ranks_that_form_a_group_are_never_left_waiting():
    for seed in range(ROUNDS // 4):
        world = FormationWorld(seed, POLICY)
        world.run()
        assert not world.problems, (seed, world.problems, world.log)


def test_two_runs_with_one_seed_are_equal():
    for seed in range(300):
        assert play(seed).log == play(seed).log


# --- mutants: bugs put in by hand, which the nemesis must find -----------------------------------


class CutsAtOnce(cell.CellFate):
    """Cuts whoever was interrupted, though it has taken the interrupt and deals with it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._steps.look = lambda pending, sights: self._steps.cut_off(pending)


class ForgetsTheCut(cell.CellFate):
    """Forms the group again only when a rank's reply says that it failed."""

    @property
    def broken(self):
        return bool(self._failed)


class InterruptsTwice(cell.CellFate):
    """Sends a second interrupt a second after each press."""

    def press(self, now):
        self._again_at = now + 1
        return super().press(now)

    def tick(self, now):
        actions = super().tick(now)
        if now >= getattr(self, "_again_at", float("inf")) and self._pending:
            self._again_at = float("inf")
            actions += self._steps.interrupt(self._pending)
        return actions


class DoesNotSettle(cell.CellFate):
    """Aborts with NCCL though the failed rank's device has not finished."""

    def _free_queued(self, by_rank):
        for rank in self.pending:
            if rank not in self.aborted and by_rank[rank].state == "busy":
                self.aborted[rank] = 0
                return [*self._steps.interrupt([rank]), *self._steps.cut_off([rank])]
        return []


class IsNotPatient(cell.CellFate):
    """Cuts who waits in a collective that the failed rank has finished."""

    def _free(self, sights, now):
        waiting = [one.rank for one in sights if one.rank in self._pending and one.waiting]
        return self._steps.cut_off(waiting)


class NamesAnotherGeneration(cell.CellFate):
    """Cuts with the number of the generation that is to come."""

    def _note_failures(self, failed, outcomes, now):
        self._steps.generation = self._generation + 1
        return super()._note_failures(failed, outcomes, now)


MUTANTS = {
    "torn": InterruptsTwice,
    "cut in its handler": CutsAtOnce,
    "whole": ForgetsTheCut,
    "would have succeeded": IsNotPatient,
    "aborted in what would have succeeded": DoesNotSettle,
    "another generation": NamesAnotherGeneration,
}


@pytest.mark.parametrize("problem", MUTANTS)
def test_bugs_that_were_put_in_are_found(problem: str):
    wanted = {"torn": "interrupts of"}.get(problem, problem)
    for seed in range(3000):
        if any(wanted in one for one in play(seed, MUTANTS[problem]).problems):
            return
    raise AssertionError("nobody noticed")


# --- purity --------------------------------------------------------------------------------------

ALLOWED = {"__future__", "collections", "dataclasses", "enum", "math", "typing"}


def test_the_machine_names_no_clock_socket_signal_or_library():
    folder = Path(ddipp.recovery.__file__).parent
    files = sorted(folder.glob("*.py"))
    assert len(files) > 6
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [] if node.level == 1 else [node.module or "", ".." * (node.level > 1)]
            else:
                continue
            for module in modules:
                assert module.partition(".")[0] in {*ALLOWED, ""}, f"{file.name} uses {module}"
                assert module != "..", f"{file.name} reaches out of its package"
