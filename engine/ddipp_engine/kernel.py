"""An IPython kernel that also answers ``apply_request``, with C++ channels."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
import signal
import sys
import types
from collections.abc import Iterator
from typing import Any

import _ddipp_engine as host
from ipykernel import ipkernel
from ipykernel.ipkernel import IPythonKernel
from ipyparallel.engine.datapub import ZMQDataPublisher
from ipyparallel.serialize import serialize_object, unpack_apply_message
from ipyparallel.util import utcnow
from traitlets import Integer, Type

from . import handlers
from .session import IOPUB, Channel, Request
from .shell import EngineShell, printable

#: See protocol/extensions.hpp.
EXTENSIONS_VERSION = 1


@contextlib.contextmanager
def without_debugger() -> Iterator[None]:
    """Keep ipykernel from importing debugpy, which an engine has no channel for.

    The kernel's traits import it as soon as the kernel is created.
    """
    name = "ipykernel.debugger"
    saved = sys.modules.get(name)
    stub = types.ModuleType(name)
    stub._is_debugpy_available = False  # type: ignore[attr-defined]
    stub.Debugger = type("Debugger", (), {})  # type: ignore[attr-defined]
    sys.modules[name] = stub
    try:
        yield
    finally:
        if saved is None:
            del sys.modules[name]
        else:
            sys.modules[name] = saved


def remember_signatures() -> None:
    """Let ipykernel look at the signature of a method once, not for every request.

    It costs a tenth of a millisecond each time. Versions that don't look are left alone.
    """
    original = getattr(ipkernel, "_accepts_parameters", None)
    if original is None:
        return
    known: dict[Any, dict[str, bool]] = {}

    def accepts_parameters(method: Any, names: list[str]) -> dict[str, bool]:
        key = (getattr(method, "__func__", method), tuple(names))
        if key not in known:
            known[key] = original(method, names)
        return dict(known[key])

    ipkernel._accepts_parameters = accepts_parameters


remember_signatures()


def title(code: str) -> str:
    """Return the line that names a cell in reports: its first that says something."""
    lines = (line.strip() for line in code.splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "")
    return first.replace("\0", "")[:60].encode(errors="replace").decode()


class EngineKernel(IPythonKernel):
    """The kernel of one engine.

    ipykernel's request handlers run unchanged; their session and channels are those of
    :mod:`ddipp_engine.session`. Requests come from ``_ddipp_engine`` one at a time.
    """

    engine_id = Integer(-1)
    shell_class = Type(EngineShell)
    # What has no thread of its own here is not promised.
    _supports_kernel_subshells = False
    # ipykernel waits so that output goes before the reply; the io thread keeps that order itself.
    _execute_sleep = 0.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(iopub_socket=IOPUB, **kwargs)
        self.busy = False
        self.streams: dict[str, Any] = {}
        self.shell_handlers["apply_request"] = self.apply_request
        self.control_handlers["clear_request"] = self.clear_request
        self._packed_engine = self.session.pack({"engine": self.session.session})
        self._packed_status = {
            state: self.session.pack({"execution_state": state})
            for state in ("starting", "busy", "idle")
        }
        self._packed_ok = self.session.pack({"status": "ok"})
        self._attach_data_publisher()
        self.shell.display_pub.topic = self._topic("displaypub")

    def _attach_data_publisher(self) -> None:
        publisher = ZMQDataPublisher(parent=self)
        publisher.session = self.session
        publisher.pub_socket = IOPUB
        self.shell.data_pub = publisher
        self.shell.configurables.append(publisher)

    @property
    def int_id(self) -> int:  # type: ignore[override]
        """The engine's id, under ipykernel's name for it."""
        return self.engine_id

    @property
    def kernel_info(self) -> dict[str, Any]:  # type: ignore[override]
        """What a front end may ask of this kernel."""
        with without_debugger():  # asking whether there is debugpy would import it, with warnings
            info: dict[str, Any] = super().kernel_info
        features = info.get("supported_features")
        if features is not None and importlib.util.find_spec("debugpy") is not None:
            features.append("debugger")
        return info

    def _topic(self, topic: str) -> bytes:
        return f"engine.{self.engine_id}.{topic}".encode()

    def _publish_status(self, status: str, channel: str, parent: Any = None) -> None:
        # Twice a request: packed once.
        parent = parent or self.get_parent(channel)
        host.post(
            IOPUB.number,
            [self._topic("status")],
            "status",
            b"",
            self.session.packed_parent(parent),
            self._packed_engine,
            self._packed_status[status],
            [],
        )

    # --- one request at a time ---------------------------------------------------------------

    async def dispatch(self, channel: Channel, identities: list[bytes], request: Request) -> None:
        """Run one request from "busy" to "idle"; every request gets a reply."""
        self._restore_streams()
        host.begin_request(request.raw_header)
        self.set_parent(identities, request, channel=channel.name)
        self._publish_status("busy", channel.name)
        try:
            await self._run_handler(channel, identities, request)
        except KeyboardInterrupt:
            self._set_busy(False)  # it may have come just before
            self._reply_failure(channel, identities, request, KeyboardInterrupt())
        except Exception as error:  # a handler's own failure must not end the engine
            self.log.error("request %s failed", request["msg_type"], exc_info=True)
            self._reply_failure(channel, identities, request, error)
        host.flush()
        host.end_request()
        self._publish_status("idle", channel.name)

    def _restore_streams(self) -> None:
        # A user's own streams stay; without any nothing can be shown.
        for name, stream in self.streams.items():
            if getattr(sys, name) is None:
                setattr(sys, name, stream)

    async def _run_handler(
        self, channel: Channel, identities: list[bytes], request: Request
    ) -> None:
        if request.fault:
            raise ValueError(request.fault)
        handlers = self.control_handlers if channel.name == "control" else self.shell_handlers
        handler = handlers.get(request["msg_type"])
        if handler is None:
            self.log.warning("unknown request %r", request["msg_type"])
            return
        self._set_busy(True)
        try:
            result = handler(channel, identities, request)
            if inspect.isawaitable(result):
                await result
        finally:
            self._set_busy(False)
        if not request.replied:  # ipykernel logs what it can't use, and lets its sender wait
            self._reply_failure(channel, identities, request, ValueError("it can't be used"))

    def _set_busy(self, busy: bool) -> None:
        # SIGINT is raised in Python only between these two; see main.on_sigint.
        if busy:
            self.busy = True
            host.set_running(True)
        else:
            handlers.guard(lambda: self.busy)
            host.set_running(False)
            self.busy = False

    def _reply_failure(
        self, channel: Channel, identities: list[bytes], request: Request, error: BaseException
    ) -> None:
        msg_type: str = request["msg_type"]
        if request.replied or not msg_type.endswith("_request"):
            return
        error = printable(error)
        content = {
            "status": "error",
            "ename": type(error).__name__,
            "evalue": str(error),
            "traceback": [f"{type(error).__name__}: {error}"],
            "engine_info": self.engine_info("apply"),
        }
        self.session.send(
            channel,
            msg_type[: -len("request")] + "reply",
            content,
            parent=request,
            ident=identities,
            metadata=self.finish_metadata(request, self.init_metadata(request), content),
        )

    def _abort_queues(self, subshell_id: str | None = None) -> None:
        host.abort_queued()

    @contextlib.contextmanager
    def _cancel_on_sigint(self, future: asyncio.Future[Any]) -> Iterator[None]:
        # ipykernel's own version schedules the cancellation without waking the loop, which then
        # sleeps on until something else happens.
        loop = asyncio.get_running_loop()

        def cancel(signum: int, frame: Any) -> None:
            loop.call_soon_threadsafe(future.cancel)

        saved = signal.signal(signal.SIGINT, cancel)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, saved)

    # --- metadata that clients and schedulers read ---------------------------------------------

    def engine_info(self, method: str | None = None) -> dict[str, Any]:
        """Return who failed, for the client's exceptions."""
        info: dict[str, Any] = {"engine_uuid": self.ident, "engine_id": self.engine_id}
        if method is not None:
            info["method"] = method
        return info

    def init_metadata(self, parent: dict[str, Any]) -> dict[str, Any]:
        """Return the metadata that a reply starts with."""
        asked = parent.get("metadata")
        if not isinstance(asked, dict):  # it comes from a peer
            asked = {}
        return {
            "started": utcnow(),
            "dependencies_met": True,
            "engine": self.ident,
            "is_broadcast": asked.get("is_broadcast", False),
            "is_coalescing": asked.get("is_coalescing", False),
            "original_msg_id": asked.get("original_msg_id", ""),
            "label": asked.get("label"),
        }

    def finish_metadata(
        self, parent: dict[str, Any], metadata: dict[str, Any], reply_content: dict[str, Any]
    ) -> dict[str, Any]:
        """Add the outcome of the request."""
        metadata["status"] = reply_content["status"]
        if reply_content["status"] == "error":
            if reply_content["ename"] == "UnmetDependency":
                metadata["dependencies_met"] = False
            metadata["engine_info"] = self.engine_info()
        return metadata

    # --- execute, apply, clear -----------------------------------------------------------------

    async def do_execute(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Run a cell; a failure says which engine it was."""
        host.set_title(title(args[0] if args else kwargs["code"]))
        self.shell.begin_request()
        self._place_cell(self.get_parent("shell"))
        content = super().do_execute(*args, **kwargs)
        if inspect.isawaitable(content):
            content = await content
        if content["status"] == "error":
            content["engine_info"] = self.engine_info("execute")
        if (shown := self.shell.shown_error()) is not None:
            content["ddipp"] = self._facts(*shown, failed=content["status"] == "error")
        return content

    def _facts(self, error: BaseException, traceback: list[str], *, failed: bool) -> dict[str, Any]:
        """Return what our clients read beside ipyparallel's fields: docs/protocol.md."""
        try:
            facts = dict(self.shell.describe_failure(error))
        except Exception as second:
            self.log.error("can't describe %r: %r", type(error), second)
            facts = {}
        if not failed:
            facts["shown"] = {
                "ename": type(error).__name__,
                "evalue": str(printable(error)),
                "traceback": traceback,
            }
        return {"version": EXTENSIONS_VERSION, **facts}

    def _place_cell(self, request: dict[str, Any]) -> None:
        terms = request.get("metadata", {}).get("ddipp")
        place = terms.get("cell") if isinstance(terms, dict) else None
        if isinstance(place, dict):
            above = [str(line) for line in place.get("above", [])]
            self.shell.compile.place_next(int(place.get("number", 0)), above)
        else:
            self.shell.compile.forget_place()

    def apply_request(self, stream: Channel, ident: list[bytes], parent: Request) -> None:
        """Call the function that a client sent and send back what it returns."""
        metadata = self.init_metadata(parent)
        content, buffers = self.do_apply(parent["buffers"])
        self.session.send(
            stream,
            "apply_reply",
            self._packed_ok if content["status"] == "ok" else content,
            parent=parent,
            ident=ident,
            buffers=buffers,
            metadata=self.finish_metadata(parent, metadata, content),
        )

    def do_apply(self, buffers: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        """Call the function in `buffers`.

        Returns
        -------
        content : dict
            Of the reply.
        buffers : list
            The serialized result, empty after a failure.
        """
        try:
            function, args, kwargs = unpack_apply_message(buffers, self.shell.user_ns, copy=False)
            result = function(*args, **kwargs)
            result_buffers = serialize_object(
                result,
                buffer_threshold=self.session.buffer_threshold,
                item_threshold=self.session.item_threshold,
            )
        except BaseException as error:
            return self._apply_failure(error), []
        return {"status": "ok"}, result_buffers

    def _apply_failure(self, error: BaseException) -> dict[str, Any]:
        try:
            self.shell.showtraceback()
        except BaseException as second:
            self.log.error("can't format the traceback of %r: %r", type(error), type(second))
        value = str(printable(error))
        traceback = getattr(self.shell, "_last_traceback", None) or []
        self.shell._last_traceback = None
        return {
            "status": "error",
            "ename": type(error).__name__,
            "evalue": value,
            "traceback": traceback,
            "engine_info": self.engine_info("apply"),
        }

    def clear_request(self, stream: Channel, ident: list[bytes], parent: Request) -> None:
        """Empty the user's namespace."""
        self.shell.reset(False)
        self.session.send(stream, "clear_reply", {"status": "ok"}, parent=parent, ident=ident)

    async def serve(self, wake: asyncio.Event) -> None:
        """Take requests until the engine is to end."""
        while not host.stopping():
            raw = host.take()
            if raw is None:
                await wake.wait()
                wake.clear()
                continue
            await self.dispatch(*self.session.read(raw))
