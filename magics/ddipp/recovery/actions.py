"""What a recovery asks for; each names its generation, so that a late one hits nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Action:
    """Something to do for some ranks of a generation."""

    generation: int
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Interrupt(Action):
    """Send SIGINT, once, to what these ranks run for this cell."""


@dataclass(frozen=True)
class Cut(Action):
    """End the collectives that these ranks wait in, by shutting down or aborting their group.

    Attributes
    ----------
    unanswered : bool
        Whether only of those that have not taken an interrupt by the time that it arrives.
    """

    unanswered: bool = False


@dataclass(frozen=True)
class CutAll(Action):
    """Shut down every connection of these processes that is not the engine's own."""


@dataclass(frozen=True)
class Leave(Action):
    """Let ranks, which are idle, leave the group."""


@dataclass(frozen=True)
class Settle(Action):
    """Let the devices of ranks, which are idle, finish what they can; answered by ``settled``."""


@dataclass(frozen=True)
class ShowWaits(Action):
    """Say where these ranks are, which do not react."""


@dataclass(frozen=True)
class ShowHang(Action):
    """Say that no rank has made progress for so long."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Abandon(Action):
    """Give up on these ranks."""


def ordered(ranks: Iterable[int]) -> tuple[int, ...]:
    """Return ranks as actions name them."""
    return tuple(sorted(set(ranks)))
