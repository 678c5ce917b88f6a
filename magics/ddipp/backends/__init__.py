"""What joins ranks: one object a backend of torch.distributed.

Another backend is one more file here, with an object of :class:`base.Backend`, and its test.
"""

from __future__ import annotations

from .base import Backend
from .gloo import GLOO
from .nccl import NCCL

_KNOWN = {backend.name: backend for backend in (GLOO, NCCL)}


def backend_named(name: str) -> Backend:
    """Return the backend of that name.

    Raises
    ------
    ValueError
        When there is none.
    """
    try:
        return _KNOWN[name]
    except KeyError:
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(_KNOWN)}") from None


def backend_for(gpus: bool) -> Backend:
    """Return the backend for ranks with or without a GPU each."""
    return NCCL if gpus else GLOO


__all__ = ["Backend", "backend_for", "backend_named"]
