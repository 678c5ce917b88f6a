"""The process groups that the user holds of an old generation, made good in a new one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import torch_internals as internals
from .plugin import Plugin

#: Groups are made anew under names that nobody has, and get the names that they had.
_FIRST_TEMPORARY = 1_000_000_000
_TEMPORARY_A_GENERATION = 10_000


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


def remember_groups(plugin: Plugin | None) -> list[HeldGroup]:
    """Return all groups of this rank, the default group first; to be called before they end."""
    world = internals.world()
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


def restore_groups(
    held: list[HeldGroup],
    others: list[tuple[str, list[int], str]],
    count: int,
    generation: int,
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
        From which all ranks name the groups that the user makes next.
    generation : int
        That was just formed.

    Returns
    -------
    list of str
        Names of groups that could not be restored.
    """
    import torch.distributed as dist

    world = internals.world()
    if world is None or plugin is None:
        internals.set_group_count(max(count, 1))
        return [one.name for one in held if not one.is_default]
    made: dict[str, Any] = {}
    for index, (name, ranks, backend) in enumerate(others):
        first = _FIRST_TEMPORARY + generation * _TEMPORARY_A_GENERATION
        internals.set_group_count(first + index)  # the same on all ranks
        made[name] = dist.new_group(ranks, backend=backend)
    lost = [one.name for one in held if not _take_place(one, made, plugin)]
    # A rank that was started again is a member of groups that it has no object of. Its own are kept
    # under the names that they have on others: it is the peer of those who hold them.
    holds = {one.name for one in held}
    for name, group in made.items():
        if name not in holds and group in world.pg_map:
            internals.rename_group(group, world.pg_names[group], name)
    internals.set_group_count(max(count, 1))
    return lost


def _take_place(one: HeldGroup, made: dict[str, Any], plugin: Plugin) -> bool:
    """Let the older object stand where the new one stands; tells whether it works now."""
    import torch.distributed as dist

    world = internals.world()
    fresh = dist.group.WORLD if one.is_default else made.get(one.name)
    if fresh not in world.pg_map or not plugin.adopt(one.number, world.pg_names[fresh]):
        return one.is_default  # the new default group is one to go on with
    internals.rename_group(fresh, world.pg_names[fresh], one.name, one.group)
    if one.is_default:
        internals.set_default_group(one.group)
    return True
