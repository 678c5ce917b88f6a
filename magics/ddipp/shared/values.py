"""Values of one process for another: pickled by value, their memory apart.

The stream holds one pickle a variable with one memo for all, so what belongs together stays
together, and an error names its variable, on either side. The memory of arrays lies beside the
stream, and so does that of tensors: a table says where in it each one is, so tensors that share
memory share it afterwards, and of memory of which only a part is used only that part is sent.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import re
import sys
import threading
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .definitions import class_like, fingerprint, set_class
from .places import why_not_copied

#: What every process has of its own; functions find the target's.
_OWN = re.compile(
    r"rank|world_size|device|get_ipython|In|Out|exit|quit|__\w+__|_+|_i*|_i?\d+|_[dios]h"
)


class CannotCopy(Exception):
    """A variable that can't be sent, or not be rebuilt; its one line names it and says why."""


class Packed:
    """Variables on their way.

    Attributes
    ----------
    parts : list of memoryview
        The table, the stream, and the memory of arrays and tensors.
    has_models : bool
        Whether DistributedDataParallel models are among it.
    left_out : dict of str to str
        Variables that a function needs and that can't be sent: name to reason.
    """

    def __init__(self, parts: list[memoryview], has_models: bool, left_out: dict[str, str]) -> None:
        self.parts = parts
        self.has_models = has_models
        self.left_out = left_out

    @property
    def sizes(self) -> list[int]:
        """The bytes of each part."""
        return [part.nbytes for part in self.parts]


def namespace() -> dict[str, Any]:
    """Return the namespace of the cells, or of the script, in this process."""
    from IPython import get_ipython

    shell = get_ipython()
    found: dict[str, Any] = sys.modules["__main__"].__dict__ if shell is None else shell.user_ns
    return found


# --- packing -------------------------------------------------------------------------------------


def pack(values: dict[str, Any], *, by_value: bool = True, unwrap: bool = False) -> Packed:
    """Pickle variables.

    Parameters
    ----------
    values : dict
        By name.
    by_value : bool
        Send the classes and functions that cells have defined along, and what these functions use.
    unwrap : bool
        Send the module of a DistributedDataParallel model in its place.

    Raises
    ------
    CannotCopy
        When one can't be sent.
    """
    left_out: dict[str, str] = {}
    while True:
        packer = _Packer(by_value, unwrap, left_out)
        for name, value in values.items():
            packer.add(name, value)
        try:
            packer.add_what_functions_use(values)
        except CannotCopy as problem:  # the stream is of no use any more
            name, _, why = str(problem).partition(" can't be sent: ")
            left_out[name] = why
            continue
        return Packed(packer.finish(), bool(packer.pickler.models), left_out)


def why_not_sendable(value: Any, *, by_value: bool) -> str:
    """Return why a value can't be sent, or ``""``; its memory is not touched."""
    try:
        _Packer(by_value, False, {}).add("it", value)
    except CannotCopy as problem:
        return str(problem).partition(" can't be sent: ")[2]
    return ""


class _Packer:
    def __init__(self, by_value: bool, unwrap: bool, left_out: Iterable[str]) -> None:
        self._file = io.BytesIO()
        self._names: list[str] = []
        self._along: list[str] = []
        self._left_out = set(left_out)
        self.pickler = _pickler_class(by_value)(self._file, unwrap)

    def add(self, name: str, value: Any) -> None:
        try:
            self.pickler.dump(value)
        except Exception as error:
            raise CannotCopy(f"{name} can't be sent: {_one_line(error)}") from None
        self._names.append(name)

    def add_what_functions_use(self, values: dict[str, Any]) -> None:
        """Add variables that functions of cells refer to: the target may not have them."""
        done = {*values, *self._left_out}
        needed = self.pickler.needed
        while todo := [name for name in needed if name not in done and not _OWN.fullmatch(name)]:
            for name in todo:
                done.add(name)
                self.add(name, needed[name])
                self._along.append(name)

    def finish(self) -> list[memoryview]:
        memories, tensors = self.pickler.tensors.finish()
        table = {"names": self._names, "along": self._along, "tensors": tensors}
        buffers = [buffer.raw() for buffer in self.pickler.buffers]
        table["buffers"] = len(buffers)
        head = pickle.dumps(table, protocol=5)
        return [memoryview(head), self._file.getbuffer(), *buffers, *memories]


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Reducers:
    """What is pickled otherwise than pickle and cloudpickle would do it."""

    def __init__(self, file: io.BytesIO, unwrap: bool) -> None:
        self.buffers: list[pickle.PickleBuffer] = []
        super().__init__(file, protocol=5, buffer_callback=self.buffers.append)  # type: ignore[call-arg]
        self.models: list[Any] = []
        self.needed: dict[str, Any] = {}
        self.tensors = _Tensors()
        self._unwrap = unwrap
        self._namespace = namespace()
        # The notebook need not have loaded it.
        self._torch: Any = sys.modules.get("torch")
        self._wrapped: Any = _loaded("torch.nn.parallel.distributed", "DistributedDataParallel")

    def reducer_override(self, thing: Any) -> Any:
        reduced = NotImplemented if self._torch is None else self._of_torch(thing)
        if reduced is NotImplemented:
            reduced = self._of_python(thing)
        if reduced is NotImplemented:
            above = getattr(super(), "reducer_override", None)
            reduced = reduced if above is None else self._of_cells(thing, above(thing))
        return reduced

    def _of_torch(self, thing: Any) -> Any:
        if (reason := why_not_copied(thing)) is not None:
            raise TypeError(reason)
        kind = type(thing)
        if kind in (self._torch.Tensor, self._torch.nn.Parameter) and _is_plain(thing):
            return self._tensor(thing)
        if kind is self._torch.device and _is_own(thing):
            return _own_device, ()
        if isinstance(thing, self._wrapped):
            self.models.append(thing)
            if self._unwrap:
                return _same, (thing.module,)
        return NotImplemented

    @staticmethod
    def _of_python(thing: Any) -> Any:
        kind = type(thing)
        if kind is types.ModuleType and thing.__name__ in sys.modules and not _is_main(thing):
            return _module, (thing.__name__,)
        if kind is io.TextIOWrapper:  # cloudpickle would send its text
            raise TypeError("cannot pickle an open file")
        if isinstance(thing, BaseException) and _has_own_init(kind):
            return _exception, (kind, thing.args), thing.__dict__, None, None, _set_attributes
        return NotImplemented

    def _of_cells(self, thing: Any, reduced: Any) -> Any:
        """Take what cloudpickle makes of a function or class, and change it where cells made it."""
        if not isinstance(reduced, tuple):
            return reduced
        if type(thing) is types.FunctionType and thing.__globals__ is self._namespace:
            return self._function(reduced)
        if isinstance(thing, type) and thing.__module__ == "__main__" and len(reduced) == 6:
            make, arguments, state, items, pairs, setter = reduced
            like = (thing.__qualname__, fingerprint(thing), make, arguments)
            return class_like, like, (setter, state), items, pairs, set_class
        return reduced

    def _tensor(self, tensor: Any) -> Any:
        reduced = (_tensor, (self.tensors.add(tensor),))
        grad = tensor.grad if tensor.is_leaf else None
        attributes = dict(tensor.__dict__)
        if grad is None and not attributes:
            return reduced
        return (*reduced, (grad, attributes), None, None, _set_tensor_state)

    def _function(self, reduced: Any) -> Any:
        """Let a function see the target's variables, as cells there do.

        cloudpickle would give it copies of those that it names.
        """
        make, (code, _, *arguments), (attributes, slots), *rest = reduced
        for name, value in slots["__globals__"].items():
            self.needed.setdefault(name, value)
        state = (attributes, {**slots, "__globals__": {}})
        return make, (code, _Namespace(), *arguments), state, *rest


class _ByReference(_Reducers, pickle.Pickler):
    """Classes and functions of cells are those that the target has under the same name."""


def _pickler_class(by_value: bool) -> Any:
    global _by_value
    if not by_value:
        return _ByReference
    if _by_value is None:
        import cloudpickle

        _by_value = type("_ByValue", (_Reducers, cloudpickle.Pickler), {})
    return _by_value


_by_value: Any = None


class _Namespace:
    """Stands for the namespace of the cells, wherever it is unpickled."""

    def __reduce__(self) -> Any:
        return _namespace_here, ()


def _namespace_here() -> dict[str, Any]:
    return namespace()


def _loaded(module: str, name: str) -> Any:
    """Return a class if its module is loaded, else what nothing is an instance of."""
    return getattr(sys.modules.get(module), name, ())


# --- unpacking -----------------------------------------------------------------------------------


def unpack(parts: Sequence[Any], *, own_memory: bool = False) -> dict[str, Any]:
    """Rebuild variables; those that functions use are set in :func:`namespace` where missing.

    Parameters
    ----------
    parts : sequence of buffer
        As packed, in writable memory, which arrays and tensors go on using.
    own_memory : bool
        Give each tensor memory of its own instead, which it may grow.

    Raises
    ------
    CannotCopy
        When one can't be rebuilt here.
    """
    table = pickle.loads(parts[0])
    first_memory = 2 + table["buffers"]
    unpickler = pickle.Unpickler(_Reader(parts[1]), buffers=parts[2:first_memory])
    values: dict[str, Any] = {}
    with _rebuilding(table["tensors"], parts[first_memory:], own_memory):
        for name in table["names"]:
            try:
                values[name] = unpickler.load()
            except Exception as error:
                raise CannotCopy(f"{name} can't be rebuilt: {_one_line(error)}") from None
    _bring({name: values.pop(name) for name in table["along"]})
    return values


_brought: dict[str, Any] = {}  # came along with functions


def _bring(values: dict[str, Any]) -> None:
    """Set variables that functions use, unless the user has set them here."""
    here = namespace()
    for name, value in values.items():
        if name not in here or (name in _brought and here[name] is _brought[name]):
            here[name] = _brought[name] = value


class _Reader:
    """Reads from memory what is unpickled, big values without a copy between."""

    def __init__(self, memory: Any) -> None:
        self._memory = memoryview(memory)
        self._at = 0

    def read(self, count: int) -> bytes:
        piece = self._memory[self._at : self._at + count]
        self._at += piece.nbytes
        return bytes(piece)

    def readinto(self, target: Any) -> int:
        into = memoryview(target).cast("B")
        piece = self._memory[self._at : self._at + into.nbytes]
        into[: piece.nbytes] = piece
        self._at += piece.nbytes
        return piece.nbytes

    def readline(self) -> bytes:  # only protocol 0 has lines
        raise pickle.UnpicklingError("not written by ddipp")


def _same(value: Any) -> Any:
    return value


def _is_main(module: Any) -> bool:
    return module.__name__ == "__main__" or module is sys.modules.get("__main__")


def _module(name: str) -> Any:
    import importlib

    return importlib.import_module(name)


def _has_own_init(kind: Any) -> bool:
    """Tell whether a class of exceptions takes arguments that pickle knows nothing of."""
    plain = (
        kind.__reduce__ is BaseException.__reduce__ and kind.__reduce_ex__ is object.__reduce_ex__
    )
    return plain and isinstance(kind.__init__, types.FunctionType)


def _exception(kind: Any, arguments: tuple[Any, ...]) -> Any:
    return kind.__new__(kind, *arguments)


def _set_attributes(thing: Any, attributes: dict[str, Any]) -> None:
    thing.__dict__.update(attributes)


# --- tensors -------------------------------------------------------------------------------------


def _is_plain(tensor: Any) -> bool:
    import torch

    return (
        tensor.layout is torch.strided
        and tensor.device.type in ("cpu", "cuda")
        and not (tensor.is_quantized or tensor.is_nested)
    )


def _is_own(device: Any) -> bool:
    import torch

    if device.type != "cuda" or not torch.cuda.is_initialized():
        return False
    return bool(device.index == torch.cuda.current_device())


def _own_device() -> Any:
    """Return the GPU of the process in which this is unpickled."""
    import torch

    try:
        return torch.device("cuda", torch.cuda.current_device())
    except (RuntimeError, AssertionError):  # a notebook on a host without one
        return torch.device("cpu")


class _Tensors:
    """Gathers tensors, and in the end the memory that they use."""

    def __init__(self) -> None:
        self._tensors: list[Any] = []
        self._plain: list[Any] = []

    def add(self, tensor: Any) -> int:
        self._tensors.append(tensor)
        self._plain.append(tensor.detach().resolve_conj().resolve_neg())
        return len(self._tensors) - 1

    def finish(self) -> tuple[list[memoryview], list[dict[str, Any]]]:
        """Return the memory and, by number, what makes a tensor of it."""
        sharing: dict[Any, list[int]] = {}
        for number, plain in enumerate(self._plain):
            address = _storage(plain).data_ptr()
            key = (plain.device, address) if address else number
            sharing.setdefault(key, []).append(number)
        memories: list[memoryview] = []
        table: list[dict[str, Any]] = [{} for _ in self._plain]
        for numbers in sharing.values():
            if len(numbers) == 1 and not _is_dense(self._plain[numbers[0]]):
                self._plain[numbers[0]] = self._plain[numbers[0]].contiguous()
            group = [self._plain[number] for number in numbers]
            spans = [_span(plain) for plain in group]
            begin = min(span[0] for span in spans) // 16 * 16  # aligned for every type
            end = max(span[1] for span in spans)
            for number, plain in zip(numbers, group):
                table[number] = self._describe(number, plain, begin, len(memories))
            whole = max(group, key=lambda plain: _storage(plain).nbytes())
            memories.append(_bytes_of(whole, begin, end))
        return memories, table

    def _describe(self, number: int, plain: Any, begin: int, memory: int) -> dict[str, Any]:
        import torch

        tensor = self._tensors[number]
        return {
            "memory": memory,
            "device": plain.device.type,
            "dtype": str(plain.dtype).removeprefix("torch."),
            "offset": plain.storage_offset() - begin // plain.element_size(),
            "shape": tuple(plain.shape),
            "stride": plain.stride(),
            "requires_grad": tensor.requires_grad,
            "parameter": isinstance(tensor, torch.nn.Parameter),
        }


def _storage(tensor: Any) -> Any:
    if hasattr(tensor, "untyped_storage"):
        return tensor.untyped_storage()
    return tensor.storage().untyped()  # before torch 2.0


def _span(tensor: Any) -> tuple[int, int]:
    """Return the first byte that a tensor uses in its storage, and the one after the last."""
    begin = tensor.storage_offset()
    if tensor.numel() == 0:
        return begin * tensor.element_size(), begin * tensor.element_size()
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride()))
    return begin * tensor.element_size(), (begin + last + 1) * tensor.element_size()


def _is_dense(tensor: Any) -> bool:
    begin, end = _span(tensor)
    return bool(end - begin <= tensor.numel() * tensor.element_size())


def _bytes_of(tensor: Any, begin: int, end: int) -> memoryview:
    import torch

    if end == begin:
        return memoryview(b"")
    flat = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    flat.set_(_storage(tensor), begin, (end - begin,), (1,))
    memory: Any = flat.cpu().numpy()
    return memoryview(memory)


_now = threading.local()


class _Rebuilt:
    """The tensors of what is unpickled now."""

    def __init__(
        self, table: Sequence[dict[str, Any]], memories: Sequence[Any], own_memory: bool
    ) -> None:
        self._table = table
        self._memories = memories
        self._own_memory = own_memory
        self._storages: dict[int, Any] = {}

    def make(self, number: int) -> Any:
        import torch

        one = self._table[number]
        flat = self._storage(one["memory"], one["device"])
        tensor = torch.empty(0, dtype=getattr(torch, one["dtype"]), device=flat.device)
        tensor.set_(_storage(flat), one["offset"], one["shape"], one["stride"])
        if one["parameter"]:
            return torch.nn.Parameter(tensor, one["requires_grad"])
        return tensor.requires_grad_(one["requires_grad"])

    def _storage(self, number: int, device: str) -> Any:
        import torch

        if number not in self._storages:
            memory = self._memories[number]
            flat = torch.empty(0, dtype=torch.uint8)
            if memoryview(memory).nbytes:
                flat = torch.frombuffer(memory, dtype=torch.uint8)
            if device == "cuda":
                flat = flat.to(_own_device())
            elif self._own_memory:
                flat = flat.clone()
            self._storages[number] = flat
        return self._storages[number]


@contextlib.contextmanager
def _rebuilding(
    table: Sequence[dict[str, Any]], memories: Sequence[Any], own_memory: bool
) -> Iterator[None]:
    before = getattr(_now, "rebuilt", None)
    _now.rebuilt = _Rebuilt(table, memories, own_memory)
    try:
        yield
    finally:
        _now.rebuilt = before


def _tensor(number: int) -> Any:
    return _now.rebuilt.make(number)


def _set_tensor_state(tensor: Any, state: tuple[Any, dict[str, Any]]) -> None:
    tensor.grad, attributes = state
    tensor.__dict__.update(attributes)
