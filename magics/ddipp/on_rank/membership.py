"""What runs on the ranks: forming and leaving the process group.

Imported by the engines, never by the notebook's process, so that the notebook does not load torch.
All functions are called through ``apply`` and return plain values.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from ..backends import backend_named
from . import held, outlive, plugin, scripts
from . import torch_internals as internals
from .engine_link import engine
from .process import (
    forget_failure,
    free_memory,
    give_variables,
    probe,
    set_environment,
    settle,
    show_as,
    user_namespace,
    wait_less_for_workers,
)

_generation = -1  # of the group that this rank is in
_store: Any = None  # of this generation; on rank 0 it is the server
_store_sockets: list[int] = []  # on rank 0
_kept: list[Any] = []  # stores of generations that peers may still be leaving
_held: list[held.HeldGroup] = []  # of the last generation that was left
_default_before: Any = None
_group_count = 0
_SETTLE_S = 5.0  # what a GPU may take for the rest of a cell, whose collectives have ended


def prepare(rich: bool, failed: bool, collect: bool) -> dict[str, Any]:
    """Leave what was and return what the next group needs to know.

    Parameters
    ----------
    rich : bool
        See :func:`show_as`.
    failed : bool
        Whether a cell has failed: let go of what its traceback holds.
    collect : bool
        Whether to free that memory at once; else :func:`free_memory` is left to the caller.

    Returns
    -------
    dict
        That of :func:`probe`; ``torch``: whether it is loaded; ``held``: see :func:`leave_group`;
        ``gpu_problem``: why the GPU can't be used, or ``""``.
    """
    if failed:
        forget_failure()
    held_groups = leave_group()
    gpu_problem = settle(_SETTLE_S)
    if collect:
        free_memory(thorough=True)
    show_as(rich)
    return {
        **probe(),
        "torch": "torch" in sys.modules,
        "held": held_groups,
        "gpu_problem": gpu_problem,
    }


# --- forming -------------------------------------------------------------------------------------


def open_store(host: str, world_size: int, timeout_s: float) -> int:
    """Start the store of a new generation on rank 0 and return its port.

    It listens when this returns, and on a port of its own: neither a port in use nor a stale store
    can disturb a new group.
    """
    import torch.distributed as dist

    global _store
    if _store is not None:
        _kept.append(_store)
        del _kept[:-2]
    before = _sockets()
    _store = dist.TCPStore(
        host,
        0,
        world_size,
        is_master=True,
        wait_for_workers=False,
        timeout=datetime.timedelta(seconds=timeout_s),
    )
    _store_sockets[:] = sorted(_sockets() - before)
    return int(_store.port)


@contextlib.contextmanager
def _guarding_new_sockets(backend: str) -> Iterator[None]:
    """Tell the engine's io thread of the connections that a group makes inside the block."""
    before = _sockets()
    try:
        yield
    finally:
        # NCCL has an abort, and its bootstrap threads don't expect their sockets to fail.
        if "nccl" not in backend:
            engine().guard_sockets(sorted(_sockets() - before))


def _sockets() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                found.add(int(name))
    return found


def _guard_groups_made_later() -> None:
    """Let groups of ``new_group`` and of device meshes be cut and aborted like the default one."""
    c10d = internals.c10d()

    def guarded(make: Any) -> Any:
        @functools.wraps(make)
        def make_guarded(*args: Any, **kwargs: Any) -> Any:
            backend = str(kwargs.get("backend", args[3] if len(args) > 3 else ""))
            if not c10d.is_initialized():
                engine().allow_waits()  # of a group that the user makes after ours has ended
            with _guarding_new_sockets(backend), _in_sight("new_group"):
                made = make(*args, **kwargs)
            torch_plugin, _ = plugin.load()
            if torch_plugin is not None:
                name = c10d._world.pg_names.get(made[0] if isinstance(made, tuple) else made)
                if name is not None:
                    torch_plugin.add(name)
            return made

        return make_guarded

    def seen(wait: Any) -> Any:
        @functools.wraps(wait)
        def wait_in_sight(*args: Any, **kwargs: Any) -> Any:
            with _in_sight("new_group"):
                return wait(*args, **kwargs)

        return wait_in_sight

    module = "torch.distributed.distributed_c10d"
    internals.replace(module, "_new_process_group_helper", guarded)
    internals.replace(module, "_store_based_barrier", seen)


@contextlib.contextmanager
def _in_sight(name: str) -> Iterator[None]:
    """Let the rank be seen to wait for others, as in a collective: it may, in the store."""
    import torch

    # The plug-in sees what process groups announce in this way.
    with torch.profiler.record_function(f"gloo:{name}"):
        yield


def form_group(
    rank: int,
    world_size: int,
    host: str,
    port: int,
    generation: int,
    backend: str,
    timeout_s: float,
    others: list[tuple[str, list[int], str]],
    values: dict[str, str],
    defaults: dict[str, str],
) -> dict[str, Any]:
    """Join the process group of a generation.

    Parameters
    ----------
    rank, world_size : int
        As everywhere in torch.distributed.
    host, port : str, int
        Of the store that :func:`open_store` started on rank 0.
    generation : int
        Counts the groups of this session.
    backend : str
        Of the default group, see :mod:`ddipp.backends`.
    timeout_s : float
        For the rendezvous, in seconds.
    others : list of tuple
        Groups apart from the default one that ranks hold, see :func:`leave_group`.
    values, defaults : dict
        See :func:`set_environment`.

    Returns
    -------
    dict
        ``models``: see :func:`outlive.verify`; ``lost``: names of groups that are of no use any
        more; ``lines``: see :func:`outlive.renew`; ``problem``: why the plug-in is not used, or
        ``""``; ``gpu``: the UUID of this rank's GPU, ``""`` for none.
    """
    import torch
    import torch.distributed as dist

    global _store, _generation, _held, _default_before
    _generation = generation
    set_environment(values, defaults)
    torch_plugin, problem = plugin.load()
    _begin_generation(generation, torch_plugin, backend)
    timeout = datetime.timedelta(seconds=timeout_s)
    if rank != 0:
        # Guarded too: a rank that waits at the rendezvous for one that died can be freed.
        with _guarding_new_sockets("store"):
            _store = dist.TCPStore(host, port, world_size, is_master=False, timeout=timeout)
    os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))
    kind = backend_named(backend)
    device = kind.device(int(os.environ["LOCAL_RANK"]))
    _guard_groups_made_later()
    scripts.prepare(generation, _guarding_new_sockets)
    outlive.watch()
    wait_less_for_workers()
    _tell_facts(rank, generation, {"group_count": _group_count, **outlive.tell()})
    with _guarding_new_sockets(backend):
        internals.set_group_count(0)  # ranks whose last attempt failed have counted it
        scripts.original(dist.init_process_group)(
            kind.spec,
            store=dist.PrefixStore(f"generation-{generation}", _store),
            rank=rank,
            world_size=world_size,
            **kind.init_options(device),
        )
        # Connects every pair now, so that the first cell does not pay for it.
        dist.barrier(**kind.barrier_options(device))
    told = _facts_of_all(world_size, generation)
    counts = [int(fact["group_count"]) for fact in told]
    lost = held.restore_groups(_held, others, max(counts), generation, torch_plugin)
    lines = outlive.renew(_default_before, told)
    _held, _default_before = [], None
    namespace = user_namespace()
    models = outlive.verify(namespace) if generation > 1 else {}
    outlive.begin()
    if torch_plugin is not None:
        torch_plugin.count_from_here()
    given = {"rank": rank, "world_size": world_size, "device": device, "torch": torch, "dist": dist}
    give_variables(namespace, given)
    return {
        "models": models,
        "lost": lost,
        "lines": lines,
        "problem": problem,
        "gpu": _uuid_of(device),
    }


def _facts_key(generation: int, rank: int) -> str:
    return f"facts-{generation}/{rank}"


def _tell_facts(rank: int, generation: int, facts: dict[str, Any]) -> None:
    """Tell the other ranks of a generation that forms what they have to agree on."""
    _store.set(_facts_key(generation, rank), json.dumps(facts))


def _facts_of_all(world_size: int, generation: int) -> list[dict[str, Any]]:
    """Return what the ranks have told, by rank; to be called when all are there."""
    return [json.loads(_store.get(_facts_key(generation, rank))) for rank in range(world_size)]


def _uuid_of(device: Any) -> str:
    import torch

    if device.type != "cuda":
        return ""
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)  # since torch 2.4
    return "" if uuid is None else f"GPU-{uuid}"


def _begin_generation(generation: int, torch_plugin: plugin.Plugin | None, backend: str) -> None:
    host = engine()
    host.begin_generation(generation)
    host.guard_sockets(_store_sockets)
    if problem := host.guard_gloo():
        host.log(logging.WARNING, f"a collective of Gloo can't always be ended: {problem}")
    if torch_plugin is not None:
        torch_plugin.begin(generation)
    elif backend_named(backend).aborts:
        plugin.abort_without_plugin()


def renew_copies() -> None:
    """Let what outlives a generation begin anew after a copy; all ranks at the same moment.

    A model that was copied has not agreed with its peers on the order of gradients; its source has,
    and would not do it again.
    """
    outlive.watch()
    outlive.renew(None, [])
    outlive.begin()


# --- leaving -------------------------------------------------------------------------------------


def leave_group() -> list[tuple[str, list[int], str]]:
    """Leave the group if there is one.

    The connections are shut down first. Peers that wait for this rank fail at once, and collectives
    of this rank that never finished end, without which the group's destructor would wait for them.
    Destroying alone is not enough: the traceback of a failed cell keeps the group alive.

    Returns
    -------
    list of tuple
        Name, global ranks and backend of the groups apart from the default one that this rank held.
    """
    dist: Any = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_initialized():
        remember_group()
        _leave(dist)
    return [one.description() for one in _held if not one.is_default]


def remember_group() -> None:
    """Note what the user holds of the group, which is about to end."""
    import torch.distributed as dist

    global _held, _default_before, _group_count
    # Should a generation fail while it forms, what the user holds is of the one before.
    if not _held:
        torch_plugin, _ = plugin.load()
        _held = held.remember_groups(torch_plugin)
        _default_before = dist.group.WORLD
        _group_count = internals.group_count()


def _leave(dist: Any) -> None:
    abort = getattr(dist.distributed_c10d, "_abort_process_group", None)
    if dist.get_backend() == "nccl" and abort is not None:
        with contextlib.suppress(RuntimeError):  # of a GPU that has failed
            abort()  # all communicators together; a destroy would wait for peers that are stuck
            return
    engine().cut_sockets(_generation)
    scripts.original(dist.destroy_process_group)()


# --- facts ----------------------------------------------------------------------------------------


def standing() -> tuple[int, bool]:
    """Return the last generation that this rank was in, -1 for none, and if its app is ready."""
    from .. import apps

    return _generation, apps.is_active()
