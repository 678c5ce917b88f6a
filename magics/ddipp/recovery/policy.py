"""The seconds and counts of a recovery: the only place that has them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """How patient a recovery is.

    Attributes
    ----------
    grace_s : float
        What peers of a failed rank may go on computing, and a rank that takes interrupts and goes
        on all the same.
    cut_after_s : float
        What a rank that waits in a collective has to take an interrupt before it is cut.
    unknown_after_s : float
        The same where it is not known what the rank is in: a store, or a computation in C.
    patience_s : float
        What a message may take that could still come: of a collective that the failed rank has
        finished, or of a send.
    look_s : float
        Between two looks at ranks of which one has failed or is interrupted.
    insist_s : float
        Between the interrupts of a cell that is out of time and whose ranks have not taken them.
    presses : int
        Interrupts after which the user wants no more than an end.
    last_resort_s : float
        What a rank has to end in once all of its connections are shut down, before it is given up.
    settle_s : float
        What a device may take to finish what all ranks have begun.
    form_end_s : float
        What ranks may take to leave a formation that has failed.
    """

    grace_s: float = 10.0
    cut_after_s: float = 0.15
    unknown_after_s: float = 1.0
    patience_s: float = 0.5
    look_s: float = 0.1
    insist_s: float = 2.0
    presses: int = 3
    last_resort_s: float = 2.0
    settle_s: float = 2.0
    form_end_s: float = 5.0
