"""What a recovery decides on: what a rank is seen doing, and how a cell ended on it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol


class Outcome(enum.Enum):
    """How a cell ended on a rank."""

    OK = "ok"
    #: It failed by itself.
    CAUSE = "cause"
    #: It was taken out of a collective, or interrupted by us.
    CONSEQUENCE = "consequence"
    DEATH = "death"
    #: Nobody will ever say: the controller that would have has been replaced.
    UNKNOWN = "unknown"


class Sight(Protocol):
    """A rank as its report shows it; see :class:`ddipp.group.report.RankReport`."""

    @property
    def rank(self) -> int:
        """Which."""

    @property
    def state(self) -> str:
        """``"idle"``, ``"busy"``, ``"dead"`` or ``"no answer"``."""

    @property
    def generation(self) -> int:
        """Of the group that it is in."""

    @property
    def collectives(self) -> int:
        """Begun in this generation."""

    @property
    def finished(self) -> int:
        """All up to this number have ended."""

    @property
    def waiting(self) -> bool:
        """Whether its last collective has not ended."""

    @property
    def gloo_wait(self) -> float:
        """Seconds that its longest wait in Gloo has lasted; 0 for none."""

    @property
    def unanswered(self) -> float:
        """Seconds since an interrupt after which its Python has not run yet; 0 for none."""


@dataclass(frozen=True)
class Conduct:
    """How the collectives of a backend fail, as far as a recovery has to know.

    Attributes
    ----------
    queued : bool
        Collectives are queued for a device while Python goes on: the number of a collective tells
        who waits, an abort raises nothing, and what all have begun succeeds if nobody aborts it.
    """

    queued: bool = False
