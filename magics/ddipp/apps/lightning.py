"""The app for Lightning: ``Trainer(...)`` of a single-device notebook trains on all ranks."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

from ..errors import DdippError
from .plain import TorchApp

_NAMES = ("lightning.pytorch", "pytorch_lightning")


class LightningApp(TorchApp):
    """Gives trainers the strategy ``ddp`` on the ranks of the group, unless the user chose one."""

    def __init__(self) -> None:
        self._patched: list[tuple[Any, Callable[..., None]]] = []

    def start(self, rank: int, world_size: int) -> None:
        """Prepare this rank."""
        super().start(rank, world_size)
        names = [name for name in _NAMES if importlib.util.find_spec(name.partition(".")[0])]
        if not names:
            raise DdippError("lightning is not installed; install it with: pip install lightning")
        for name in names:
            self._patch(importlib.import_module(name), name)

    def stop(self) -> None:
        """Undo `start`."""
        super().stop()
        for trainer, original in self._patched:
            trainer.__init__ = original
        self._patched.clear()

    def _patch(self, library: Any, name: str) -> None:
        original = library.Trainer.__init__
        strategy = _strategy(name)

        @functools.wraps(original)
        def init(trainer: Any, *args: Any, **kwargs: Any) -> None:
            chosen = kwargs.get("strategy", "auto"), kwargs.get("devices", "auto")
            if chosen[0] == "auto" and chosen[1] in ("auto", 1):
                kwargs.update(_place(kwargs.get("accelerator", "auto")), strategy=strategy())
            original(trainer, *args, **kwargs)

        library.Trainer.__init__ = init
        self._patched.append((library.Trainer, original))


def _place(accelerator: str) -> dict[str, Any]:
    import torch

    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = int(os.environ["WORLD_SIZE"]) // local
    return {"devices": local, "num_nodes": nodes, "accelerator": accelerator}


def _strategy(name: str) -> Any:
    """Return the class of a strategy ``ddp`` that starts no process: they are there."""
    base = importlib.import_module(f"{name}.strategies").DDPStrategy
    environment = _environment(name)

    class GroupStrategy(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__(cluster_environment=environment())

        def _configure_launcher(self) -> None:
            self._launcher = None

    return GroupStrategy


def _environment(name: str) -> Any:
    """Return a cluster environment that is the group: it exists, and outlives the trainer."""
    base = importlib.import_module(
        "lightning.fabric.plugins.environments"
        if name.startswith("lightning")
        else "lightning_fabric.plugins.environments"
    ).LightningEnvironment

    class GroupEnvironment(base):  # type: ignore[misc, valid-type]
        @property
        def creates_processes_externally(self) -> bool:
            return True

        def world_size(self) -> int:
            import torch.distributed as dist

            return dist.get_world_size()

        def global_rank(self) -> int:
            import torch.distributed as dist

            return dist.get_rank()

        def node_rank(self) -> int:
            return self.global_rank() // int(os.environ["LOCAL_WORLD_SIZE"])

        def teardown(self) -> None:
            """Leave the environment's variables: the group goes on."""

    return GroupEnvironment
