"""Jupyter's debug protocol: ipykernel's debugger on a thread of its own.

The main thread is what stops at breakpoints, so requests about it come to this thread, which sleeps
until the first one. debugpy and ipykernel's debugger are imported then.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import select
import threading
from typing import Any

import _ddipp_engine as host

from .session import CONTROL, Request

#: ipykernel's name for the thread of control requests; its parent header is that of debug events.
THREAD_NAME = "Control"


def serve_debugger(kernel: Any) -> None:
    """Start the thread that answers debug requests."""
    thread = threading.Thread(target=_run, args=(kernel,), name=THREAD_NAME, daemon=True)
    # pydevd stops neither this thread nor for it.
    thread.pydev_do_not_trace = True  # type: ignore[attr-defined]
    thread.is_pydev_daemon_thread = True  # type: ignore[attr-defined]
    thread.start()


def _run(kernel: Any) -> None:
    select.select([host.debug_fd()], [], [])
    try:
        asyncio.run(_serve(kernel))
    except Exception:
        kernel.log.error("the debugger failed", exc_info=True)


async def _serve(kernel: Any) -> None:
    wake = asyncio.Event()
    asyncio.get_running_loop().add_reader(host.debug_fd(), wake.set)
    debugger = _Debugger(kernel)
    while True:
        raw = host.take_debug()
        if raw is None:
            wake.clear()
            await wake.wait()
            continue
        _, identities, request = kernel.session.read(raw)
        await debugger.answer(identities, request)


class _Listening:
    """Stands where ipykernel's debugger expects a session and a socket to the shell.

    It has the shell run one cell: that debugpy is to listen. Here that is done at once, whatever
    the shell does.
    """

    def __init__(self) -> None:
        self._status = "error"

    def send(self, socket: Any, msg_type: str, content: dict[str, Any], *_: Any) -> None:
        """Run the code of an execute_request."""
        exec(content["code"], {})
        self._status = "ok"

    def recv(self, socket: Any, mode: int = 0) -> tuple[list[bytes], dict[str, Any]]:
        """Return the reply."""
        return [], {"content": {"status": self._status}}

    def getsockopt(self, option: int) -> bytes:
        """Return no identity."""
        return b""


class _Debugger:
    """ipykernel's debugger, made at the first request."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._debugger: Any = None
        self._missing = ""

    async def answer(self, identities: list[bytes], request: Request) -> None:
        """Answer one request, from "busy" to "idle"."""
        kernel = self._kernel
        kernel.set_parent(identities, request, channel="control")
        kernel._publish_status("busy", "control", request)
        try:
            content = await self._process(request["content"])
        except Exception as error:
            kernel.log.error("a debug request failed", exc_info=True)
            content = _failure(request["content"], f"{type(error).__name__}: {error}")
        kernel.session.send(CONTROL, "debug_reply", content, parent=request, ident=identities)
        kernel._publish_status("idle", "control", request)

    async def _process(self, message: dict[str, Any]) -> dict[str, Any]:
        if self._debugger is None and not self._missing:
            try:
                self._debugger = self._make()
            except ImportError as error:
                self._missing = f"the debugger needs debugpy and ipykernel's debugger: {error}"
        if self._debugger is None:
            return _failure(message, self._missing)
        from ipykernel.jsonutil import json_clean

        return dict(json_clean(await self._debugger.process_request(message)))

    def _make(self) -> Any:
        # It would warn of frozen modules in the output of a cell.
        name = "PYDEVD_DISABLE_FILE_VALIDATION"
        saved = os.environ.get(name)
        os.environ[name] = "1"
        try:
            import debugpy  # noqa: F401
            import zmq
            from ipykernel.debugger import Debugger
            from zmq.eventloop.zmqstream import ZMQStream
        finally:
            if saved is None:
                del os.environ[name]
        socket = zmq.Context.instance().socket(zmq.STREAM)
        socket.linger = 1000
        stream = ZMQStream(socket)
        listening = _Listening()
        kernel = self._kernel
        offered = {
            "log": kernel.log,
            "debugpy_stream": stream,
            "event_callback": kernel._publish_debug_event,
            "shell_socket": listening,
            "session": listening,
            "kernel_modules": getattr(kernel, "_kernel_modules", []),
            "just_my_code": getattr(kernel, "debug_just_my_code", True),
            "filter_internal_frames": getattr(kernel, "filter_internal_frames", True),
        }
        wanted = inspect.signature(Debugger).parameters
        debugger = Debugger(**{name: offered[name] for name in wanted if name in offered})

        def on_frame(frames: list[bytes]) -> None:
            debugger.tcp_client.receive_dap_frame(frames[1].decode())

        stream.on_recv(on_frame)
        self._stopped = asyncio.ensure_future(self._poll_stopped(debugger))
        return debugger

    async def _poll_stopped(self, debugger: Any) -> None:
        while True:
            try:
                await debugger.handle_stopped_event()
            except Exception:
                host.log(logging.ERROR, "an event of the debugger was lost")


def _failure(message: dict[str, Any], why: str) -> dict[str, Any]:
    return {
        "type": "response",
        "request_seq": message.get("seq", 0),
        "command": message.get("command", ""),
        "success": False,
        "message": why,
    }
