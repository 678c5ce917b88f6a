"""Models that ranks hold alike: whether some were stopped before a step and others after it.

Replicas of DistributedDataParallel are compared by their parameters. Of other models nobody knows
whether they were ever equal, so the steps are counted that their optimizers have made since the
generation formed.
"""

from __future__ import annotations

import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any

from ...shared.places import is_placed
from .. import torch_internals as internals

_DEPTH = 2  # trainer.model, models["a"], state.trainer.model
_WIDTH = 200  # entries of a container that are looked at
_MOST = 5000  # objects that are looked at

#: What a fact begins with when the ranks hold different parts of the model.
SHARDED = "sharded "

_steps: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_counting = False


def watch() -> None:
    """Count steps of optimizers from now on."""
    global _counting
    module = sys.modules.get("torch.optim.optimizer")
    register = getattr(module, "register_optimizer_step_post_hook", None)  # since torch 2.0
    if register is None or _counting:
        return

    def count(optimizer: Any, *_: Any) -> None:
        _steps[optimizer] = _steps.get(optimizer, 0) + 1

    register(count)
    _counting = True


def forget_steps() -> None:
    """Begin to count anew: all ranks are where they are."""
    _steps.clear()


def verify(namespace: dict[str, Any]) -> dict[str, str]:
    """Return a text for each model, equal where ranks are at the same step."""
    import torch

    steps_of = _steps_by_parameter()
    facts: dict[str, str] = {}
    with torch.no_grad():
        for name, model in _each_once(_models(namespace)):
            parameters = list(model.parameters())
            steps = max(steps_of.get(id(one), 0) for one in parameters)
            if _is_sharded(model, parameters):
                facts[name] = f"{SHARDED}{steps}"
            elif _is_replica(model):
                sums = [one.detach().sum(dtype=torch.float64) for one in parameters]
                facts[name] = repr([value.item() for value in sums])
            else:
                facts[name] = str(steps)
    return facts


def _each_once(models: Iterator[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return models by their parameters; a wrapper stands for the model in it."""
    found: dict[tuple[int, ...], tuple[str, Any]] = {}
    for name, model in models:
        key = tuple(map(id, model.parameters()))
        if key and (key not in found or (_is_replica(model) and not _is_replica(found[key][1]))):
            found[key] = name, model
    return list(found.values())


def _steps_by_parameter() -> dict[int, int]:
    found: dict[int, int] = {}
    for optimizer, steps in list(_steps.items()):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                found[id(parameter)] = max(steps, found.get(id(parameter), 0))
    return found


def _is_replica(model: Any) -> bool:
    kind = internals.ddp_class()
    return kind is not None and any(isinstance(child, kind) for child in model.modules())


def _is_sharded(model: Any, parameters: list[Any]) -> bool:
    return any(map(is_placed, parameters)) or any(map(is_placed, model.modules()))


def _models(namespace: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield models with a name that a cell could call them by, the shallowest first."""
    import torch

    left = _MOST
    seen: set[int] = set()
    level = [(name, value) for name, value in namespace.items() if not name.startswith("_")]
    for depth in range(_DEPTH + 1):
        deeper: list[tuple[str, Any]] = []
        for name, value in level:
            if isinstance(value, torch.nn.Module):
                yield name, value
            elif depth < _DEPTH and id(value) not in seen and left > 0:
                seen.add(id(value))
                entries = _entries(name, value)
                left -= len(entries)
                deeper += entries
        level = deeper


_PLAIN = (str, bytes, int, float, complex, type, type(None), types.ModuleType, types.FunctionType)


def _entries(name: str, value: Any) -> list[tuple[str, Any]]:
    """Return what a container or an object holds, without running code of it."""
    if isinstance(value, _PLAIN) or len(getattr(value, "shape", ())) > 0:
        return []
    if type(value) is dict:
        return [
            (f"{name}[{key!r}]", one)
            for key, one in list(value.items())[:_WIDTH]
            if isinstance(key, (str, int))
        ]
    if type(value) in (list, tuple):
        return [(f"{name}[{index}]", one) for index, one in enumerate(value[:_WIDTH])]
    try:
        attributes = vars(value)
    except TypeError:
        return []
    return [
        (f"{name}.{key}", one)
        for key, one in list(attributes.items())[:_WIDTH]
        if isinstance(key, str) and not key.startswith("_")
    ]
