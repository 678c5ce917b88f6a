"""Objects that outlive a generation: one handler for each kind, each with three duties.

A rank's variables stay when its process group ends, and some of them are bound to that group or
were left in the middle of an iteration. When the next generation has formed, `renew` makes them
good; `verify` compares between ranks what has to be equal; and what can't be made right is said in
one line that tells how to make it anew. A new kind is a new file and a line in `HANDLERS`.
"""

from __future__ import annotations

from typing import Any, Protocol

from . import ddp, fsdp, lightning, meshes, models


class Handler(Protocol):
    """What a module in this folder provides; those that have nothing to do leave a function out."""

    def watch(self) -> None:
        """Know objects of this kind from now on; torch is loaded, and it costs nothing twice."""

    def tell(self) -> dict[str, Any]:
        """Return what the other ranks need to know of this one to renew theirs."""

    def renew(self, default_before: Any, told: list[dict[str, Any]]) -> list[str]:
        """Make objects good in the generation that has just formed.

        Parameters
        ----------
        default_before : ProcessGroup or None
            The default group of the last generation; None when the group has not changed.
        told : list of dict
            What the ranks have told.

        Returns
        -------
        list of str
            A line for each object that can't be made good: what it is and how to make it anew.
        """

    def verify(self, namespace: dict[str, Any]) -> dict[str, str]:
        """Return facts by name that have to be equal on all ranks."""


#: All kinds, in the order in which they are renewed.
HANDLERS: tuple[Any, ...] = (ddp, fsdp, lightning, meshes, models)


def watch() -> None:
    """Know objects from their creation: a search takes longer the more a user holds."""
    for handler in HANDLERS:
        if hasattr(handler, "watch"):
            handler.watch()


def tell() -> dict[str, Any]:
    """Return what the other ranks need to know of this one, of all kinds."""
    facts: dict[str, Any] = {}
    for handler in HANDLERS:
        if hasattr(handler, "tell"):
            facts.update(handler.tell())
    return facts


def renew(default_before: Any, told: list[dict[str, Any]]) -> list[str]:
    """Make all objects good; returns lines on those that can't be."""
    lines: list[str] = []
    for handler in HANDLERS:
        if not hasattr(handler, "renew"):
            continue
        try:
            lines += handler.renew(default_before, told)
        except Exception as error:  # one kind must not keep the group from forming
            kind = handler.__name__.rpartition(".")[2]
            lines.append(
                f"what belongs to {kind} could not be made ready ({type(error).__name__}: "
                f"{str(error).partition(chr(10))[0]}); make it anew"
            )
    return lines


def verify(namespace: dict[str, Any]) -> dict[str, str]:
    """Return facts by name that have to be equal on all ranks, of all kinds."""
    facts: dict[str, str] = {}
    for handler in HANDLERS:
        if hasattr(handler, "verify"):
            facts.update(handler.verify(namespace))
    return facts


def begin() -> None:
    """Count what ranks do from here: they are equal, or it was said that they are not."""
    models.forget_steps()
