"""Start of the Python half: one kernel, one event loop on the main thread."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import faulthandler
import functools
import json
import logging
import os
import signal
import sys
import time
import types
from typing import Any

import _ddipp_engine as host

from . import cell_objects
from .application import offer_application
from .hosts import complaint
from .lazy import after_import, parts_of

#: What ``--mpi`` runs in the user's namespace.
MPI_INIT = """\
from mpi4py import MPI
mpi_rank = MPI.COMM_WORLD.Get_rank()
mpi_size = MPI.COMM_WORLD.Get_size()
"""


#: Interrupts that come faster than this count as one.
MIN_INTERVAL_S = 0.05


class HostLogHandler(logging.Handler):
    """Passes Python's log records on to the engine's log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line for `record`."""
        host.log(record.levelno, self.format(record).replace("\0", ""))


def make_logger() -> logging.Logger:
    """Return the engine's logger."""
    logger = logging.getLogger("ddipp_engine")
    logger.addHandler(HostLogHandler())
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    return logger


def make_kernel(options: dict[str, Any], engine_id: int, log: logging.Logger) -> Any:
    """Build the kernel with its shell, before any request is taken."""
    import threading

    import zmq
    from tornado.ioloop import IOLoop
    from traitlets.config import Config

    from .kernel import EngineKernel, without_debugger
    from .session import EngineSession

    connection = options["connection"]
    session = EngineSession(
        session=options["uuid"],
        key=connection.get("key", "").encode(),
        packer=connection.get("pack", "json"),
        unpacker=connection.get("unpack", "json"),
        check_pid=False,
    )
    with without_debugger():
        kernel = EngineKernel.instance(
            # The input history of a person is no place for what a client sends to its engines, and
            # engines would wait for each other at that one file. A console finds it here.
            config=Config({"HistoryManager": {"hist_file": ":memory:"}}),
            session=session,
            engine_id=engine_id,
            ident=options["uuid"],
            user_ns={},
            log=log,
            # ipykernel asks it which thread runs cells
            shell_channel_thread=types.SimpleNamespace(parent_thread=threading.main_thread()),
        )
    kernel.io_loop = IOLoop.current()
    zmq.Context.instance()  # the user's, apart from the engine's own
    return kernel


def redirect_output(kernel: Any) -> None:
    """Send sys.stdout, sys.stderr and expression results to the clients."""
    from ipykernel.displayhook import ZMQDisplayHook

    from .session import IOPUB
    from .streams import EngineStream

    sys.stdout.flush()
    sys.stderr.flush()
    host.start_capture()
    sys.stdout = EngineStream(1, kernel.session.packed_parent)  # type: ignore[assignment]
    sys.stderr = EngineStream(2, kernel.session.packed_parent)  # type: ignore[assignment]
    kernel.streams = {"stdout": sys.stdout, "stderr": sys.stderr}
    sys.displayhook = ZMQDisplayHook(kernel.session, IOPUB)
    sys.displayhook.topic = kernel._topic("execute_result")


def run_startup(kernel: Any, options: dict[str, Any], arguments: list[str]) -> None:
    """Do what IPython does at start: configuration, extensions, startup files, -c and -s.

    A failure of ``$PYTHONSTARTUP`` ends the engine, as it does with the stock one.
    """
    from ipykernel.kernelapp import IPKernelApp

    # As the application of this process: %matplotlib and others look for its kernel.
    app = IPKernelApp.instance(shell=kernel.shell, kernel=kernel, log=kernel.log)
    kernel.parent = app
    app.parse_command_line(arguments)
    profile_dir = options["profile_dir"]
    if os.path.isdir(profile_dir):
        app.config.ProfileDir.location = profile_dir
    app.init_profile_dir()
    app.config_file_name = "ipython_kernel_config.py"
    app.load_config_file(suppress_errors=True)
    kernel.shell.update_config(app.config)
    if options["use_mpi"]:
        app.exec_lines.insert(0, MPI_INIT)
    if options["startup_script"]:
        app.exec_files.append(options["startup_script"])
    if options["startup_command"]:
        app.exec_lines.append(options["startup_command"])
    app.init_gui_pylab()
    app.init_extensions()
    app.init_code()


def install_signal_handlers(kernel: Any) -> None:
    """SIGINT interrupts a running request and is ignored between requests."""
    last = 0.0

    def on_sigint(signum: int, frame: Any) -> None:
        nonlocal last
        if kernel.busy:
            # A second one at once would hit the code that ends the request after the first.
            if time.monotonic() - last < MIN_INTERVAL_S:
                return
            last = time.monotonic()
            raise KeyboardInterrupt
        if not host.stopping():
            host.log(logging.INFO, "ignored SIGINT: nothing is running")

    signal.signal(signal.SIGINT, on_sigint)


async def serve(options: dict[str, Any], engine_id: int, arguments: list[str]) -> None:
    """Run the engine until it is to end."""
    from .debugging import serve_debugger

    loop = asyncio.get_running_loop()
    wake = asyncio.Event()

    def on_inbox() -> None:
        host.clear_inbox_event()
        wake.set()

    loop.add_reader(host.inbox_fd(), on_inbox)
    kernel = make_kernel(options, engine_id, make_logger())
    install_signal_handlers(kernel)
    cell_objects.install()
    run_startup(kernel, options, arguments)
    redirect_output(kernel)
    serve_debugger(kernel)
    host.ready()
    await kernel.serve(wake)


def keep_starting_folder() -> None:
    """Let modules of the starting folder be found after ``os.chdir``, as with ``python -m``."""
    if sys.path[:1] == [""]:  # not with -P
        with contextlib.suppress(OSError):
            sys.path.insert(1, os.getcwd())


def run_exit_handlers() -> None:
    """What the interpreter would do at its end; the process leaves without finalizing it.

    Finalization with torch loaded is known to crash or hang.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        atexit._run_exitfuncs()
        finalize_mpi()
    except BaseException as error:
        host.log(logging.WARNING, f"an exit handler failed: {error!r}")


def finalize_mpi() -> None:
    """Do what mpi4py does when the interpreter is finalized, which it is not here."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()


def import_kernel() -> None:
    """Import all that the kernel needs; before a fork, or at the start of the engine.

    Ends with a line that says why when this environment can't host an engine.
    """
    try:
        with parts_of("ipyparallel"):
            from . import kernel  # noqa: F401
    except (ImportError, AttributeError) as failure:
        why = complaint(failure)
        if why is None:
            raise
        sys.exit(f"dipengine: {why}")
    if why := complaint():
        sys.exit(f"dipengine: {why}")


def main() -> None:
    """Entry point, called by dipengine."""
    faulthandler.enable(file=host.fault_fd())
    number, fd = host.stack_channel()
    faulthandler.register(number, file=fd, all_threads=False)
    host.arm_stack()
    keep_starting_folder()
    arguments = sys.argv[1:]
    sys.argv[:] = [sys.executable]
    options = json.loads(host.options())
    code = 1
    try:
        # The controller is asked for an id after them, however long they take: it doesn't wait.
        after_import("ipyparallel.engine.app", functools.partial(offer_application, options))
        import_kernel()
        engine_id = host.wait_registered()
        asyncio.run(serve(options, engine_id, arguments))
        code = 0
    except ConnectionError:
        code = 1  # the io thread has logged why
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        import traceback

        host.log(logging.ERROR, "the engine failed:\n" + traceback.format_exc())
    run_exit_handlers()
    host.exit(code)
