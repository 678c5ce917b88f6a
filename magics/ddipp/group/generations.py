"""The process group of some ranks through its generations: formed, broken, formed again."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from .. import apps
from ..backends import backend_named
from ..errors import DdippError, DevicesLost, RanksLost
from ..on_rank import beside
from ..on_rank import membership as rank_side
from ..on_rank import process as rank_process
from ..recovery.policy import Policy
from ..shared.text import ranks_text
from .announcer import Announcer
from .calls import Ranks
from .carrier import Carrier
from .failures import is_death, name_of, text_of
from .formation import changes, end_leftover, form_generation, wait_until_idle

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


def policy_of(limits: Limits, backend: str) -> Policy:
    """Return how patient recoveries are.

    Parameters
    ----------
    limits : Limits
        Of a group.
    backend : str
        Name of what joins it.
    """
    return Policy(grace_s=limits.grace_s, cut_after_s=backend_named(backend).cut_after_s)


class Generations:
    """Forms the group of some ranks, again and again.

    Parameters
    ----------
    ranks : Ranks
        All of them.
    backend : str
        Name of what joins them, see :mod:`ddipp.backends`.
    app : str
        Name of the app that ranks are prepared with.
    limits : Limits
        Shared with the group.
    announcer : Announcer
        Who is told.
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

    def __init__(
        self,
        ranks: Ranks,
        backend: str,
        app: str,
        limits: Limits,
        announcer: Announcer,
        may_restart: Callable[[int], bool] | None = None,
    ) -> None:
        self._ranks = ranks
        self._backend = backend_named(backend)
        self._announcer = announcer
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
        self._listening: set[tuple[str, int]] = set()  # processes

    @property
    def policy(self) -> Policy:
        """How patient recoveries are."""
        return policy_of(self._limits, self._backend.name)

    def _carrier(self) -> Carrier:
        return Carrier(self._ranks, self._announcer, self, conduct=self._backend.conduct)

    # --- forming -----------------------------------------------------------------------------

    def form(self) -> None:
        """Form the process group, or form it again as the next generation.

        Raises
        ------
        DdippError
            When it can't be formed.
        """
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
                    raise DdippError(_unformed(error)) from error
                self._wait_for_notice()
                if attempt == FORM_ATTEMPTS:
                    raise DdippError(f"ranks die while the group forms: {text_of(error)}") from None
                died = sorted({*self._ranks.gone(), *self._ranks.replaced()})
                if died:
                    self._announcer.say(
                        f"{ranks_text(died)} died while the group formed; waiting for "
                        f"{'it' if len(died) == 1 else 'them'}"
                    )
            except TimeoutError as error:
                raise DdippError(_unformed(error)) from error

    def _wait_for_notice(self) -> None:
        """Wait until the client knows of a death whose error has come before the notice."""
        deadline = time.monotonic() + 1
        while not (self._ranks.gone() or self._ranks.replaced()) and time.monotonic() < deadline:
            time.sleep(0.005)

    def _form_once(self, failed: bool = False) -> None:
        self.number += 1
        try:
            formed = form_generation(
                self._ranks,
                self.number,
                self._backend,
                self.policy,
                self._limits.timeout_s,
                rich=self._announcer.is_rich(),
                failed=failed,
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
            self._announcer.say(line)
        self._whole = []

    def _start_app(self) -> None:
        import ipyparallel.error

        starting = sorted(self._without_app)
        self._ranks.tell(beside.listen, self._ranks.key, ranks=self._unheard())
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

    def wait_until_idle(self) -> None:
        """Wait for the cell of a notebook that is gone; see :func:`wait_until_idle`."""
        wait_until_idle(self._carrier(), self._ranks, self.policy, self._announcer)

    def _unheard(self) -> list[int]:
        """Return the ranks whose process has not been asked to listen beside its main thread."""
        processes = self._ranks.processes()
        new = [rank for rank, process in enumerate(processes) if process not in self._listening]
        self._listening.update(processes)
        return new

    def resume(self) -> None:
        """Form a new generation of ranks that were in a group before."""
        standings = self._ranks.apply(rank_side.standing)
        self.number = max(generation for generation, _ in standings)
        # A rank that has never been in this group was started again while nobody looked.
        self.lost = {rank for rank, (generation, _) in enumerate(standings) if generation < 0}
        self._without_app = {rank for rank, (_, ready) in enumerate(standings) if not ready}
        self.form()
        if self.lost:
            self._announcer.say(self._lost_text(sorted(self.lost)))

    # --- ranks that die ----------------------------------------------------------------------

    def _take_back_ranks(self) -> None:
        """Wait until ranks that died are there again; their supervisors start them.

        Raises
        ------
        DdippError
            When one does not come back.
        """
        self._welcome_abandoned()
        deadline = time.monotonic() + self._limits.timeout_s
        while gone := self._ranks.gone():
            self._cut_off.update(gone)
            if time.monotonic() > deadline or not all(map(self._may_restart, gone)):
                raise DdippError(self._missing_text(gone))
            time.sleep(0.02)
        back = self._ranks.replaced()
        self._ranks.accept(back)
        self.lost.update(back)
        self._without_app.update(back)
        self._free_busy_ranks(self._cut_off - set(back))
        self._cut_off.clear()

    def _welcome_abandoned(self) -> None:
        """Take back ranks that were given up and react again, or are new processes.

        Raises
        ------
        DdippError
            When one does not.
        """
        if not self.abandoned:
            return
        back = set(self._ranks.replaced())
        reports = self._ranks.reports(stack=False)
        back |= {one.rank for one in reports if one.state == "idle"}
        if back & self.abandoned:
            self._announcer.say(f"{ranks_text(back & self.abandoned)} reacts again")
        self.abandoned -= back
        if self.abandoned:
            raise DdippError(f"{ranks_text(self.abandoned)} does not react; {_RENEW}")

    def _missing_text(self, gone: Sequence[int]) -> str:
        if all(map(self._may_restart, gone)) and all(map(self._ranks.process_exists, gone)):
            one = len(gone) == 1
            return (
                f"{ranks_text(gone)} {'is' if one else 'are'} out of reach, though "
                f"{'its process is' if one else 'their processes are'} there: stopped, or cut off "
                f"from the controller. {'It takes its place' if one else 'They take their places'} "
                f"again when {'it goes' if one else 'they go'} on; {_RENEW}"
            )
        return (
            f"{ranks_text(gone)} died and did not start again; the variables of the others are "
            "kept. Save what you need with %dipull, then start again with %makedip -r"
        )

    def end_cells(self) -> None:
        """End what ranks still run, of a cell that nobody waits for any more."""
        end_leftover(self._carrier(), range(len(self._ranks)), self.policy)

    def _free_busy_ranks(self, ranks: Collection[int]) -> None:
        """End what ranks still do that only their network had lost: the cell that has failed."""
        if ranks and (stuck := end_leftover(self._carrier(), ranks, self.policy)):
            raise DdippError(f"{ranks_text(stuck)} does not react; {_RENEW}")

    def notice_losses(self) -> None:
        """Form again, and say so, when ranks died since the last cell.

        Raises
        ------
        RanksLost
            Once for each loss: a cell that counts on variables which only some ranks have should
            not run. One finds all ranks alike when all have died.
        """
        if not (self._ranks.gone() or self._ranks.replaced()):
            return
        self._formed = False
        before = set(self.lost)
        self.form()
        text = self._lost_text(sorted(self.lost - before) or sorted(self.lost))
        if len(self.lost - before) < len(self._ranks):
            raise RanksLost(text)
        self._announcer.say(text)

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
            self._announcer.say(
                f"{ranks_text(died)} gone; waiting for {'it' if len(died) == 1 else 'them'}"
            )
        if self._backend.settles:
            self._whole = [] if died else self._settle()
            self._ranks.cut(self.number, range(len(self._ranks)))
        self.leave(range(len(self._ranks)))
        try:
            self._through_deaths(self._after_failure)
        except DdippError as error:
            self._announcer.say(str(error))
        if new := sorted(self.lost - before):
            self._announcer.say(self._lost_text(new))

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
                self._ranks.start(rank, rank_process.settle, self.policy.settle_s)
                for rank in behind
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
        unwell = self.abandoned | self.broken | set(self._ranks.gone())
        chosen = sorted(unwell if ranks is None else ranks)
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
        self._announcer.say(
            f"{ranks_text(chosen)} started again, without {word} variables; the group works"
        )

    def _after_failure(self) -> None:
        self._form_once(failed=True)
        self.free_memory(thorough=True)

    def _lost_text(self, ranks: Sequence[int]) -> str:
        one = len(ranks) == 1
        text = (
            f"{ranks_text(ranks)} died and {'was' if one else 'were'} started again, without "
            f"{'its' if one else 'their'} variables; the group works. "
        )
        if len(self.lost) == len(self._ranks):
            return text + "No rank has variables to copy from: run the cells that made them again"
        return text + "%dipsync copies the variables of another rank to it"


def _unformed(error: BaseException) -> str:
    """Say in one line why a group could not be formed, otherwise than by a death."""
    first = next((one for one in getattr(error, "elist", [])), None)
    name, text = (first[0], first[1]) if first else (name_of(error), text_of(error))
    line = str(text).strip().partition("\n")[0]
    return (
        f"the group could not be formed again ({name}: {line}); the next cell tries it again, and "
        "%makedip -r starts all ranks anew"
    )
