"""The process group of some ranks through its generations: formed, broken, formed again."""

from __future__ import annotations

import contextlib
import signal as signals
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from .. import apps
from ..errors import DdippError, DevicesLost, RanksLost
from ..notebook.display import ranks_text, say
from ..on_rank import membership as rank_side
from ..on_rank import process as rank_process
from .calls import Ranks, is_death
from .formation import changes, form_generation

#: How often a group is tried to form while ranks die.
FORM_ATTEMPTS = 3

_RENEW = "%makedip --renew starts it again, the others keep their variables"


@dataclass
class Limits:
    """How long things may take, in seconds.

    Attributes
    ----------
    timeout_s : float
        The start of ranks, and a rendezvous.
    grace_s : float
        What peers of a rank that failed may go on computing.
    hang_after_s : float or None
        A report is shown when no rank makes progress for so long; None for never.
    """

    timeout_s: float = 60.0
    grace_s: float = 10.0
    hang_after_s: float | None = 120.0


class Generations:
    """Forms the group of some ranks, again and again.

    Parameters
    ----------
    ranks : Ranks
        All of them.
    backend : {"gloo", "nccl"}
        What joins them.
    app : str
        Name of the app that ranks are prepared with.
    limits : Limits
        Shared with the group.
    may_restart : callable, optional
        Tells whether a rank that died can come back; all may when not given.

    Attributes
    ----------
    number : int
        Of the last generation that was begun.
    lost : set of int
        Ranks that were started again, and have not got their variables back.
    abandoned : set of int
        Ranks that do not react.
    broken : set of int
        Ranks that can't use their GPU any more.
    """

    _SETTLE_S = 2.0  # what the GPU may take to finish what all ranks have begun

    def __init__(
        self,
        ranks: Ranks,
        backend: str,
        app: str,
        limits: Limits,
        may_restart: Callable[[int], bool] | None = None,
    ) -> None:
        self._ranks = ranks
        self._backend = backend
        self._app = app
        self._limits = limits
        self._may_restart = may_restart or (lambda _: True)
        self._formed = False
        self._without_app = set(range(len(ranks)))
        self._cut_off: set[int] = set()  # gone, and perhaps only from the network
        self.number = 0
        self.lost: set[int] = set()
        self.abandoned: set[int] = set()
        self.broken: set[int] = set()
        self._whole: list[int] = []  # see changes()

    # --- forming -----------------------------------------------------------------------------

    def form(self) -> None:
        """Form the process group, or form it again as the next generation."""
        self._through_deaths(self._form_once)

    def _through_deaths(self, action: Callable[[], None]) -> None:
        """Do something with all ranks; again when one died, once it is there again."""
        import ipyparallel.error

        for attempt in range(1, FORM_ATTEMPTS + 1):
            self._take_back_ranks()
            try:
                return action()
            except ipyparallel.error.IPythonError as error:
                if not is_death(error):
                    raise
                if attempt == FORM_ATTEMPTS:
                    raise DdippError(f"ranks die while the group forms: {error}") from None
                self._wait_for_notice()

    def _wait_for_notice(self) -> None:
        """Wait until the client knows of a death whose error has come before the notice."""
        deadline = time.monotonic() + 1
        while not (self._ranks.gone() or self._ranks.replaced()) and time.monotonic() < deadline:
            time.sleep(0.005)

    def _form_once(self, failed: bool = False) -> None:
        self.number += 1
        try:
            formed = form_generation(
                self._ranks, self.number, self._backend, self._limits.timeout_s, failed=failed
            )
        except DevicesLost as error:
            self.broken = set(error.ranks)
            raise
        self._formed = True
        self.broken.clear()
        self._ranks.know_gpus([fact["gpu"] for fact in formed])
        self._start_app()
        if self.number == 1:
            self._ranks.tell(rank_process.warm_up)  # while the user writes the first cell
        for line in changes(formed, self._backend, self.lost, self._whole):
            say(line)
        self._whole = []

    def _start_app(self) -> None:
        import ipyparallel.error

        starting = sorted(self._without_app)
        try:
            for result in [
                self._ranks.start(rank, apps.start_here, self._app) for rank in starting
            ]:
                self._ranks.take(result)
        except ipyparallel.error.RemoteError as error:
            if error.ename != "DdippError":
                raise
            raise DdippError(error.evalue) from None
        self._without_app.clear()

    def resume(self) -> None:
        """Form a new generation of ranks that were in a group before."""
        standings = self._ranks.apply(rank_side.standing)
        self.number = max(generation for generation, _ in standings)
        # A rank that has never been in this group was started again while nobody looked.
        self.lost = {rank for rank, (generation, _) in enumerate(standings) if generation < 0}
        self._without_app = {rank for rank, (_, ready) in enumerate(standings) if not ready}
        self.form()
        if self.lost:
            say(_lost_text(sorted(self.lost)))

    # --- ranks that die ----------------------------------------------------------------------

    def _take_back_ranks(self) -> None:
        """Wait until ranks that died are there again; their supervisors start them.

        Raises
        ------
        DdippError
            When one does not come back.
        """
        if self.abandoned:
            raise DdippError(f"{ranks_text(self.abandoned)} does not react; {_RENEW}")
        deadline = time.monotonic() + self._limits.timeout_s
        while gone := self._ranks.gone():
            self._cut_off.update(gone)
            if time.monotonic() > deadline or not all(map(self._may_restart, gone)):
                word = "rank" if len(gone) == 1 else "ranks"
                raise DdippError(
                    f"{word} {', '.join(map(str, gone))} died and did not start again; the "
                    "variables of the others are kept. Save what you need with %dipull, then start "
                    "again with %makedip -r"
                )
            time.sleep(0.02)
        back = self._ranks.replaced()
        self._ranks.accept(back)
        self.lost.update(back)
        self._without_app.update(back)
        self._free_busy_ranks(self._cut_off - set(back))
        self._cut_off.clear()

    def end_cells(self) -> None:
        """End what ranks still run, of a cell that nobody waits for any more."""
        with contextlib.suppress(DdippError):  # they are given up then
            self._free_busy_ranks(range(len(self._ranks)))

    def _free_busy_ranks(self, ranks: Collection[int]) -> None:
        """End what ranks still do that only their network had lost: the cell that has failed."""
        deadline = time.monotonic() + self._limits.grace_s
        while ranks:
            reports = self._ranks.reports(stack=False)
            busy = [one.rank for one in reports if one.rank in ranks and one.state == "busy"]
            if not busy:
                return
            if time.monotonic() > deadline:
                self.abandon(busy)
                raise DdippError(f"{ranks_text(busy)} does not react; {_RENEW}")
            self._ranks.signal(signals.SIGINT, busy)
            self._ranks.cut(self.number, busy)
            time.sleep(0.2)

    def notice_losses(self) -> None:
        """Form again, and say so, when ranks died since the last cell.

        Raises
        ------
        RanksLost
            Once for each loss: a cell that counts on lost variables should not run.
        """
        if not (self._ranks.gone() or self._ranks.replaced()):
            return
        self._formed = False
        before = set(self.lost)
        self.form()
        raise RanksLost(_lost_text(sorted(self.lost - before) or sorted(self.lost)))

    def make_ready(self) -> None:
        """Form the group unless it is there.

        Raises
        ------
        RanksLost
            When ranks died since the last cell.
        """
        self.notice_losses()
        if not self._formed:
            self.form()

    def abandon(self, ranks: Sequence[int]) -> None:
        """Count ranks as lost that do not react to interrupts."""
        self.abandoned.update(ranks)

    def leave(self, ranks: Sequence[int]) -> None:
        """Make idle ranks leave the group, without waiting."""
        self._ranks.tell(rank_side.leave_group, ranks=ranks)

    def free_memory(self, *, thorough: bool = False) -> None:
        """Let the ranks give unused memory back before the next cell, without waiting."""
        self._ranks.tell(rank_process.free_memory, thorough)

    def recover(self, died: Sequence[int] = ()) -> None:
        """After a failed cell: free what it holds and form the next generation.

        Parameters
        ----------
        died : sequence of int
            Ranks whose death ended the cell.
        """
        self._formed = False
        if self.abandoned:
            return  # the next use says what to do
        before = set(self.lost) - set(died)
        if died:
            self._wait_for_notice()
            self._cut_off.update(died)
            say(f"{ranks_text(died)} gone; waiting for {'it' if len(died) == 1 else 'them'}")
        if self._backend == "nccl":
            self._whole = [] if died else self._settle()
            self._ranks.cut(self.number, range(len(self._ranks)))
        self.leave(range(len(self._ranks)))
        try:
            self._through_deaths(self._after_failure)
        except DdippError as error:
            say(str(error))
        if new := sorted(self.lost - before):
            say(_lost_text(new))

    def _settle(self) -> list[int]:
        """Let the GPUs finish the collectives that all ranks have begun.

        Returns
        -------
        list of int
            Ranks that were in no other. On the rest the GPU has yet to be taken out of one, and
            what was queued behind it, the step of an optimizer, will go on without its result.
        """
        import ipyparallel.error

        reports = [one for one in self._ranks.reports(stack=False) if one.generation == self.number]
        least = min((report.collectives for report in reports), default=0)
        behind = [report.rank for report in reports if report.collectives == least]
        try:
            waits = [
                self._ranks.start(rank, rank_process.settle, self._SETTLE_S) for rank in behind
            ]
            problems = [self._ranks.take(wait) for wait in waits]
        except ipyparallel.error.IPythonError:
            return []  # one has died: seen when the group forms
        return [rank for rank, problem in zip(behind, problems) if not problem]

    def renew(self, ranks: Collection[int] | None = None) -> None:
        """Start ranks again and form the group; the others keep their variables.

        Parameters
        ----------
        ranks : collection of int, optional
            Which; when not given those that do not react or can't use their GPU.

        Raises
        ------
        DdippError
            When there are none, or one does not start.
        """
        chosen = sorted(self.abandoned | self.broken if ranks is None else ranks)
        if not chosen:
            raise DdippError("all ranks can go on; name those to start again: %makedip --renew 1")
        self._formed = False
        if missing := self._ranks.restart(chosen, self._limits.timeout_s):
            raise DdippError(
                f"{ranks_text(missing)} did not start again; end the group with %makedip -k, or "
                "start all of it again with -r"
            )
        self.abandoned -= set(chosen)
        self.form()
        word = "its" if len(chosen) == 1 else "their"
        say(f"{ranks_text(chosen)} started again, without {word} variables; the group works")

    def _after_failure(self) -> None:
        self._form_once(failed=True)
        self.free_memory(thorough=True)


def _lost_text(ranks: Sequence[int]) -> str:
    one = len(ranks) == 1
    return (
        f"{ranks_text(ranks)} died and {'was' if one else 'were'} started again, without "
        f"{'its' if one else 'their'} variables; the group works. %dipsync copies the variables of "
        "another rank to it"
    )
