"""What the user holds of an old generation, made good in a new one: process groups and models."""

from __future__ import annotations

import gc
import sys
import weakref
from dataclasses import dataclass
from typing import Any

from .plugin import Plugin

#: Tables of torch.distributed that are keyed by group.
_TABLES = (
    "pg_map",
    "pg_names",
    "pg_group_ranks",
    "pg_backend_config",
    "pg_to_tag",
    "pg_coalesce_state",
    "pg_flight_recorder_hooks",
)


@dataclass
class HeldGroup:
    """A process group of a generation that has ended."""

    group: Any
    name: str
    ranks: list[int]  # global
    backend: str
    number: int  # of the plug-in
    is_default: bool

    def description(self) -> tuple[str, list[int], str]:
        """Return what other ranks need to make it again."""
        return self.name, self.ranks, self.backend


def _c10d() -> Any:
    return sys.modules["torch.distributed"].distributed_c10d  # type: ignore[attr-defined]


def remember_groups(plugin: Plugin | None) -> list[HeldGroup]:
    """Return all groups of this rank, the default group first; to be called before they end."""
    world = getattr(_c10d(), "_world", None)
    if world is None:
        return []
    held = [
        HeldGroup(
            group,
            world.pg_names[group],
            sorted(world.pg_group_ranks[group]),
            str(backend),
            -1 if plugin is None else plugin.add(world.pg_names[group]),
            group is world.default_pg,
        )
        for group, (backend, _) in world.pg_map.items()
    ]
    held.sort(key=lambda one: not one.is_default)
    return held


def group_count() -> int:
    """Return the number from which torch names the next group."""
    return int(getattr(getattr(_c10d(), "_world", None), "group_count", 0))


def restore_groups(
    held: list[HeldGroup],
    others: list[tuple[str, list[int], str]],
    count: int,
    plugin: Plugin | None,
) -> list[str]:
    """Make the groups that are held work in the generation that was just formed.

    Parameters
    ----------
    held : list of HeldGroup
        Of this rank.
    others : list of tuple
        Descriptions of the groups apart from the default one, the same on all ranks: each takes
        part in making each, a rank that was started again too.
    count : int
        What `group_count` was.

    Returns
    -------
    list of str
        Names of groups that could not be restored.
    """
    import torch.distributed as dist

    world = getattr(_c10d(), "_world", None)
    if world is None or plugin is None:
        return [one.name for one in held if not one.is_default]
    fresh: dict[str, Any] = {"": dist.group.WORLD}
    for index, (name, ranks, backend) in enumerate(others):
        world.group_count = 1_000_000 + index  # names that no group has, the same on all ranks
        fresh[name] = dist.new_group(ranks, backend=backend)
    lost = []
    for one in held:
        made = fresh.get("" if one.is_default else one.name)
        if made in world.pg_map and plugin.adopt(one.number, world.pg_names[made]):
            _take_place(world, made, one)
        elif not one.is_default:
            lost.append(one.name)
    world.group_count = max(count, 1)
    return lost


def _take_place(world: Any, made: Any, held: HeldGroup) -> None:
    """Let the older object stand in torch's tables where the new one stands."""
    c10d = _c10d()
    made_name = world.pg_names[made]
    for table in (getattr(world, name, None) for name in _TABLES):
        if isinstance(table, dict) and made in table:
            table[held.group] = table.pop(made)
    world.pg_names[held.group] = held.name
    made_tag, tag = f"ptd:{made_name}", f"ptd:{held.name}"
    for groups in world.tags_to_pg.values():
        groups[:] = [held.group if group is made else group for group in groups]
    if made_tag in world.tags_to_pg:
        world.tags_to_pg[tag] = world.tags_to_pg.pop(made_tag)
        world.pg_to_tag[held.group] = tag
    c10d._unregister_process_group(made_name)
    c10d._register_process_group(held.name, held.group)
    held.group._set_group_name(held.name)
    if held.is_default:
        c10d._update_default_pg(held.group)


# --- models --------------------------------------------------------------------------------------


_references: list[weakref.ref[Any]] = []


def watch_models() -> None:
    """Know all DistributedDataParallel models, those that there are and those made from now on.

    To look for them among all objects whenever a group forms would take longer the more a user has
    in memory. Copies and unpickled models are made by ``__new__`` too.
    """
    module = sys.modules.get("torch.nn.parallel.distributed")
    if module is None or hasattr(module.DistributedDataParallel, "_ddipp_watched"):
        return
    kind = module.DistributedDataParallel
    kinds = {kind, *_subclasses(kind)}
    _references.extend(weakref.ref(thing) for thing in gc.get_objects() if type(thing) in kinds)
    own = vars(kind).get("__new__")

    def make(cls: Any, *args: Any, **kwargs: Any) -> Any:
        create = super(kind, cls).__new__ if own is None else own.__func__
        model = create(cls) if create is object.__new__ else create(cls, *args, **kwargs)
        _references.append(weakref.ref(model))
        return model

    kind.__new__ = staticmethod(make)
    kind._ddipp_watched = True


def _models() -> list[Any]:
    models = [model for reference in _references if (model := reference()) is not None]
    _references[:] = [weakref.ref(model) for model in models]
    return models


def _subclasses(kind: type) -> set[type]:
    found: set[type] = set(kind.__subclasses__())
    return found.union(*map(_subclasses, found))


def bind_models(default_before: Any) -> None:
    """Give every DistributedDataParallel model a reducer in the new generation.

    One that was stopped in backward refuses to go on, and all of them are bound to groups.

    Parameters
    ----------
    default_before : ProcessGroup or None
        The default group of the last generation, which its models name.
    """
    import torch.distributed as dist

    for model in _models():
        if "process_group" not in model.__dict__:
            continue  # its construction failed
        if model.process_group is default_before:
            model.process_group = dist.group.WORLD
        _follow_parameters(model)
        if model.process_group in _living_groups():
            _renew_reducer(model)


def _follow_parameters(model: Any) -> None:
    """Let a model that was copied from another rank take its input on this rank's GPU."""
    first = next(model.parameters(), None)
    if first is not None and first.device.type == "cuda" and model.device_ids:
        model.device_ids = [first.device.index]
        model.output_device = first.device.index


def _living_groups() -> Any:
    c10d = _c10d()
    world = getattr(c10d, "_world", None)
    return c10d._pg_map if world is None else world.pg_map  # before torch 2.0


def _renew_reducer(model: Any) -> None:
    """Do what unpickling a model does, see DistributedDataParallel.__setstate__."""
    import torch.distributed as dist

    # The old one goes first: both would listen to the same gradients.
    model.logger = model.reducer = None
    parameters, sparse = model._build_params_for_reducer()
    names = model._build_debug_param_to_name_mapping(parameters)
    model._ddp_init_helper(parameters, sparse, names, model.static_graph)
    if model.static_graph:
        model.reducer._set_static_graph()
        model.logger._set_static_graph()
    if getattr(model, "_require_manual_backward_finalization", False):
        model.require_manual_backward_finalization = True
    for hook, state in getattr(model, "_comm_hooks", []):
        dist._register_comm_hook(model.reducer, state, hook)


def fingerprints(namespace: dict[str, Any]) -> dict[str, str]:
    """Return a text for each model that has a name, equal where the parameters are equal."""
    import torch

    module = sys.modules.get("torch.nn.parallel.distributed")
    if module is None:
        return {}
    models = {
        name: value
        for name, value in list(namespace.items())
        if isinstance(value, module.DistributedDataParallel) and not name.startswith("_")
    }
    with torch.no_grad():
        return {name: _fingerprint(model) for name, model in models.items()}


def _fingerprint(model: Any) -> str:
    import torch

    sums = [parameter.detach().sum(dtype=torch.float64) for parameter in model.parameters()]
    return repr([value.item() for value in sums])
