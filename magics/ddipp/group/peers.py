"""Frees the peers of a rank that has failed: they wait for it in vain in a collective."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..on_rank import process as rank_process
from .report import RankReport

if TYPE_CHECKING:
    from .group import Group


class Peers:
    """What is done for the peers of ranks that failed in a cell, with Gloo.

    A failed rank leaves, and with it the collectives go that it has not finished; those who wait in
    one are cut off, and it raises. The closed connections alone would do that one rank after the
    other. One that it has finished may still succeed on others, if its messages were delivered.

    Parameters
    ----------
    group : Group
        Where the cell runs.

    Attributes
    ----------
    aborted : dict of int to int
        Ranks that were taken out of a collective and notice it only by an interrupt; its number,
        0 where it is not known.
    """

    #: Between an interrupt and the end of the collectives that ranks wait in then, in seconds.
    CUT_AFTER_S = 0.15
    #: What a message may take that could still come: of such a collective, or of a send.
    PATIENCE_S = 0.5
    _PERIOD_S = 0.2

    def __init__(self, group: Group) -> None:
        self._group = group
        self._next_look = 0.0
        self._since = math.inf
        self.aborted: dict[int, int] = {}

    def failed(self, ranks: Sequence[int]) -> None:
        """Take note of ranks that have failed now, and live: they are idle."""
        self._group.generations.leave(ranks)
        self._group.ranks.cut(self._group.generation, ranks)

    def forget(self) -> None:
        """Let go of what was kept for the cell, which has ended."""

    def free(self, pending: Sequence[int], failed: Sequence[int]) -> None:
        """End the wait of ranks, to be called often; both lists are not empty."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + self._PERIOD_S
        self._since = min(self._since, now)
        self._free(pending, failed, self._group.ranks.reports(stack=False))

    def _free(
        self, pending: Sequence[int], failed: Sequence[int], reports: Sequence[RankReport]
    ) -> None:
        """End the wait of ranks that wait in vain."""
        finished = min(reports[rank].finished for rank in failed)  # 0 of one that has died
        late = time.monotonic() - self._since > self.PATIENCE_S

        def in_vain(report: RankReport) -> bool:
            if report.waiting and report.collectives > finished:
                return True
            return late and report.gloo_wait > self.PATIENCE_S

        self._group.cut([rank for rank in pending if in_vain(reports[rank])])


class NcclPeers(Peers):
    """The same with NCCL, whose collectives are queued for the GPU while Python goes on.

    One that all ranks have begun will succeed, and nothing may disturb it: what is queued behind
    it, such as the step of an optimizer, counts on its result. One that the failed rank has not
    begun blocks the GPU. Its abort raises nothing in Python, so an interrupt goes with it.
    """

    CUT_AFTER_S = 1.2
    _PERIOD_S = 0.05

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self._settling: dict[int, Any] = {}

    def failed(self, ranks: Sequence[int]) -> None:
        """Let the GPUs of these ranks finish what they can."""
        limit_s = self._group.limits.grace_s
        for rank in ranks:
            self._settling[rank] = self._group.ranks.start(rank, rank_process.settle, limit_s)

    def forget(self) -> None:
        """Let go of the answers of ranks."""
        self._group.ranks.forget([one for one in self._settling.values() if one.ready()])

    def _free(
        self, pending: Sequence[int], failed: Sequence[int], reports: Sequence[RankReport]
    ) -> None:
        """Abort what can't succeed, once all that can has."""
        begun = min(reports[rank].collectives for rank in failed)  # 0 of one that has died
        ahead = [rank for rank in pending if reports[rank].collectives > begun]
        behind = [rank for rank in failed if reports[rank].collectives == begun]
        if not all(self._settling[rank].ready() for rank in behind if rank in self._settling):
            return
        doomed = [rank for rank in ahead if rank not in self.aborted]
        known = all(reports[rank].state != "dead" for rank in failed)
        self.aborted |= dict.fromkeys(doomed, begun + 1 if known else 0)
        self._group.signal(signal.SIGINT, doomed)  # first: it waits for Python to go on
        self._group.cut(doomed)
