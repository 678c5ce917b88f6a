"""The torch plug-in of the engine, as the ranks see it.

``libddipp_torch`` is built against the torch of the environment. Where it can't be used, groups
still form and fail well on Gloo; what is missing then is said in one line.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from typing import Any

from .engine_link import engine, is_ours

_loaded: Plugin | None = None


class Plugin:
    """The C functions of the plug-in.

    Parameters
    ----------
    library : ctypes.CDLL
        ``libddipp_torch.so``.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.ddipp_torch_version.restype = ctypes.c_char_p

    @property
    def torch_version(self) -> str:
        """The torch that it was built against."""
        return str(self._library.ddipp_torch_version().decode())

    def address(self, name: str) -> int:
        """Return the address of a function, for the engine's io thread."""
        return ctypes.cast(getattr(self._library, name), ctypes.c_void_p).value or 0

    def begin(self, generation: int) -> None:
        """Forget all groups: a generation begins."""
        self._library.ddipp_torch_begin(generation)

    def count_from_here(self) -> None:
        """Let the next collective be number 1."""
        self._library.ddipp_torch_count_from_here()

    def add(self, name: str) -> int:
        """Watch the group of that name; returns a number for :meth:`adopt`, -1 for none."""
        return int(self._library.ddipp_torch_add(name.encode()))

    def adopt(self, number: int, name: str) -> bool:
        """Move the backends of the group `name` into the older one of that number."""
        return bool(self._library.ddipp_torch_adopt(number, name.encode()))

    def abort(self, generation: int) -> int:
        """Start the abort of all groups of a generation; returns how many."""
        return int(self._library.ddipp_torch_abort(generation))


def load() -> tuple[Plugin | None, str]:
    """Return the plug-in, or None and one line that says why there is none."""
    global _loaded
    if _loaded is not None:
        return _loaded, ""
    path = os.path.join(sys.prefix, "lib", "ddipp", "libddipp_torch.so")
    if not os.path.exists(path):
        return None, "ddipp was built without torch; install it again in this environment"
    if not is_ours():
        return None, "this is not an engine of ddipp"
    try:
        plugin = Plugin(ctypes.CDLL(path))
    except OSError as error:
        return None, f"the torch plug-in can't be loaded ({error}); install ddipp again"
    import torch

    present = str(torch.__version__).partition("+")[0]
    if plugin.torch_version != present:
        return None, (
            f"the torch plug-in is for torch {plugin.torch_version}, not {present}; "
            "install ddipp again"
        )
    engine().set_torch_plugin(
        plugin.address("ddipp_torch_abort"), plugin.address("ddipp_torch_report")
    )
    _loaded = plugin
    return plugin, ""


_fallback: threading.Thread | None = None


def abort_without_plugin() -> None:
    """Let a thread of Python's abort NCCL groups when the io thread is asked to cut.

    It needs the GIL, which a rank that waits in a collective does not hold.
    """
    global _fallback
    if _fallback is not None:
        return
    import select

    from . import membership as rank

    event = engine().cut_event()

    def serve() -> None:
        while True:
            select.select([event], [], [])
            os.read(event, 8)
            dist: Any = sys.modules["torch.distributed"]
            abort = getattr(dist.distributed_c10d, "_abort_process_group", None)
            if abort is not None and dist.is_initialized():
                rank.remember_group()
                abort()

    _fallback = threading.Thread(target=serve, name="ddipp-abort", daemon=True)
    _fallback.start()
