"""Scripts for torchrun in cells: they begin with ``init_process_group`` and may end it.

There is a group already, and its store is at ``MASTER_ADDR:MASTER_PORT``, as torchrun's is. So

- ``init_process_group`` is answered by the group that there is, if it is what was asked for; the
  script's ``destroy_process_group`` then leaves it;
- after ``destroy_process_group`` a script forms a group of its own over our store, as often as it
  likes: the names of each round are its own;
- waits in such a store are ended like those in ours.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from typing import Any

from . import torch_internals as internals

_Guard = Callable[[str], contextlib.AbstractContextManager[None]]

_generation = 0
_round = 0  # of groups that scripts have formed in this generation
_answered = False  # the last init_process_group by the group that there was
_guard: _Guard


def original(function: Any) -> Any:
    """Return torch's own function in place of that which scripts call."""
    return getattr(function, "_ddipp_original", function)


def prepare(generation: int, guard: _Guard) -> None:
    """Begin a generation.

    Parameters
    ----------
    generation : int
        The same on all ranks, as are the rounds in it.
    guard : callable
        Makes a context in which new sockets become known to those who end waits.
    """
    global _generation, _round, _answered, _guard
    _generation, _round, _answered, _guard = generation, 0, False, guard
    c10d = "torch.distributed.distributed_c10d"
    internals.replace(c10d, "init_process_group", _init)
    internals.replace(c10d, "destroy_process_group", _destroy)
    internals.replace("torch.distributed.rendezvous", "_create_c10d_store", _create_store)
    package: Any = sys.modules["torch.distributed"]
    for name in ("init_process_group", "destroy_process_group"):
        setattr(package, name, getattr(sys.modules[c10d], name))


def _init(make: Any) -> Any:
    @functools.wraps(make)
    def init_process_group(*args: Any, **kwargs: Any) -> None:
        global _answered
        import torch.distributed as dist

        if not dist.is_initialized():
            internals.set_group_count(0)  # ranks whose last attempt failed have counted it
            return make(*args, **kwargs)
        names = ("backend", "init_method", "timeout", "world_size", "rank", "store")
        asked = {**dict(zip(names, args)), **kwargs}
        if difference := _difference(asked):
            raise ValueError(
                f"there is a group already, {difference}. To form another one call "
                "dist.destroy_process_group() first"
            )
        _answered = True
        if dist.get_rank() == 0:
            print("ddipp: init_process_group: this cell's group is the answer", file=sys.stderr)
        return None

    return init_process_group


def _difference(asked: dict[str, Any]) -> str:
    """Say in what the group that there is is not the one that was asked for."""
    import torch.distributed as dist

    present, backend = str(dist.get_backend()), asked.get("backend")
    # "cpu:gloo,cuda:nccl" is both.
    if backend is not None and not _parts(present) & _parts(str(backend)):
        return f"whose backend is {present} and not {backend}"
    if asked.get("world_size", -1) not in (-1, dist.get_world_size()):
        return f"of {dist.get_world_size()} ranks and not {asked['world_size']}"
    if asked.get("rank", -1) not in (-1, dist.get_rank()):
        return f"in which this is rank {dist.get_rank()} and not {asked['rank']}"
    if asked.get("store") is not None:
        return "with a store of its own"
    return ""


def _parts(backend: str) -> set[str]:
    return {part.rpartition(":")[2] for part in backend.lower().split(",")}


def _destroy(end: Any) -> Any:
    @functools.wraps(end)
    def destroy_process_group(group: Any = None) -> None:
        global _answered
        import torch.distributed as dist

        default = group is None or (dist.is_initialized() and group is dist.group.WORLD)
        if default and _answered and dist.is_initialized():
            _answered = False
            return
        end(group)

    return destroy_process_group


def _create_store(create: Any) -> Any:
    @functools.wraps(create)
    def create_store(hostname: str, port: int, *args: Any, **kwargs: Any) -> Any:
        global _round
        import os

        import torch.distributed as dist

        ours = (os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")) == (
            hostname,
            str(port),
        )
        with _guard("store"):
            store = create(hostname, port, *args, **kwargs)
        if not ours or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return store
        _round += 1
        return dist.PrefixStore(f"round-{_generation}-{_round}", store)

    return create_store
