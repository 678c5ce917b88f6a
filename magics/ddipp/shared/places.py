"""What stands for a place among the ranks, and so may not be copied to another one.

A DTensor is one rank's part and a DeviceMesh knows one rank's coordinate. Both can be pickled; on
another rank they would be the wrong part without a word.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

_FULL = (
    "get_model_state_dict of torch.distributed.checkpoint.state_dict with full_state_dict=True, in "
    "a cell on all ranks, gives its full values; on a rank that has lost it, make the model and "
    "its optimizer anew on all ranks and load a checkpoint"
)

#: Module, class, and how to have it on a rank that has lost it.
_PLACED = (
    (
        "torch.distributed.fsdp",
        "FSDPModule",
        _FULL,
    ),
    (
        "torch.distributed.fsdp",
        "FullyShardedDataParallel",
        _FULL,
    ),
    (
        "torch.distributed.tensor",
        "DTensor",
        "its full_tensor(), called in a cell on all ranks, gives its full values; on a rank that "
        "has lost it, make what it is part of anew and load a checkpoint",
    ),
    (
        "torch.distributed.device_mesh",
        "DeviceMesh",
        "make it anew on all ranks with init_device_mesh",
    ),
    (
        "torch.distributed.pipelining",
        "PipelineStage",
        "make stage and schedule anew on all ranks",
    ),
    (
        "torch.distributed.optim",
        "ZeroRedundancyOptimizer",
        "make it anew on all ranks; its .state_dict() after .consolidate_state_dict() has it all",
    ),
    ("torch.distributed", "ProcessGroup", "make it anew on all ranks with dist.new_group"),
    ("torch.distributed", "Store", "make it anew on all ranks"),
    (
        "accelerate",
        "Accelerator",
        "make it anew on all ranks and let it prepare the model and the rest again",
    ),
)


#: Tell why an object may not be copied that its class does not give away, or None.
further: list[Callable[[Any], str | None]] = []


def placed_classes() -> Iterator[tuple[type, str]]:
    """Yield such classes so far as they are loaded, and how to make an object of each anew."""
    for module, name, how in _PLACED:
        found = getattr(sys.modules.get(module), name, None)
        if isinstance(found, type):
            yield found, how


def why_not_copied(thing: Any) -> str | None:
    """Return why one object may not be copied to another rank, or None; it is not looked into.

    To be asked of each object that a pickler meets.
    """
    for kind, how in placed_classes():
        if isinstance(thing, kind):
            return f"{kind.__name__} is this rank's own part; {how}"
    return next(filter(None, (ask(thing) for ask in further)), None)


def is_placed(thing: Any) -> bool:
    """Tell whether an object is of one rank."""
    return any(isinstance(thing, kind) for kind, _ in placed_classes())
