"""Sharded models: one that was left in forward or backward goes on from its shards."""

from __future__ import annotations

import sys
from typing import Any

from ...shared import places
from .. import torch_internals as internals
from .known import Known

_wrapped = Known()  # FullyShardedDataParallel
_sharded = Known()  # modules after fully_shard, which changes their class


def watch() -> None:
    """Know sharded models from now on."""
    if "torch.distributed.fsdp" not in sys.modules:
        return
    if _why_not_copied not in places.further:
        places.further.append(_why_not_copied)
    _wrapped.watch(internals.fsdp1_class())
    kind = internals.fsdp2_class()
    if kind is None or "_ddipp_known" in vars(kind):
        return
    _sharded.watch(kind)
    # The class of a module is made when it is sharded, and its object is older than that.
    state = sys.modules["torch.distributed.fsdp._fully_shard._fsdp_state"].FSDPState
    original = state.init

    def init(self: Any, modules: Any, *args: Any, **kwargs: Any) -> Any:
        for module in modules:
            _sharded.add(module)
        return original(self, modules, *args, **kwargs)

    state.init = init


def _why_not_copied(thing: Any) -> str | None:
    """Find what an optimizer holds of FullyShardedDataParallel: plain parameters, but in parts."""
    if not isinstance(thing, sys.modules["torch"].nn.Parameter):
        return None
    if all(thing is not own for module in _wrapped.objects() for own in module.parameters()):
        return None
    return (
        "a parameter of FullyShardedDataParallel is this rank's own part; make the model and its "
        "optimizer anew on all ranks and load a checkpoint"
    )


def tell() -> dict[str, Any]:
    """Tell the other ranks whether this one has left an iteration, or gradients of one."""
    states = _states()
    return {
        "fsdp_left": internals.fsdp2_was_left(states),
        "fsdp_gathers": internals.fsdp2_gathers(states),
    }


def renew(default_before: Any, told: list[dict[str, Any]]) -> list[str]:
    """Put models that were left in an iteration back to their shards, on all ranks if on one."""
    lines = []
    gathers = any(fact["fsdp_gathers"] for fact in told)
    left = any(fact["fsdp_left"] for fact in told)
    states = _states()
    if told:  # else the group is the same, and nothing was left
        internals.fsdp2_reset(states, drop_gradients=gathers or left)
    if gathers and states:
        lines.append(
            "gradients of models of fully_shard that were not reduced yet are dropped; begin the "
            "step anew with optimizer.zero_grad() and the first of its batches"
        )
    modules = _wrapped.objects()
    inner = {id(child) for one in modules for child in one.modules() if child is not one}
    for root in (one for one in modules if id(one) not in inner):
        internals.fsdp1_reset(root)
    return lines


def _states() -> list[Any]:
    states: dict[int, Any] = {}
    for model in _sharded.objects():
        states.update((id(state), state) for state in internals.fsdp2_states(model))
    return list(states.values())
