"""The app for plain PyTorch: your own DistributedDataParallel code."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from typing import Any


class TorchApp:
    """Silences progress bars of tqdm on all ranks but the first."""

    _bar: Any = None
    _make_bar: Any = None

    def start(self, rank: int, world_size: int) -> None:
        """Prepare this rank."""
        if rank == 0:
            return
        os.environ["TQDM_DISABLE"] = "1"  # for processes that this rank starts
        if importlib.util.find_spec("tqdm") is None:
            return
        # It reads the environment when it is loaded, which torch may have done already.
        self._bar = importlib.import_module("tqdm.std").tqdm
        make_bar = self._make_bar = self._bar.__init__

        @functools.wraps(make_bar)
        def make_silent(bar: Any, *args: Any, **kwargs: Any) -> None:
            make_bar(bar, *args, **{**kwargs, "disable": True})

        self._bar.__init__ = make_silent

    def stop(self) -> None:
        """Undo `start`."""
        os.environ.pop("TQDM_DISABLE", None)
        if self._bar is not None:
            self._bar.__init__ = self._make_bar
            self._bar = None
