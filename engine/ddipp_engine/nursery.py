"""The nursery: a process that imports once what ranks need and forks a worker for each.

Supervisors connect to its socket (engine/supervisor/nursery.hpp) and ask; a message with the text
``start`` carries the request, a file, and the descriptors of the worker. The answer is a JSON
object: ``pid``, with a descriptor of the process, or ``refused``, a line; ``ended`` follows, the
status of the worker's end. A supervisor stays connected for as long as it lives.

It has one thread, no CUDA and no socket of a library: what is forked is an interpreter that has
just done its imports. A package that starts threads when it is imported makes it refuse.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from types import ModuleType
from typing import Any

#: How long it waits, without any supervisor, for the next one, in seconds.
LINGER_S = 1.0
#: A supervisor that does not come at all, in seconds.
FIRST_S = 60.0
#: What every engine imports, beside its kernel.
ENGINE = (
    "ipykernel.kernelapp",
    "ipykernel.displayhook",
    "ipykernel.zmqshell",
    "IPython.core.ultratb",
    "multiprocessing",
    "concurrent.futures.thread",
)
_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36
_DESCRIPTORS = 10


class Refused(Exception):
    """Why no worker can be forked; the line is for a log."""


class Imports:
    """What has been imported, and whether a fork of this process may use it."""

    def __init__(self) -> None:
        self._changed: dict[str, int] = {}
        self._threads = 1
        self._culprit = ""

    def add(self, name: str) -> None:
        """Import a module; one that can't be imported is left to the worker that needs it."""
        if name in sys.modules:
            return
        if name != "numpy" and name.partition(".")[0] == "torch":
            self.add("numpy")  # torch loads it; known apart because of its threads
            # It is read at the import. A wait in a store that is ended prints thirty lines else.
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        with contextlib.suppress(Exception):
            importlib.import_module(name)
        threads = len(os.listdir("/proc/self/task"))
        if name == "numpy":
            self._threads = threads  # of OpenBLAS, which minds forks itself
        elif threads > self._threads and not self._culprit:
            self._culprit = name

    def freeze(self) -> None:
        """Note the state on disk of what is imported; collections leave it alone from now on."""
        for name, module in list(sys.modules.items()):
            if "." in name:
                continue
            for folder in getattr(module, "__path__", ()):
                self._changed.setdefault(folder, _modified(folder))
        gc.collect()
        gc.freeze()

    def check(self) -> None:
        """See whether a fork is as good as a new interpreter.

        Raises
        ------
        Refused
            When it is not.
        """
        if self._culprit:
            raise Refused(f"{self._culprit} has started threads, which a fork does not have")
        cuda = getattr(sys.modules.get("torch"), "cuda", None)
        if cuda is not None and cuda.is_initialized():
            raise Refused("CUDA is initialized, which a fork can't use")

    def stale(self) -> str:
        """Return the folder of a package that has changed since its import, or ``""``."""
        for folder, before in self._changed.items():
            if _modified(folder) != before:
                return folder
        return ""


def _modified(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


class Worker:
    """A worker and the supervisor that asked for it."""

    def __init__(self, pid: int, supervisor: socket.socket) -> None:
        self.pid = pid
        self.supervisor = supervisor


class Nursery:
    """Takes requests, forks, and says how workers end.

    Parameters
    ----------
    listener : socket.socket
        Where supervisors connect.
    host : module
        The host library, loaded and not started.
    """

    def __init__(self, listener: socket.socket, host: ModuleType) -> None:
        self._listener: socket.socket | None = listener
        self._host = host
        self._imports = Imports()
        self._workers: dict[int, Worker] = {}
        self._supervisors: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        self._wake, wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake_end = wake_end
        self._last = time.monotonic()
        self._first = True
        self._is_worker = False
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)

    def serve(self) -> dict[str, Any] | None:
        """Run until the last supervisor has gone; in a worker, return its request at once."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        for name in ENGINE:
            self._imports.add(name)
        self._imports.freeze()
        while not self._is_over():
            events = self._selector.select(1.0)
            self._reap()
            for key, _ in events:
                request = self._on_event(key.fileobj)
                if request is not None:
                    return request
        return None

    def _is_over(self) -> bool:
        if self._supervisors or self._workers:
            return False
        return time.monotonic() - self._last > (FIRST_S if self._first else LINGER_S)

    def _on_event(self, source: Any) -> dict[str, Any] | None:
        if source == self._wake:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
        elif source is self._listener:
            self._accept()
        else:
            return self._on_message(source)
        return None

    def _accept(self) -> None:
        assert self._listener is not None
        connection, _ = self._listener.accept()
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if struct.unpack("3i", credentials)[1] != os.getuid():
            connection.close()
            return
        self._first = False
        self._supervisors.append(connection)
        self._selector.register(connection, selectors.EVENT_READ)

    # --- requests ----------------------------------------------------------------------------

    def _on_message(self, supervisor: socket.socket) -> dict[str, Any] | None:
        try:
            text, descriptors, _, _ = socket.recv_fds(supervisor, 64, _DESCRIPTORS)
        except OSError:
            text, descriptors = b"", []
        if not text:
            self._forget(supervisor)
            return None
        try:
            request = self._read(descriptors)
            return self._start(supervisor, request)
        except Exception as error:  # the engine starts without it
            if self._is_worker:
                raise
            why = str(error) if isinstance(error, Refused) else repr(error)
            _answer(supervisor, {"refused": why})
        finally:
            if not self._is_worker:
                for fd in descriptors:
                    os.close(fd)
        return None

    def _read(self, descriptors: list[int]) -> dict[str, Any]:
        if len(descriptors) != _DESCRIPTORS:
            raise Refused(f"{len(descriptors)} descriptors came instead of {_DESCRIPTORS}")
        size = os.fstat(descriptors[0]).st_size
        request: dict[str, Any] = json.loads(os.pread(descriptors[0], size, 0))
        request["descriptors"] = descriptors
        return request

    def _start(self, supervisor: socket.socket, request: dict[str, Any]) -> dict[str, Any] | None:
        """Fork; returns the request in the worker."""
        if folder := self._imports.stale():
            self._close_listener()
            _answer(supervisor, {"refused": f"{folder} has changed", "stale": True})
            return None
        missing = [name for name in request["preload"] if name not in sys.modules]
        for name in missing:
            self._imports.add(name)
        if missing:
            self._imports.freeze()
        self._imports.check()
        pid = os.fork()
        if pid == 0:
            self._leave_to_the_parent()
            return request
        with contextlib.suppress(OSError):  # it has done so itself
            os.setpgid(pid, pid)
        self._workers[pid] = Worker(pid, supervisor)
        self._last = time.monotonic()
        process = os.pidfd_open(pid)
        _answer(supervisor, {"pid": pid}, process)
        os.close(process)
        return None

    def _leave_to_the_parent(self) -> None:
        """Let go, in a worker, of what is the nursery's."""
        self._is_worker = True
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        os.close(self._wake)
        os.close(self._wake_end)
        for one in self._supervisors:
            one.close()
        if self._listener is not None:
            self._listener.close()

    # --- ends --------------------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = self._workers.pop(pid, None)
            if worker is not None:
                self._last = time.monotonic()
                _answer(worker.supervisor, {"ended": status, "peak_memory_kib": usage.ru_maxrss})

    def _forget(self, supervisor: socket.socket) -> None:
        """A supervisor is gone, and with it all that it has started."""
        self._selector.unregister(supervisor)
        self._supervisors.remove(supervisor)
        supervisor.close()
        self._last = time.monotonic()
        for worker in self._workers.values():
            if worker.supervisor is supervisor:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)

    def _close_listener(self) -> None:
        """Take no new supervisors: they start a nursery of their own."""
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None


def _answer(supervisor: socket.socket, content: dict[str, Any], process: int | None = None) -> None:
    rights = [] if process is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _packed(process))]
    with contextlib.suppress(OSError):  # it is gone
        supervisor.sendmsg([json.dumps(content).encode()], rights, socket.MSG_NOSIGNAL)


def _packed(descriptor: int) -> bytes:
    return array.array("i", [descriptor]).tobytes()


# --- in the worker -------------------------------------------------------------------------------


def become_worker(request: dict[str, Any], host: ModuleType) -> None:
    """Be what a new interpreter would be for this request, and start the engine."""
    _, state, *pipes, fault, stdin, stdout, stderr = request["descriptors"]
    for number, descriptor in enumerate((stdin, stdout, stderr)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.close(request["descriptors"][0])
    os.environ.clear()
    for entry in request["environment"]:
        name, _, value = entry.encode("latin-1").partition(b"=")
        os.environb[name] = value
    os.umask(request["umask"])
    with contextlib.suppress(OSError):  # a folder that is gone
        os.chdir(request["folder"])
    with contextlib.suppress(OSError):  # of processors that are not ours any more
        if request["processors"]:
            os.sched_setaffinity(0, request["processors"])
    _seed()
    options = request["options"] | {
        "stdout": pipes[:2],
        "stderr": pipes[2:],
        "fault_fd": fault,
    }
    file = os.memfd_create("dipengine-options", os.MFD_CLOEXEC)
    os.write(file, json.dumps(options).encode())
    host.start(file, state)
    sys.argv[1:] = request["arguments"]


def _seed() -> None:
    """Draw what processes draw at their start; Python's own generator minds forks itself."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    process: Any = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().authkey = os.urandom(32)


def _load_host(path: str) -> ModuleType:
    name = "_ddipp_engine"
    loader = ExtensionFileLoader(name, path)
    host = loader.create_module(ModuleSpec(name, loader, origin=path))
    assert host is not None
    loader.exec_module(host)
    sys.modules[name] = host
    return host


def _be_quiet() -> None:
    """Hold no log or terminal open that belongs to the engine which started this process."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.close(nothing)


def main() -> None:
    """Entry point, called by dipengine: the host library and the listening socket are arguments."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NAME, b"ddipp-nursery", 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    host = _load_host(sys.argv[1])
    listener = socket.socket(fileno=int(sys.argv[2]))
    listener.set_inheritable(False)
    sys.argv[1:] = []
    path = listener.getsockname()
    from . import main as engine

    engine.import_kernel()
    _be_quiet()
    request = Nursery(listener, host).serve()
    if request is None:
        with contextlib.suppress(OSError):
            os.unlink(path)
        os._exit(0)
    become_worker(request, host)
    engine.main()
