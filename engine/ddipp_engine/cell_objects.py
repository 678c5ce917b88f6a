"""Classes and functions of cells in processes that Python starts anew.

Workers of a DataLoader, ``torch.multiprocessing.spawn`` and ProcessPoolExecutor get what they are
to do by name: ``__main__.MyDataset``. A script's main module they load again; that of cells has no
file, and to run cells a second time would do again what they have done. So definitions go along
by value. `load` runs in the new process, so this module loads nothing else.
"""

from __future__ import annotations

import os
import sys
import types
from typing import Any

_MAIN = ("__main__", "__mp_main__")

#: Of the process that runs cells, and of its forks: they know its main module.
_family: bytes | None = None
_is_new = False  # this process was started anew


def install() -> None:
    """Let multiprocessing send what cells have defined by value."""
    global _family
    _family = os.urandom(16)
    _change_pickler()


def _change_pickler() -> None:
    from multiprocessing.reduction import ForkingPickler

    ForkingPickler.reducer_override = _reduce  # type: ignore[attr-defined]


def _reduce(pickler: Any, thing: Any) -> Any:
    if not isinstance(thing, (type, types.FunctionType)) or thing.__module__ not in _MAIN:
        return NotImplemented
    if thing.__module__ == "__main__" and getattr(sys.modules["__main__"], "__file__", None):
        return NotImplemented  # %run of a script, which the new process loads
    import cloudpickle

    return load, (_family, thing.__qualname__, cloudpickle.dumps(thing))


def load(family: bytes, name: str, definition: bytes) -> Any:
    """Return the class or function of that name, which is made where cells do not run."""
    global _family, _is_new
    main = sys.modules["__main__"]
    # What a worker sends back is of the class that the cells have.
    if family == _family and not _is_new and (known := _find(main, name)) is not None:
        return known
    import cloudpickle

    thing = cloudpickle.loads(definition)
    if family != _family:
        _family, _is_new = family, True
        _change_pickler()
    if _is_new and "." not in name:
        setattr(main, name, thing)
    return thing


def _find(main: Any, name: str) -> Any:
    found = main
    for part in name.split("."):
        found = getattr(found, part, None)
    return found
