"""What ddipp's own parts say to each other beside ipyparallel's messages: docs/protocol.md.

The mirror of ``protocol/extensions.hpp``; ``tests/python/test_wire.py`` compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Of all that is in this file.
VERSION = 1
#: The entry under which we add to content and metadata of ipyparallel's messages.
ENTRY = "ddipp"

CUT_REQUEST = "ddipp_cut_request"
REPORT_REQUEST = "ddipp_report_request"
REPLAY_REQUEST = "ddipp_replay_request"

#: What interrupts raise.
INTERRUPTS = ("KeyboardInterrupt", "CancelledError")


class Facts:
    """Names of what stands beside the exception in the reply to a request that has failed."""

    #: Whether it failed because of another rank, or of a cut.
    CONSEQUENCE = "consequence"
    #: Why the engine is gone: a line. From the controller.
    DEATH = "death"
    #: The error that the request has shown though it has not failed: name, value and traceback.
    SHOWN = "shown"


def cut(generation: int, *, everything: bool = False, unanswered: bool = False) -> dict[str, Any]:
    """Return the content of a request that ends the collectives that a rank waits in.

    Parameters
    ----------
    generation : int
        That is meant.
    everything : bool
        Whether to shut down every connection of the process that is not the engine's own.
    unanswered : bool
        Whether nothing is to be done where Python has run since the last interrupt.
    """
    return {"generation": generation, "everything": everything, "unanswered": unanswered}


def report(gpu: str, *, stack: bool) -> dict[str, Any]:
    """Return the content of a request for what a rank is doing."""
    return {"stack": stack, "gpu": gpu}


def interrupt(number: int, msg_id: str = "") -> dict[str, Any]:
    """Return the content of a ``signal_request`` for one request, or for what runs."""
    return {"sig": number, **({"msg_id": msg_id} if msg_id else {})}


@dataclass(frozen=True)
class CellPlace:
    """Where the code of a cell stands in the notebook.

    Attributes
    ----------
    number : int
        Of the cell, as in ``In[7]``.
    above : tuple of str
        The lines of the cell above the code, such as that of ``%%dip``.
    """

    number: int
    above: tuple[str, ...] = ()


def cell_terms(grace_s: float | None, place: CellPlace | None = None) -> dict[str, Any]:
    """Return metadata of a cell.

    Parameters
    ----------
    grace_s : float, optional
        What other ranks may go on computing when one has failed.
    place : CellPlace, optional
        What tracebacks call it.
    """
    terms: dict[str, Any] = {"version": VERSION}
    if grace_s is not None:
        terms["grace"] = grace_s
    if place is not None:
        terms["cell"] = {"number": place.number, "above": list(place.above)}
    return {ENTRY: terms}
