"""What a group has to know of the backend that joins its ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..recovery.facts import Conduct


@dataclass(frozen=True)
class Backend:
    """A backend of torch.distributed, as it is set up, fails and is freed.

    Attributes
    ----------
    name : str
        As users and reports know it.
    spec : str
        What ``init_process_group`` is given.
    conduct : Conduct
        How its collectives fail.
    cut_after_s : float
        What a rank may take between an interrupt and the end of the collective that it waits in.
    guards_sockets : bool
        Whether a cut may shut its connections down.
    settles : bool
        Whether devices work on after Python, so that a failed rank has to let them finish first.
    frees_first : bool
        Whether a group takes device memory, which a failed cell has to free before it forms.
    aborts : bool
        Whether the group has an abort of its own, which ends it for all ranks.
    device_kind : str
        What a rank of it is, for people: ``"CPU"`` or ``"GPU"``.
    environment : mapping of str to str
        What is set on the ranks unless the user has chosen.
    loopback : bool
        Whether ranks of one host are joined over its loopback interface.
    """

    name: str
    spec: str
    conduct: Conduct = field(default_factory=Conduct)
    cut_after_s: float = 0.15
    guards_sockets: bool = True
    settles: bool = False
    frees_first: bool = False
    aborts: bool = False
    device_kind: str = "CPU"
    environment: Mapping[str, str] = field(default_factory=dict)
    loopback: bool = True

    def device(self, local_rank: int) -> Any:
        """Return the device of a rank, and make it the present one. On the rank."""
        import torch

        return torch.device("cpu")

    def init_options(self, device: Any) -> dict[str, Any]:
        """Return further arguments of ``init_process_group``."""
        return {}

    def barrier_options(self, device: Any) -> dict[str, Any]:
        """Return arguments of ``barrier``."""
        return {}
