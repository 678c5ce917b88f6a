"""The app for Hugging Face accelerate.

``Accelerator()`` finds the group through the environment and torch, so there is little to do.
"""

from __future__ import annotations

import os
import sys

from .plain import TorchApp


class AccelerateApp(TorchApp):
    """Tells accelerate that CPU ranks are meant, and forgets what it has read of an older group."""

    def start(self, rank: int, world_size: int) -> None:
        """Prepare this rank."""
        super().start(rank, world_size)
        import torch

        if not torch.cuda.is_available():
            os.environ["ACCELERATE_USE_CPU"] = "true"
        self._forget()

    def stop(self) -> None:
        """Undo `start`."""
        super().stop()
        os.environ.pop("ACCELERATE_USE_CPU", None)
        self._forget()

    @staticmethod
    def _forget() -> None:
        # It keeps rank, size and device for the life of the process.
        state = sys.modules.get("accelerate.state")
        if state is not None:
            state.AcceleratorState._reset_state(True)
