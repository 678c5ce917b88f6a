"""Hold the same conversation with the stock programs and with ours, and compare it field by field.

    .venv/bin/python compat/conversation.py           # what differs, and whether it is stated
    .venv/bin/python compat/conversation.py --all     # the two conversations side by side

One client of plain sockets asks a controller and an engine everything that a client may ask, right
and wrong, in one order; a relay before the registration port hears what controller and engine say
to each other. What differs by nature (ids, dates, ports, paths, the text of tracebacks) counts by
its kind only. The differences that remain stand in docs/architecture.md with a reason each;
tests/python/test_conversation.py keeps that list true.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import fnmatch
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import zmq
from ipyparallel.serialize import pack_apply_message
from jupyter_client.session import Session

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PROGRAMS = {
    "stock": (
        [sys.executable, "-m", "ipyparallel.controller"],
        [sys.executable, "-m", "ipyparallel.engine"],
    ),
    "ours": ([str(BIN / "dipcontroller")], [str(BIN / "dipengine")]),
}
DOCUMENT = ROOT / "docs" / "architecture.md"
#: Of the table in the document.
HEADING = "### In messages"

Line = tuple[str, str]  # what it is, its value


def wait_for(path: Path) -> dict[str, Any]:
    """Return a connection file when it is whole; stock writes it in place."""
    for _ in range(3000):
        with contextlib.suppress(FileNotFoundError, ValueError):
            return dict(json.loads(path.read_text()))
        time.sleep(0.01)
    raise TimeoutError(f"{path} does not come")


class Relay(threading.Thread):
    """Stands before the registration port and keeps what passes."""

    def __init__(self, controller: str, key: str) -> None:
        super().__init__(daemon=True)
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self._context = zmq.Context()
        self._session = Session(key=key.encode())
        self._front = self._context.socket(zmq.ROUTER)
        self.port = self._front.bind_to_random_port("tcp://127.0.0.1")
        self._controller = controller
        self._backs: dict[bytes, zmq.Socket] = {}
        self._poller = zmq.Poller()
        self._poller.register(self._front, zmq.POLLIN)
        self._over = threading.Event()

    def _back(self, identity: bytes) -> zmq.Socket:
        if identity not in self._backs:
            back = self._context.socket(zmq.DEALER)
            back.setsockopt(zmq.IDENTITY, identity)
            back.connect(self._controller)
            self._poller.register(back, zmq.POLLIN)
            self._backs[identity] = back
        return self._backs[identity]

    def _keep(self, who: str, frames: list[bytes]) -> None:
        _, parts = self._session.feed_identities(frames)
        self.messages.append((who, self._session.deserialize(parts)))

    def run(self) -> None:
        while not self._over.is_set():
            ready = dict(self._poller.poll(50))
            if self._front in ready:
                identity, *frames = self._front.recv_multipart()
                self._keep("registration", frames)
                self._back(identity).send_multipart(frames)
            for identity, back in list(self._backs.items()):
                if back in ready:
                    frames = back.recv_multipart()
                    self._keep("registration", frames)
                    self._front.send_multipart([identity, *frames])

    def stop(self) -> None:
        self._over.set()
        self.join()
        self._context.destroy(linger=0)


class Conversation:
    """A client of plain sockets, and what it has heard.

    Parameters
    ----------
    connection : dict
        Of the client's connection file.
    """

    def __init__(self, connection: dict[str, Any]) -> None:
        self.scenes: list[tuple[str, list[Line]]] = []
        self._lines: list[Line] = []
        self._context = zmq.Context()
        self._session = Session(key=connection["key"].encode(), session="the-client", username="me")
        self._sockets: dict[str, zmq.Socket] = {}
        url = connection["interface"] + ":{}"
        kinds = {"registration": "hub", **{n: n for n in ("mux", "task", "broadcast", "control")}}
        for entry, name in kinds.items():
            socket = self._context.socket(zmq.DEALER)
            socket.setsockopt(zmq.IDENTITY, b"the-client")
            socket.connect(url.format(connection[entry]))
            self._sockets[name] = socket
        for name in ("iopub", "notification"):
            socket = self._context.socket(zmq.SUB)
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            socket.connect(url.format(connection[name]))
            self._sockets[name] = socket
        self._poller = zmq.Poller()
        for socket in self._sockets.values():
            self._poller.register(socket, zmq.POLLIN)
        self.heard: list[tuple[str, dict[str, Any]]] = []

    # --- sending and hearing ------------------------------------------

    def send(
        self,
        channel: str,
        msg_type: str,
        content: dict[str, Any] | None = None,
        *,
        engine: str | None = None,
        metadata: dict[str, Any] | None = None,
        buffers: list[Any] | None = None,
    ) -> str:
        """Send a request and return its id."""
        message = self._session.msg(msg_type, content, metadata=metadata)
        self._session.send(
            self._sockets[channel], message, ident=engine and engine.encode(), buffers=buffers
        )
        return str(message["msg_id"])

    def hear(self, until: Callable[[], bool], timeout_s: float = 60) -> bool:
        """Take messages until the condition holds; False when it does not in time."""
        deadline = time.monotonic() + timeout_s
        while not until():
            ready = dict(self._poller.poll(20))
            for name, socket in self._sockets.items():
                while socket in ready and socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                    topics, parts = self._session.feed_identities(socket.recv_multipart())
                    message = self._session.deserialize(parts)
                    message["topics"] = [topic.decode(errors="replace") for topic in topics]
                    self.heard.append((name, message))
            if time.monotonic() > deadline:
                return False
        return True

    def has(self, msg_type: str, parent: str | None = None) -> bool:
        """Return whether such a message was heard."""
        return any(
            message["msg_type"] == msg_type
            and (parent is None or message["parent_header"].get("msg_id") == parent)
            for _, message in self.heard
        )

    def is_idle(self, parent: str) -> bool:
        """Return whether the engine has said that a request is over."""
        return any(
            message["msg_type"] == "status"
            and message["content"]["execution_state"] == "idle"
            and message["parent_header"].get("msg_id") == parent
            for _, message in self.heard
        )

    def is_answered(self, parent: str) -> bool:
        """Return whether a reply to a request has come."""
        return any(
            name not in ("iopub", "notification") and of_request(message, parent)
            for name, message in self.heard
        )

    # --- scenes ------------------------------------------

    @contextlib.contextmanager
    def scene(self, name: str) -> Iterator[None]:
        """Note what is heard in the block under a name."""
        self.heard.clear()
        yield
        lines = []
        for channel in sorted({channel for channel, _ in self.heard}):
            for message in joined(message for where, message in self.heard if where == channel):
                lines += describe(channel, message)
        self.scenes.append((name, lines))

    def ask(
        self,
        name: str,
        channel: str,
        msg_type: str,
        content: dict[str, Any] | None = None,
        *,
        wait_idle: bool = True,
        timeout_s: float = 60,
        **more: Any,
    ) -> str:
        """Play a scene of one request."""
        with self.scene(name):
            msg_id = self.send(channel, msg_type, content, **more)
            of_engine = channel in ("mux", "control", "task") and wait_idle
            if not self.hear(lambda: self.is_answered(msg_id), timeout_s):
                self.heard.append((channel, {"msg_type": "no reply"}))
            elif of_engine and not self.hear(lambda: self.is_idle(msg_id), 20):
                self.heard.append(("iopub", {"msg_type": "never idle"}))
        return msg_id

    def close(self) -> None:
        """Close the sockets."""
        self._context.destroy(linger=0)


def joined(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages with pieces of one stream as one: where it is cut is a matter of time."""
    result: list[dict[str, Any]] = []
    for message in messages:
        last = result[-1] if result else {"msg_type": ""}
        if message["msg_type"] == last["msg_type"] == "stream":
            one, other = last["content"], message["content"]
            if one["name"] == other["name"]:
                result[-1] = last | {"content": {**one, "text": one["text"] + other["text"]}}
                continue
        result.append(message)
    return result


def of_request(message: dict[str, Any], parent: str) -> bool:
    """Return whether a message answers a request; parts of a broadcast have longer ids."""
    return str(message.get("parent_header", {}).get("msg_id", "")).startswith(parent)


# --- messages as lines ------------------------------------------

KINDS = (
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uuid>"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{24}(?![0-9a-f])", "<uuid>"),
    (r"the-client_\d+_\d+(_<uuid>)?", "<request>"),
    (r"<uuid>(_\d+)+(_<uuid>)?", "<id>"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?", "<date>"),
    (r"/[^\s'\"]*/[^\s'\"]*", "<path>"),
    (r"\d+\.\d+ (ms|s|us|µs)", "<time>"),
    (r'_port": \d+', '_port": <port>'),
)


def kind_of(text: str) -> str:
    """Return a text with ids, dates and paths replaced by what they are."""
    for pattern, kind in KINDS:
        text = re.sub(pattern, kind, text)
    return text


#: Fields that count by their kind only.
BY_KIND = {
    "traceback": lambda value: "<traceback>" if value else "[]",
    "version": lambda value: "<version>",
    "banner": lambda value: "<banner>",
    "implementation_version": lambda value: "<version>",
    "hostname": lambda value: "<host>",
}
NUMBERS = ("pid", "port", "kernel_cpu", "kernel_memory", "cpu_count", "memory")


def flatten(path: str, value: Any) -> Iterator[Line]:
    """Give every leaf of a value with its path."""
    last = path.rsplit(".", 1)[-1]
    if last == "host_cpu_percent":  # there when it is not 0
        return
    if last in BY_KIND:
        yield path, BY_KIND[last](value)
    elif isinstance(value, dict) and value:
        for key in sorted(value, key=str):
            yield from flatten(f"{path}.{kind_of(str(key))}", value[key])
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for item in value:
            yield from flatten(f"{path}[]", item)
    elif isinstance(value, bool) or value is None:
        yield path, repr(value)
    elif isinstance(value, int | float):
        is_number = any(name in path for name in NUMBERS) or path.endswith("connection_info")
        yield path, "<number>" if is_number or ".connection_info." in path else repr(value)
    elif hasattr(value, "isoformat"):
        yield path, "<date>"
    else:
        yield path, kind_of(str(value))


def describe(channel: str, message: dict[str, Any]) -> list[Line]:
    """Return a message as lines: its type, then its fields."""
    msg_type = message["msg_type"]
    if "header" not in message:
        return [(f"{channel}:", msg_type)]
    lines: list[Line] = [(f"{channel}:", msg_type)]
    header = {key: value for key, value in message["header"].items() if key != "msg_type"}
    parent = message["parent_header"]
    lines += flatten(f"{msg_type}.header", header)
    lines.append(
        (f"{msg_type}.parent_header", parent.get("msg_type", "none") if parent else "none")
    )
    if channel in ("iopub", "notification"):
        lines.append((f"{msg_type}.topic", kind_of(" ".join(message.get("topics", [])))))
    for part in ("metadata", "content"):
        lines += flatten(f"{msg_type}.{part}", message[part])
    lines.append((f"{msg_type}.buffers", str(len(message.get("buffers", [])))))
    return lines


# --- the conversation ------------------------------------------


def call(function: Callable[..., Any], *args: Any) -> list[Any]:
    """Return the buffers of an apply_request."""
    return list(pack_apply_message(function, args, {}))


def one_third() -> float:
    return 1 / 3


def nothing_to_divide() -> float:
    return 1 / 0


def doze() -> None:
    import time

    time.sleep(0.5)


for _function in (one_third, nothing_to_divide, doze):
    _function.__module__ = "__main__"  # by value


def speak_with_hub(talk: Conversation) -> str:
    """Ask the hub what is there; returns the engine's uuid."""
    engines: dict[str, str] = {}
    for _ in range(1000):  # until the engine has registered
        msg_id = talk.send("hub", "connection_request")
        talk.hear(lambda sent=msg_id: talk.is_answered(sent))  # type: ignore[misc]
        replies = [message for channel, message in talk.heard if channel == "hub"]
        if engines := replies[-1]["content"]["engines"]:
            break
        time.sleep(0.02)
    engine: str = engines["0"]
    talk.hear(lambda: False, 0.5)
    talk.ask("connection", "hub", "connection_request")
    talk.ask("queue", "hub", "queue_request", {"targets": None, "verbose": False})
    talk.ask("queue in words", "hub", "queue_request", {"targets": [0], "verbose": True})
    talk.ask("queue by uuid", "hub", "queue_request", {"targets": engine, "verbose": False})
    talk.ask("queue of nobody", "hub", "queue_request", {"targets": [99, "x"]})
    talk.ask("load of nobody", "hub", "load_request", {"targets": 99})
    talk.ask("unknown request", "hub", "no_such_request")
    talk.ask("unknown result", "hub", "result_request", {"msg_ids": ["nobody"]})
    talk.ask("unknown key", "hub", "db_request", {"query": {}, "keys": ["nothing"]})
    talk.ask("unknown operator", "hub", "db_request", {"query": {"msg_id": {"$near": 1}}})
    talk.ask("purge of nobody", "hub", "purge_request", {"msg_ids": [], "engine_ids": [99]})
    talk.ask("resubmit nothing", "hub", "resubmit_request", {"msg_ids": ["nobody"]})
    return engine


def speak_with_engine(talk: Conversation, engine: str) -> None:
    """Ask the engine what a client asks."""

    def execute(name: str, code: str, **more: Any) -> None:
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        content |= {"user_expressions": {}, "stop_on_error": True, **more}
        talk.ask(name, "mux", "execute_request", content, engine=engine, metadata={})

    def apply(name: str, function: Callable[..., Any], **more: Any) -> str:
        return talk.ask(
            name, "mux", "apply_request", {}, engine=engine, buffers=call(function), **more
        )

    apply("apply", one_third, metadata={"label": "third"})
    apply("apply that fails", nothing_to_divide)
    execute("print", "print('out')")
    execute("stderr", "import sys; sys.stderr.write('err')")
    execute("expression", "6 * 7", user_expressions={"a": "1 + 1", "b": "nothing"})
    execute("silent", "8", silent=True)
    execute("failing cell", "1 / 0")
    execute("display", "from IPython.display import display, HTML; display(HTML('<b>'))")
    execute("data", "from ipyparallel.datapub import publish_data; publish_data({'a': 1})")
    execute("input", "input()")
    execute("kernel", "print(type(get_ipython().kernel.parent).__name__)")
    execute(
        "application",
        "from ipyparallel.engine.app import IPEngine\n"
        "app = IPEngine.instance()\n"
        "print(app.id, app.kernel is get_ipython().kernel, app is get_ipython().kernel.parent)\n"
        "from ipykernel.kernelapp import IPKernelApp\n"
        "print(app.kernel_app is IPKernelApp.instance(), IPEngine.initialized())",
    )
    execute("path", "import sys; print([len(p) > 0 for p in sys.path[:3]])")
    with talk.scene("bind"):
        cell = {"code": "import ipyparallel; _ = ipyparallel.bind_kernel()", "silent": False}
        bind = talk.send("mux", "execute_request", cell, engine=engine)
        talk.hear(lambda: talk.is_answered(bind) and talk.is_idle(bind))
        talk.hear(lambda: talk.has("stream"), 20)  # stock's may come after the end of the cell
        talk.hear(lambda: False, 0.5)
    execute("connect_info", "%connect_info")


def speak_with_kernel(talk: Conversation, engine: str) -> None:
    """Ask the engine what a front end asks, and what its io thread answers."""
    talk.ask("kernel info", "mux", "kernel_info_request", {}, engine=engine)
    talk.ask("kernel info by control", "control", "kernel_info_request", {}, engine=engine)
    talk.ask(
        "complete", "mux", "complete_request", {"code": "prin", "cursor_pos": 4}, engine=engine
    )
    inspected = {"code": "len", "cursor_pos": 3, "detail_level": 0}
    talk.ask("inspect", "mux", "inspect_request", inspected, engine=engine)
    talk.ask("is complete", "mux", "is_complete_request", {"code": "for x in"}, engine=engine)
    history = {"output": False, "raw": True, "hist_access_type": "tail", "n": 1}
    talk.ask("history", "mux", "history_request", history, engine=engine)
    talk.ask("comms", "mux", "comm_info_request", {}, engine=engine)
    talk.ask("unknown to the engine", "mux", "no_such_request", {}, engine=engine, timeout_s=1)
    asked = {"type": "request", "seq": 1, "command": "debugInfo", "arguments": {}}
    talk.ask("debug", "control", "debug_request", asked, engine=engine)
    talk.ask("usage", "control", "usage_request", {}, engine=engine)
    talk.ask("subshells", "control", "list_subshell_request", {}, engine=engine, timeout_s=1)
    talk.ask("signal", "control", "signal_request", {"sig": 0}, engine=engine, wait_idle=False)
    talk.ask("abort nothing", "control", "abort_request", {"msg_ids": ["nobody"]}, engine=engine)
    talk.ask("clear", "control", "clear_request", {}, engine=engine)


def abort(talk: Conversation, engine: str) -> None:
    """Have queued requests aborted, by a request and by a failure."""
    with talk.scene("abort"):
        send = {"engine": engine, "buffers": call(doze)}
        first = talk.send("mux", "apply_request", {}, **send)
        talk.hear(lambda: talk.has("status", first))
        second = talk.send("mux", "apply_request", {}, **send)
        talk.send("control", "abort_request", {"msg_ids": [second]}, engine=engine)
        talk.hear(lambda: talk.is_answered(first) and talk.is_answered(second))
        talk.hear(lambda: talk.is_idle(first) and talk.is_idle(second), 20)
    with talk.scene("aborted by a failure"):
        cell = {"code": "import time; time.sleep(0.3); 1 / 0", "silent": False}
        first = talk.send("mux", "execute_request", cell, engine=engine)
        second = talk.send("mux", "execute_request", cell, engine=engine)
        talk.hear(lambda: talk.is_answered(first) and talk.is_answered(second))
        talk.hear(lambda: talk.is_idle(first) and talk.is_idle(second), 20)
    time.sleep(0.2)  # stock goes on aborting for a moment


def speak_of_tasks(talk: Conversation, engine: str) -> None:
    """Have load-balanced tasks and broadcasts done."""
    task = {"channel": "task", "msg_type": "apply_request", "content": {}}
    talk.ask("task", **task, buffers=call(one_third), metadata={"label": None})
    talk.ask("task that fails", **task, buffers=call(nothing_to_divide))
    nobody = {"dependencies": ["nobody"], "all": True, "success": True, "failure": False}
    wrong = {"after": nobody}
    talk.ask("task after nobody", **task, buffers=call(one_third), metadata=wrong, wait_idle=False)
    talk.ask(
        "task with nobody",
        **task,
        buffers=call(one_third),
        metadata={"follow": nobody},
        wait_idle=False,
    )
    with talk.scene("task that waits too long"):
        talk.send(**task, buffers=call(doze))
        late = talk.send(
            **task, buffers=call(one_third), metadata={"timeout": 0.1, "targets": [engine]}
        )
        talk.hear(lambda: talk.is_answered(late))
        talk.hear(lambda: False, 0.6)
    for coalescing in (False, True):
        metadata = {"targets": [[engine, 0]], "is_broadcast": True, "is_coalescing": coalescing}
        name = "broadcast, coalescing" if coalescing else "broadcast"
        for what, function in ((name, one_third), (f"{name}, failing", nothing_to_divide)):
            with talk.scene(what):
                msg_id = talk.send(
                    "broadcast", "apply_request", {}, buffers=call(function), metadata=metadata
                )
                talk.hear(lambda sent=msg_id: talk.is_answered(sent))  # type: ignore[misc]
                talk.hear(lambda: sum(m["msg_type"] == "status" for _, m in talk.heard) >= 2, 20)


def speak_of_results(talk: Conversation, engine: str) -> None:
    """Ask the hub for what was done."""
    task = talk.ask("a last task", "task", "apply_request", {}, buffers=call(one_third))
    time.sleep(0.3)
    talk.ask("queue at the end", "hub", "queue_request", {"targets": [0], "verbose": False})
    talk.ask("result", "hub", "result_request", {"msg_ids": [task], "status_only": False})
    talk.ask(
        "status of a result", "hub", "result_request", {"msg_ids": [task], "status_only": True}
    )
    query = {"msg_id": task}
    talk.ask("record", "hub", "db_request", {"query": query})
    talk.ask("parts of a record", "hub", "db_request", {"query": query, "keys": ["result_buffers"]})
    with talk.scene("resubmit"):
        msg_id = talk.send("hub", "resubmit_request", {"msg_ids": [task]})
        talk.hear(lambda: talk.is_answered(msg_id))
        talk.hear(lambda: sum(m["msg_type"] == "status" for _, m in talk.heard) >= 2, 20)
    time.sleep(0.3)
    talk.ask("purge", "hub", "purge_request", {"msg_ids": "all", "engine_ids": []})
    talk.ask("history of nothing", "hub", "history_request")


def say_goodbye(talk: Conversation, engine: str) -> None:
    """Shut the engine and the controller down."""
    with talk.scene("shutdown of the engine"):
        msg_id = talk.send("control", "shutdown_request", {"restart": False}, engine=engine)
        talk.hear(lambda: talk.is_answered(msg_id) and talk.has("unregistration_notification"))
        talk.hear(lambda: False, 0.3)
    with talk.scene("shutdown of the controller"):
        msg_id = talk.send("hub", "shutdown_request")
        talk.hear(lambda: talk.is_answered(msg_id) and talk.has("shutdown_notification"))


def record(who: str, folder: Path) -> list[tuple[str, list[Line]]]:
    """Hold the conversation with the programs of `who`, "stock" or "ours"; returns its scenes."""
    controller_command, engine_command = PROGRAMS[who]
    arguments = [f"--profile-dir={folder}", "--log-level=40"]
    environment = {**os.environ, "IPYTHONDIR": str(folder)}
    environment.pop("PYTEST_CURRENT_TEST", None)  # ipykernel captures less under pytest
    processes = []

    def start(command: list[str], *more: str) -> None:
        with (folder / f"{len(processes)}.log").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    [*command, *arguments, *more],
                    stdout=log,
                    stderr=log,
                    env=environment,
                    cwd=folder,
                )
            )

    try:
        start(controller_command, "--dictdb", "--ping=500")
        security = folder / "security"
        connection = wait_for(security / "ipcontroller-client.json")
        engine_file = wait_for(security / "ipcontroller-engine.json")
        url = f"{engine_file['interface']}:{engine_file['registration']}"
        relay = Relay(url, engine_file["key"])
        relay.start()
        talk = Conversation(connection)
        path = folder / "through-the-relay.json"
        path.write_text(json.dumps({**engine_file, "registration": relay.port}))
        start(engine_command, f"--file={path}")
        engine = speak_with_hub(talk)
        speak_with_engine(talk, engine)
        speak_with_kernel(talk, engine)
        abort(talk, engine)
        speak_of_tasks(talk, engine)
        speak_of_results(talk, engine)
        say_goodbye(talk, engine)
        time.sleep(0.3)
        relay.stop()
        registration = [
            line
            for channel, message in relay.messages
            for line in describe(channel, message)
            if message["msg_type"] in ("registration_request", "registration_reply")
        ]
        files: list[Line] = []
        for kind, content in (("client", connection), ("engine", engine_file)):
            files += flatten(f"{kind} file", {**content, "key": kind_of(content["key"])})
        files = [
            (name, "<number>" if re.fullmatch(r"\d+|\[[\d, ]+\]", value) else value)
            for name, value in files
        ]
        talk.close()
        return [("connection files", files), ("registration", registration), *talk.scenes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)


# --- comparing ------------------------------------------


def messages_of(lines: list[Line]) -> list[list[Line]]:
    """Return the lines of each message of a scene."""
    messages: list[list[Line]] = []
    for line in lines:
        if line[0].endswith(":") or not messages:
            messages.append([])
        messages[-1].append(line)
    return messages


def differences(stock: list[Line], ours: list[Line]) -> Iterator[tuple[str, str, str]]:
    """Give what differs in a scene: (field, stock's value, ours); "-" where there is none."""
    theirs, mine = messages_of(stock), messages_of(ours)
    names = [[message[0] for message in side] for side in (theirs, mine)]
    matcher = difflib.SequenceMatcher(None, *names, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            for one, other in zip(theirs[a:b], mine[c:d], strict=True):
                yield from fields(one, other)
            continue
        for message in theirs[a:b]:
            yield f"{message[0][0]} {message[0][1]}", summary(message), "-"
        for message in mine[c:d]:
            yield f"{message[0][0]} {message[0][1]}", "-", summary(message)


def summary(message: list[Line]) -> str:
    """Return what a message says, in short."""
    said = [value for name, value in message if name.split(".")[1:2] == ["content"]]
    return "sent: " + " ".join(said)[:200]


def fields(stock: list[Line], ours: list[Line]) -> Iterator[tuple[str, str, str]]:
    """Give the fields in which two messages differ."""
    sides: list[dict[str, str]] = []
    for side in (stock, ours):
        values: dict[str, str] = {}
        for name, value in side:
            values[name] = values[name] + ", " + value if name in values else value
        sides.append(values)
    for name in sorted({*sides[0], *sides[1]}):
        one, other = (side.get(name, "-") for side in sides)
        if one != other:
            yield name, one, other


def compare(
    stock: list[tuple[str, list[Line]]], ours: list[tuple[str, list[Line]]]
) -> list[tuple[str, str, str, str]]:
    """Return (scene, field, stock's value, ours) for every difference."""
    mine = dict(ours)
    found = []
    for scene, lines in stock:
        for field, one, other in differences(lines, mine.get(scene, [])):
            found.append((scene, field, one, other))
    return found


def stated() -> dict[str, str]:
    """Return the patterns of fields that may differ, with the reason, from the document."""
    text = DOCUMENT.read_text().split(HEADING, 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", text, re.MULTILINE)
    return {pattern: reason for cell, reason in rows for pattern in re.findall(r"`([^`]+)`", cell)}


def is_stated(difference: tuple[str, str, str, str], pattern: str) -> bool:
    """Return whether a row of the document is about a difference.

    A pattern is one of fields, or of "scene: fields".
    """
    scene, field, _, _ = difference
    escaped = pattern.replace("[", "[[]")
    return fnmatch.fnmatchcase(field, escaped) or fnmatch.fnmatchcase(f"{scene}: {field}", escaped)


def both() -> tuple[list[tuple[str, list[Line]]], list[tuple[str, list[Line]]]]:
    """Hold the conversation with stock and with ours."""
    sides = []
    for who in ("stock", "ours"):
        with tempfile.TemporaryDirectory() as folder:
            sides.append(record(who, Path(folder)))
    return sides[0], sides[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="show the conversations too")
    args = parser.parse_args()
    stock, ours = both()
    if args.all:
        for (scene, one), (_, other) in zip(stock, ours, strict=True):
            print(f"=== {scene}")
            for label, lines in (("stock", one), ("ours", other)):
                for name, value in lines:
                    print(f"  {label:5} {name} {value[:150]}")
    reasons = stated()
    unstated = 0
    for difference in compare(stock, ours):
        known = any(is_stated(difference, pattern) for pattern in reasons)
        unstated += not known
        scene, field, one, other = difference
        print(f"{'stated' if known else 'NEW   '} {scene}: {field}: {one[:90]!r} | {other[:90]!r}")
    return 1 if unstated else 0


if __name__ == "__main__":
    sys.exit(main())
