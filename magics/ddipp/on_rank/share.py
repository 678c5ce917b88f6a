"""Variables of one process for others: ``%dipsync`` from a rank, big pushes from the notebook.

The source pickles them, with the memory of arrays and tensors apart. On one host the others map
that memory (copy-on-write, so nobody pays for what is only read); between hosts it goes over the
group.

Objects of classes that a cell has defined are sent by reference to the class, which every rank has
from running the cell; for a rank that has lost it the class goes along.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import sys
import types
from typing import Any

_ALIGNMENT = 64
_CHUNK = 64 * 2**20  # bytes of a broadcast

_parts: list[memoryview] = []  # on the source, until release()
_file = -1


def _pickler(
    file: io.BytesIO, buffers: list[pickle.PickleBuffer], models: list[Any], by_value: bool
) -> Any:
    """Return a pickler that keeps the memory of tensors apart, as pickle does with arrays.

    It adds DistributedDataParallel models to `models`.
    """
    torch: Any = sys.modules.get("torch")  # the notebook need not have loaded it
    wrapped = sys.modules.get("torch.nn.parallel.distributed")

    base: Any = pickle.Pickler
    if by_value:
        import cloudpickle

        base = cloudpickle.Pickler

    class Pickler(base):  # type: ignore[misc]
        def reducer_override(self, thing: Any) -> Any:
            if torch is not None and type(thing) is torch.Tensor and _is_plain(thing):
                return _reduce_tensor(thing)
            if torch is not None and type(thing) is torch.device and _is_own(thing):
                return _own_device, ()
            if wrapped is not None and isinstance(thing, wrapped.DistributedDataParallel):
                models.append(thing)
            above = getattr(super(), "reducer_override", None)
            reduced = above(thing) if above is not None else NotImplemented
            if isinstance(thing, types.FunctionType) and isinstance(reduced, tuple):
                return _in_namespace(reduced)
            return reduced

    return Pickler(file, protocol=5, buffer_callback=buffers.append)


class _Namespace:
    """Stands for the namespace of the cells, on whatever rank it is unpickled."""

    def __reduce__(self) -> Any:
        from .process import user_namespace

        return user_namespace, ()


def _in_namespace(reduced: Any) -> Any:
    """Let a function that goes by value see the target's variables, as cells there do.

    cloudpickle would give it copies of those that it names.
    """
    make, (code, _, *arguments), (attributes, slots), *rest = reduced
    return make, (code, _Namespace(), *arguments), (attributes, {**slots, "__globals__": {}}), *rest


def _is_plain(tensor: Any) -> bool:
    import torch

    dense = tensor.layout is torch.strided and not tensor.is_quantized
    return dense and (tensor.is_leaf or not tensor.requires_grad)


def _is_own(device: Any) -> bool:
    import torch

    if device.type != "cuda" or not torch.cuda.is_initialized():
        return False
    return bool(device.index == torch.cuda.current_device())


def _own_device() -> Any:
    """Return the GPU of the rank on which this is unpickled."""
    import torch

    return torch.device("cuda", torch.cuda.current_device())


def _reduce_tensor(tensor: Any) -> Any:
    import torch

    flat = (
        tensor.detach()
        .cpu()
        .resolve_conj()
        .resolve_neg()
        .contiguous()
        .reshape(-1)
        .view(torch.uint8)
    )
    memory = pickle.PickleBuffer(flat.numpy())
    facts = (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), str(tensor.device))
    return _rebuild_tensor, (memory, *facts, tensor.requires_grad)


def _rebuild_tensor(
    memory: Any, dtype: str, shape: tuple[int, ...], device: str, requires_grad: bool
) -> Any:
    import torch

    flat = torch.empty(0, dtype=torch.uint8)
    if memoryview(memory).nbytes:
        flat = torch.frombuffer(memory, dtype=torch.uint8)
    tensor = flat.view(getattr(torch, dtype)).reshape(shape)
    if device.startswith("cuda"):
        tensor = tensor.to(_own_device())
    return tensor.requires_grad_(requires_grad)


# --- the source ----------------------------------------------------------------------------------


def prepare(names: list[str] | None, by_value: bool, in_memory: bool) -> dict[str, Any]:
    """Pickle variables of this rank.

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
        ``file`` for :func:`take_mapped`, ``models``: whether models are among it.

    Raises
    ------
    NameError
        When one is missing; names all that are.
    TypeError
        When one can't be sent; says why.
    """
    from .process import user_namespace

    namespace = user_namespace()
    skipped: dict[str, str] = {}
    if names is None:
        names, skipped = _sendable(namespace, by_value)
    missing = [name for name in names if name not in namespace]
    if missing:
        raise NameError(", ".join(missing))
    values = {name: namespace[name] for name in names}
    return {"names": names, "skipped": skipped, **prepare_values(values, by_value, in_memory)}


def prepare_values(values: dict[str, Any], by_value: bool, in_memory: bool) -> dict[str, Any]:
    """Pickle values that become variables of others; see :func:`prepare`."""
    release()
    try:
        packed, buffers, models = _pack(values, by_value)
    except Exception as error:
        raise TypeError(f"can't be sent: {type(error).__name__}: {error}") from None
    _parts[:] = [memoryview(packed), *(buffer.raw() for buffer in buffers)]
    sizes = [part.nbytes for part in _parts]
    if in_memory:
        _write_file(sizes)
    return {"models": bool(models), "pid": os.getpid(), "file": _file, "sizes": sizes}


def _pack(
    values: dict[str, Any], by_value: bool
) -> tuple[bytes, list[pickle.PickleBuffer], list[Any]]:
    file = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    models: list[Any] = []
    _pickler(file, buffers, models, by_value).dump(values)
    return file.getvalue(), buffers, models


def _sendable(namespace: dict[str, Any], by_value: bool) -> tuple[list[str], dict[str, str]]:
    """Return the user's variables that can be pickled, and why the others can't."""
    from IPython import get_ipython

    hidden = set(get_ipython().user_ns_hidden) | {"rank", "world_size", "device", "torch", "dist"}
    good, bad = [], {}
    for name, value in list(namespace.items()):
        if name.startswith("_") or name in hidden:
            continue
        try:
            _pack({name: value}, by_value)
        except Exception as error:
            bad[name] = f"{type(error).__name__}: {error}"
        else:
            good.append(name)
    return good, bad


def _offsets(sizes: list[int]) -> list[int]:
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    return [*offsets, end]


def _write_file(sizes: list[int]) -> None:
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


def take_mapped(pid: int, file: int, sizes: list[int]) -> str:
    """Take what a process of this host has prepared.

    Returns
    -------
    str
        ``""``, or why a class or function is not known here; `prepare` by value then.
    """
    offsets = _offsets(sizes)
    fd = os.open(f"/proc/{pid}/fd/{file}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        memory = mmap.mmap(
            fd, max(offsets[-1], 1), mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
        )
    finally:
        os.close(fd)
    view = memoryview(memory)
    return _assign([view[begin : begin + size] for begin, size in zip(offsets, sizes)])


def take_broadcast(source: int, sizes: list[int], is_target: bool) -> str:
    """Take part in a broadcast of what the rank `source` has prepared; as :func:`take_mapped`."""
    import torch.distributed as dist

    if dist.get_rank() == source:
        for part in _parts:
            _broadcast(part, source)
        return ""
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


def _assign(parts: list[memoryview]) -> str:
    from .process import user_namespace

    try:
        values = pickle.loads(parts[0], buffers=parts[1:])
    except (AttributeError, ModuleNotFoundError) as error:
        return str(error)
    user_namespace().update(values)
    return ""
