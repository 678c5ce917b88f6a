"""The app for plain PyTorch: your own DistributedDataParallel code."""

from __future__ import annotations

import os


class TorchApp:
    """Silences progress bars of tqdm on all ranks but the first."""

    def start(self, rank: int, world_size: int) -> None:
        """Prepare this rank."""
        if rank != 0:
            os.environ["TQDM_DISABLE"] = "1"

    def stop(self) -> None:
        """Undo `start`."""
        os.environ.pop("TQDM_DISABLE", None)
