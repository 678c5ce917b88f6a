"""What runs on the ranks: forming and leaving the process group.

Imported by the engines, never by the notebook's process, so that the notebook does not load torch.
All functions are called through ``apply`` and return plain values.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

_generation = -1  # of the group that this rank is in
_store: Any = None  # of this generation; on rank 0 it is the server
_kept: list[Any] = []  # stores of generations that peers may still be leaving


def _user_namespace() -> dict[str, Any]:
    from IPython import get_ipython

    return get_ipython().user_ns


def probe() -> dict[str, Any]:
    """Return what the group needs to know of this process before torch is loaded."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "cores": _usable_cores()}


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def set_environment(values: dict[str, str], threads: int) -> None:
    """Set what torchrun would set, and a fair share of threads unless the user chose one."""
    os.environ.update(values)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def import_torch() -> str:
    """Load torch and return its version.

    Raises
    ------
    ModuleNotFoundError
        When it is not installed.
    """
    import torch
    import torch.distributed

    return str(torch.__version__)


def cuda_device_count() -> int:
    """Return how many GPUs torch sees on this rank."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


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
    _store = dist.TCPStore(
        host,
        0,
        world_size,
        is_master=True,
        wait_for_workers=False,
        timeout=datetime.timedelta(seconds=timeout_s),
    )
    return int(_store.port)


@contextlib.contextmanager
def _guarding_new_sockets(generation: int, backend: str) -> Iterator[None]:
    """Tell the engine's io thread of the connections that Gloo makes inside the block."""
    try:
        import _ddipp_engine as host
    except ImportError:  # a stock engine: its collectives can't be cut from outside
        yield
        return
    before = _sockets()
    yield
    # NCCL has an abort, and its bootstrap threads don't expect their sockets to fail.
    made = sorted(_sockets() - before) if backend == "gloo" else []
    host.guard_sockets(generation, made)


def _sockets() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                found.add(int(name))
    return found


def form_group(
    rank: int,
    world_size: int,
    host: str,
    port: int,
    generation: int,
    backend: str,
    timeout_s: float,
) -> None:
    """Join the process group of a generation.

    Parameters
    ----------
    rank, world_size : int
        As everywhere in torch.distributed.
    host, port : str, int
        Of the store that :func:`open_store` started on rank 0.
    generation : int
        Counts the groups of this session.
    backend : {"gloo", "nccl"}
        Of the default group.
    timeout_s : float
        For the rendezvous, in seconds.
    """
    import torch
    import torch.distributed as dist

    global _store, _generation
    _generation = generation
    timeout = datetime.timedelta(seconds=timeout_s)
    if rank != 0:
        _store = dist.TCPStore(host, port, world_size, is_master=False, timeout=timeout)
    os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))
    device = torch.device("cpu")
    options: dict[str, Any] = {}
    if backend == "nccl":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        options["device_id"] = device
    with _guarding_new_sockets(generation, backend):
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(f"generation-{generation}", _store),
            rank=rank,
            world_size=world_size,
            **options,
        )
        # Connects every pair now, so that the first cell does not pay for it.
        dist.barrier(device_ids=[device.index or 0] if backend == "nccl" else None)
    problem = watch_group(generation)
    if problem and backend == "nccl":
        print(f"ddipp: rank {rank}: {problem}", file=sys.stderr)
    _user_namespace().update(
        rank=rank, world_size=world_size, device=device, torch=torch, dist=dist
    )


def watch_group(generation: int) -> str:
    """Let the engine's io thread abort the group through the torch plug-in.

    Returns
    -------
    str
        ``""``, or one line that says why the plug-in is not used.
    """
    import ctypes

    import torch.distributed as dist

    path = os.path.join(sys.prefix, "lib", "ddipp", "libddipp_torch.so")
    if not os.path.exists(path):
        return (
            "ddipp was built without torch; build it again in this environment to have its plug-in"
        )
    try:
        import _ddipp_engine as host

        plugin = ctypes.CDLL(path)
    except (ImportError, OSError) as error:
        return f"the torch plug-in can't be loaded: {error}"
    plugin.ddipp_torch_version.restype = ctypes.c_char_p
    built_for = plugin.ddipp_torch_version().decode()
    present = import_torch().partition("+")[0]
    if built_for != present:
        return f"the torch plug-in is for torch {built_for}, not {present}; install ddipp again"
    name = dist.group.WORLD.group_name  # type: ignore[union-attr]
    if plugin.ddipp_torch_watch(generation, name.encode()) != 0:
        return f"torch has no group {name!r} to watch"
    host.set_abort(ctypes.cast(plugin.ddipp_torch_abort, ctypes.c_void_p).value)
    return ""


def leave_group() -> None:
    """Leave the group if there is one.

    The connections are shut down first. Peers that wait for this rank fail at once, and collectives
    of this rank that never finished end, without which the group's destructor would wait for them.
    Destroying alone is not enough: the traceback of a failed cell keeps the group alive.
    """
    dist: Any = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_initialized():
        return
    abort = getattr(dist.distributed_c10d, "_abort_process_group", None)
    if dist.get_backend() == "nccl" and abort is not None:
        abort()  # all communicators together; a destroy would wait for peers that are stuck
        return
    with contextlib.suppress(ImportError):
        import _ddipp_engine as host

        host.cut_sockets(_generation)
    dist.destroy_process_group()


def forget_failure() -> None:
    """Free what the traceback of a failed cell keeps alive: tensors, GPU memory, the old group."""
    import traceback

    from IPython import get_ipython

    last = getattr(sys, "last_traceback", None)
    if last is not None:
        traceback.clear_frames(last)
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        if hasattr(sys, name):
            delattr(sys, name)
    shell = get_ipython()
    formatter = getattr(shell, "InteractiveTB", None)
    for name in ("etype", "evalue", "tb"):
        if hasattr(formatter, name):
            setattr(formatter, name, None)
    result = getattr(shell, "last_execution_result", None)
    if result is not None:
        result.error_in_exec = result.error_before_exec = None
    gc.collect()
    free_memory()


def free_memory() -> None:
    """Give unused GPU memory back."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    gc.collect()
    torch.cuda.empty_cache()


def pull(names: list[str]) -> dict[str, Any]:
    """Return variables of this rank.

    Raises
    ------
    NameError
        When one is missing; names all that are.
    """
    namespace = _user_namespace()
    missing = [name for name in names if name not in namespace]
    if missing:
        raise NameError(", ".join(missing))
    return {name: namespace[name] for name in names}


def status() -> dict[str, Any]:
    """Return a row of the status table."""
    row: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "device": "cpu"}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        device = torch.cuda.current_device()
        free, total = torch.cuda.mem_get_info(device)
        row["device"] = f"cuda:{device} {torch.cuda.get_device_name(device)}"
        row["memory"] = f"{(total - free) / 2**30:.1f} / {total / 2**30:.1f} GiB"
    else:
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        row["memory"] = f"{pages * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"
    dist: Any = sys.modules.get("torch.distributed")
    formed = dist is not None and dist.is_available() and dist.is_initialized()
    row["group"] = dist.get_backend() if formed else "none"
    return row
