"""Variables of one process for others: ``%dipsync`` from a rank, pushes from the notebook, pulls.

The source packs them (:mod:`ddipp.shared.values`). On one host the others map what is big,
copy-on-write, so nobody pays for what is only read; between hosts it goes over the group, or, to
the notebook, in the reply. What is small goes with the request or the reply.

``%dipsync`` first sends objects of classes that a cell has defined by reference to the class, which
every rank has from running the cell; for a rank that has lost it the class goes along.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import Any

from ..shared import values
from .process import host_name, user_namespace

#: From so many bytes on memory is shared where it can be.
SHARE_FROM_BYTES = 1_000_000

_ALIGNMENT = 64
_CHUNK = 64 * 2**20  # bytes of a broadcast

_parts: list[memoryview] = []  # on the source, until release()
_file = -1


# --- the source ----------------------------------------------------------------------------------


def prepare(names: list[str] | None, by_value: bool, in_memory: bool) -> dict[str, Any]:
    """Pack variables of this rank for other ranks.

    Parameters
    ----------
    names : list of str, optional
        Which; every variable that can be sent when not given.
    by_value : bool
        Send the classes and functions that cells have defined along.
    in_memory : bool
        Put it where other processes of this host can map it.

    Returns
    -------
    dict
        ``names``, ``skipped`` (name to reason), ``sizes`` of the parts in bytes, ``pid`` and
        ``file`` for :func:`take_mapped`, ``models``: whether models are among it. Or ``missing``:
        the names that are not there; or ``problem``: why one can't be sent.
    """
    namespace = user_namespace()
    skipped: dict[str, str] = {}
    if names is None:
        names, skipped = _sendable(namespace, by_value)
    if missing := [name for name in names if name not in namespace]:
        return {"missing": ", ".join(missing)}
    try:
        packed = values.pack({name: namespace[name] for name in names}, by_value=by_value)
    except values.CannotCopy as problem:
        return {"problem": str(problem)}
    ready = {"names": names, "skipped": skipped, "models": packed.has_models}
    return {**ready, **hold(packed.parts, in_memory)}


def hold(parts: Sequence[memoryview], in_memory: bool) -> dict[str, Any]:
    """Keep packed variables of this process for others, until :func:`release`."""
    release()
    _parts[:] = parts
    sizes = [part.nbytes for part in _parts]
    if in_memory:
        _write_file(sizes)
    return {"pid": os.getpid(), "file": _file, "sizes": sizes}


def hand_over(names: list[str], host: str) -> tuple[dict[str, Any], memoryview]:
    """Pack variables of this rank for the notebook.

    Parameters
    ----------
    names : list of str
        Which.
    host : str
        :func:`~ddipp.on_rank.process.host_name` of the notebook.

    Returns
    -------
    facts : dict
        As of :func:`prepare`; with a ``file`` the parts are there, until :func:`release`.
    joined : memoryview
        The parts otherwise, see :func:`join`.
    """
    namespace = user_namespace()
    if missing := [name for name in names if name not in namespace]:
        return {"missing": ", ".join(missing)}, memoryview(b"")
    try:
        packed = values.pack({name: namespace[name] for name in names}, unwrap=True)
    except values.CannotCopy as problem:
        return {"problem": str(problem)}, memoryview(b"")
    facts = {"left_out": packed.left_out, "sizes": packed.sizes, "file": -1}
    if sum(packed.sizes) >= SHARE_FROM_BYTES and host == host_name():
        return {**facts, **hold(packed.parts, True)}, memoryview(b"")
    return facts, join(packed.parts)


def _sendable(namespace: dict[str, Any], by_value: bool) -> tuple[list[str], dict[str, str]]:
    """Return the user's variables that can be sent, and why the others can't."""
    from IPython import get_ipython

    hidden = set(get_ipython().user_ns_hidden) | {"rank", "world_size", "device", "torch", "dist"}
    good, bad = [], {}
    for name, value in list(namespace.items()):
        if name.startswith("_") or name in hidden:
            continue
        if why := values.why_not_sendable(value, by_value=by_value):
            bad[name] = why
        else:
            good.append(name)
    return good, bad


def _offsets(sizes: Sequence[int]) -> list[int]:
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    return [*offsets, end]


def join(parts: Sequence[memoryview]) -> memoryview:
    """Return the parts as one message; :func:`split` takes it apart."""
    offsets = _offsets([part.nbytes for part in parts])
    joined = bytearray(offsets[-1])
    for part, offset in zip(parts, offsets):
        joined[offset : offset + part.nbytes] = part.cast("B") if part.nbytes else b""
    return memoryview(joined)


def split(joined: Any, sizes: Sequence[int]) -> list[memoryview]:
    """Return the parts of what :func:`join` has joined, each writable where that is."""
    view = memoryview(joined)
    return [view[begin : begin + size] for begin, size in zip(_offsets(sizes), sizes)]


def _write_file(sizes: Sequence[int]) -> None:
    global _file
    # Anonymous memory: it is gone when the last process that maps it is, however that ends.
    _file = os.memfd_create("ddipp-share", os.MFD_CLOEXEC)
    offsets = _offsets(sizes)
    os.ftruncate(_file, max(offsets[-1], 1))
    for part, offset in zip(_parts, offsets):
        written = 0
        while written < part.nbytes:
            written += os.pwrite(_file, part[written:], offset + written)


def release() -> None:
    """Forget what was prepared; those who have taken it keep it."""
    global _file
    _parts.clear()
    if _file >= 0:
        os.close(_file)
        _file = -1


# --- the others ----------------------------------------------------------------------------------


def map_parts(pid: int, file: int, sizes: Sequence[int]) -> list[memoryview]:
    """Return what a process of this host holds, in memory that is private to whoever writes."""
    size = max(_offsets(sizes)[-1], 1)
    fd = os.open(f"/proc/{pid}/fd/{file}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        memory = mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(fd)
    return split(memory, sizes)


def take_mapped(pid: int, file: int, sizes: list[int]) -> str:
    """Take what a process of this host has prepared.

    Returns
    -------
    str
        ``""``, or why a variable can't be rebuilt here.
    """
    return _assign(map_parts(pid, file, sizes))


def take_joined(sizes: list[int], joined: Any) -> str:
    """Take variables that came with the request; as :func:`take_mapped`."""
    return _assign(split(bytearray(joined), sizes), own_memory=True)


def hold_joined(sizes: list[int], joined: Any) -> None:
    """Hold variables that came with the request for :func:`take_broadcast`."""
    hold(split(bytearray(joined), sizes), in_memory=False)


def take_broadcast(source: int, sizes: list[int], is_target: bool) -> str:
    """Take part in a broadcast of what the rank `source` holds; as :func:`take_mapped`."""
    import torch.distributed as dist

    if dist.get_rank() == source:
        parts = list(_parts)
    else:
        parts = [memoryview(bytearray(size)) for size in sizes]
    for part in parts:
        _broadcast(part, source)
    return _assign(parts) if is_target else ""


def _broadcast(part: memoryview, source: int) -> None:
    import warnings

    import torch
    import torch.distributed as dist

    flat = part.cast("B") if part.nbytes else part
    for begin in range(0, part.nbytes, _CHUNK):
        chunk = flat[begin : begin + _CHUNK]
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # the source's memory may be read-only, and is only read
            tensor = torch.frombuffer(chunk, dtype=torch.uint8)
        if dist.get_backend() == "nccl":
            staged = tensor.cuda()
            dist.broadcast(staged, source)
            if dist.get_rank() != source:
                tensor.copy_(staged)
        else:
            dist.broadcast(tensor, source)


def _assign(parts: Sequence[memoryview], *, own_memory: bool = False) -> str:
    try:
        rebuilt = values.unpack(parts, own_memory=own_memory)
    except values.CannotCopy as problem:
        return str(problem)
    user_namespace().update(rebuilt)
    return ""
