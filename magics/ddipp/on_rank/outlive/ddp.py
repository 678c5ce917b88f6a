"""DistributedDataParallel models: a reducer that was stopped in backward refuses to go on."""

from __future__ import annotations

from typing import Any

from .. import torch_internals as internals
from .known import Known

_models = Known()


def watch() -> None:
    """Know all models from their creation."""
    _models.watch(internals.ddp_class())


def renew(default_before: Any, told: list[dict[str, Any]]) -> list[str]:
    """Give every model a reducer in the new generation; all of them are bound to groups."""
    import torch.distributed as dist

    lines = []
    for model in _models.objects():
        if "process_group" not in model.__dict__:
            continue  # its construction failed
        if model.process_group is default_before:
            model.process_group = dist.group.WORLD
        _follow_parameters(model)
        if model.process_group in internals.living_groups():
            internals.new_reducer(model)
        else:
            lines.append(
                f"a DistributedDataParallel model of {type(model.module).__name__} belongs to a "
                "group that has ended; wrap its .module again"
            )
    return lines


def _follow_parameters(model: Any) -> None:
    """Let a model that was copied from another rank take its input on this rank's GPU."""
    first = next(model.parameters(), None)
    if first is not None and first.device.type == "cuda" and model.device_ids:
        model.device_ids = [first.device.index]
        model.output_device = first.device.index
