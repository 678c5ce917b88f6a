"""The process of a rank: what the group needs to know of it, what is set in it, and its memory.

All functions are called on the ranks and return plain values.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import sys
import threading
from typing import Any

from ..shared import values
from .engine_link import connection as engine_connection
from .engine_link import engine, is_ours
from .failures import watch_failures


def user_namespace() -> dict[str, Any]:
    """Return the namespace of the cells."""
    return values.namespace()


def probe() -> dict[str, Any]:
    """Return what the group needs to know of this process before torch is loaded.

    Returns
    -------
    dict
        ``pid``; ``host``, equal for processes that reach each other over loopback; ``address``
        under which other hosts reach this one, its ``interface``; ``cores`` it may use; ``gpus``
        that it can see.
    """
    address = _own_address()
    return {
        "pid": os.getpid(),
        "host": host_name(),
        "address": address,
        "interface": _interface_of(address),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": _visible_gpus(),
    }


def host_name() -> str:
    """Return a name that processes share which reach each other over loopback."""
    # Network namespaces are hosts of their own: containers, and tests.
    network = os.stat("/proc/self/ns/net").st_ino
    return f"{socket.gethostname()}/{network}"


def _visible_gpus() -> int:
    from ..shared.devices import gpu_count

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return gpu_count() if chosen is None else len([one for one in chosen.split(",") if one])


def _own_address() -> str:
    """Return the address of this host on the way to the controller."""
    from urllib.parse import urlsplit

    if not is_ours():
        return socket.gethostname()
    connection = engine_connection()
    controller = urlsplit(connection["interface"]).hostname
    if controller in (None, "*", "0.0.0.0"):
        controller = connection.get("location")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe_socket:
            probe_socket.connect((controller, 9))  # sends nothing
            return str(probe_socket.getsockname()[0])
    except OSError:
        return socket.gethostname()


def _interface_of(address: str) -> str:
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            return str(name)
    return ""


def set_environment(values: dict[str, str], defaults: dict[str, str]) -> None:
    """Set what torchrun would set, and what the user has not chosen."""
    os.environ.update(values)
    if "TORCHELASTIC_ERROR_FILE" not in os.environ and (folder := _log_folder()):
        # Where @record of torch.distributed.elastic writes; it is made by that.
        os.environ["TORCHELASTIC_ERROR_FILE"] = os.path.join(folder, f"error-{os.getpid()}.json")
    missing = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(missing)
    torch = sys.modules.get("torch")
    if torch is not None and "OMP_NUM_THREADS" in missing:
        torch.set_num_threads(int(missing["OMP_NUM_THREADS"]))  # it has read the variable before


def _log_folder() -> str:
    """Return the folder of this engine's log, or ``""``."""
    profile: str = json.loads(engine().options()).get("profile_dir", "")
    folder = os.path.join(profile, "log")
    return folder if profile and os.path.isdir(folder) else ""


_given: dict[str, Any] = {}  # variables that the cells were given


def give_variables(namespace: dict[str, Any], variables: dict[str, Any]) -> None:
    """Set variables of the cells, but for those that the user has bound to something else."""
    for name, value in variables.items():
        if name not in namespace or name not in _given or namespace[name] is _given[name]:
            namespace[name] = value
        _given[name] = value


def show_as(rich: bool) -> None:
    """Let libraries choose between bars of widgets and of text as they would in the notebook.

    They ask for the shell's class and for its configuration.

    Parameters
    ----------
    rich : bool
        Whether the cells are typed in a notebook, not in a terminal.
    """
    from IPython import get_ipython

    shell = get_ipython()
    watch_failures(shell)
    # By these libraries know a person at a prompt, from where they refuse to train with peers.
    for name in ("ps1", "ps2", "ps3"):
        vars(sys).pop(name, None)
    # Jupyter's qtconsole is what tqdm knows as a kernel whose front end shows text.
    type(shell).__name__ = "ZMQInteractiveShell" if rich else "QtInteractiveShell"
    if rich:
        shell.config.setdefault("IPKernelApp", {})
    else:
        shell.config.pop("IPKernelApp", None)


def import_torch() -> str:
    """Load torch and return its version.

    Raises
    ------
    ModuleNotFoundError
        When it is not installed.
    """
    first = "torch" not in sys.modules
    import torch
    import torch.distributed

    if first:
        # What is there now stays for good. Collections need not look at it: 0.15 s less each.
        gc.collect()
        gc.freeze()
    return str(torch.__version__)


def wait_less_for_workers() -> None:
    """Let an interrupted loop over a data loader end soon.

    An interrupt does not reach the loader's workers, which would be lost for good. When the loop
    ends, the loader waits this long for each that is still busy, five seconds, and ends it then.
    """
    import torch.utils.data

    utilities = torch.utils.data._utils
    if hasattr(utilities, "MP_STATUS_CHECK_INTERVAL"):
        utilities.MP_STATUS_CHECK_INTERVAL = 1.0


def warm_up() -> None:
    """Load what shows a traceback, so that the first failure is shown as fast as others."""
    from IPython import get_ipython

    try:
        raise ValueError
    except ValueError as error:
        shell = get_ipython()
        shell.InteractiveTB.structured_traceback(type(error), error, error.__traceback__)
    forget_failure()
    free_memory(thorough=True)


# --- memory --------------------------------------------------------------------------------------


def forget_failure() -> None:
    """Let go of what the traceback of a failed cell keeps alive: tensors, the old group."""
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


def free_memory(thorough: bool) -> None:
    """Give unused memory back, that of the GPU too.

    Parameters
    ----------
    thorough : bool
        Whether to look for cycles among all objects, which takes a tenth of a second, or among the
        youngest.
    """
    gc.collect(2 if thorough else 1)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        with contextlib.suppress(RuntimeError):  # a GPU that fails says so elsewhere
            torch.cuda.empty_cache()


# --- the GPU -------------------------------------------------------------------------------------


def settle(timeout_s: float) -> str:
    """Wait until the GPU has done what this process has queued.

    Parameters
    ----------
    timeout_s : float
        How long, in seconds.

    Returns
    -------
    str
        ``""``, or why it has not: a line.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return ""
    device = torch.cuda.current_device()  # a thread has its own
    failures: list[str] = []

    def wait() -> None:
        try:
            torch.cuda.synchronize(device)
        except RuntimeError as error:
            failures.append(str(error).strip().partition("\n")[0])

    # It can't be ended from outside, so the main thread does not do it.
    waiting = threading.Thread(target=wait, name="ddipp-settle", daemon=True)
    waiting.start()
    waiting.join(timeout_s)
    if waiting.is_alive():
        return f"the GPU works on what was queued for more than {timeout_s:g} s"
    return failures[0] if failures else ""
