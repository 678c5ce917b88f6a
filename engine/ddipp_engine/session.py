"""A Jupyter session whose messages leave through the C++ io thread."""

from __future__ import annotations

import json
from typing import Any

import _ddipp_engine as host
from jupyter_client.jsonutil import json_default
from jupyter_client.session import Session, extract_header


class Channel:
    """Stands where ipykernel expects a socket or stream.

    Parameters
    ----------
    number : int
        0 shell, 1 control, 2 iopub, as the io thread counts them.
    name : str
        The channel's name in Jupyter's terms.
    """

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name

    def __repr__(self) -> str:
        return f"<Channel {self.name}>"

    def flush(self, *_: Any) -> None:
        """Do nothing: the io thread sends at once."""


SHELL = Channel(0, "shell")
CONTROL = Channel(1, "control")
IOPUB = Channel(2, "iopub")
CHANNELS = {channel.number: channel for channel in (SHELL, CONTROL, IOPUB)}


class Request(dict):
    """A request as ipykernel's handlers take it, with what the reply needs beside it."""

    raw_header: bytes = b"{}"
    replied: bool = False
    fault: str = ""  # why it can't be run


class EngineSession(Session):
    """Packs messages in Python; signing and sending are the io thread's.

    Every message carries the engine's uuid in its metadata, as clients expect.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        pack = self.pack
        # json.dumps with options makes an encoder for each call, which costs more than its work.
        encode = json.JSONEncoder(default=json_default, ensure_ascii=False, allow_nan=False).encode
        is_json = self.packer == "json"

        def pack_anything(obj: Any) -> bytes:
            if is_json:
                try:
                    return encode(obj).encode()
                except (TypeError, ValueError):  # jupyter knows more ways
                    pass
            try:
                packed: bytes = pack(obj)
            except UnicodeEncodeError:  # half of a surrogate pair, from user code
                text = json.dumps(obj, default=json_default, ensure_ascii=False, allow_nan=False)
                packed = text.encode("utf-8", "replace")
            return packed

        self.pack = pack_anything

    def packed_parent(self, parent: Any) -> bytes:
        """Return the packed header of `parent`, a request, a header, or None."""
        if isinstance(parent, Request):
            return parent.raw_header
        return self.pack(extract_header(parent) if parent else {})

    def send(  # type: ignore[override]
        self,
        stream: Any,
        msg_or_type: dict[str, Any] | str,
        content: Any = None,
        parent: Any = None,
        ident: Any = None,
        buffers: Any = None,
        track: bool = False,
        header: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Queue a message; see :meth:`jupyter_client.session.Session.send`."""
        if isinstance(msg_or_type, dict):
            message = msg_or_type
            msg_type = message["header"]["msg_type"]
            packed_header = self.pack(message["header"])
            packed_parent = self.pack(message["parent_header"])
            content = message["content"]
            metadata = message.get("metadata")
            buffers = buffers or message.get("buffers")
        else:
            msg_type = msg_or_type
            packed_header = self.pack(self.msg_header(msg_type) | header) if header else b""
            packed_parent = self.packed_parent(parent)
        metadata = dict(metadata or {})
        metadata.setdefault("engine", self.session)
        packed_content = content if isinstance(content, bytes) else self.pack(content or {})
        if ident is None:
            ident = []
        elif isinstance(ident, bytes):
            ident = [ident]
        host.post(
            stream.number,
            ident,
            msg_type,
            packed_header,
            packed_parent,
            self.pack(metadata),
            packed_content,
            buffers or [],
        )
        if isinstance(parent, Request) and stream is not IOPUB:
            parent.replied = True
        return {"msg_type": msg_type, "content": content, "metadata": metadata}

    def read(
        self, raw: tuple[int, list[bytes], bytes, bytes, bytes, bytes, list[memoryview]]
    ) -> tuple[Channel, list[bytes], Request]:
        """Unpack what ``_ddipp_engine.take()`` returned."""
        number, identities, header, parent, metadata, content, buffers = raw
        request = Request(header=self.unpack(header), buffers=buffers)  # the io thread has read it
        for name, packed in ("parent_header", parent), ("metadata", metadata), ("content", content):
            try:
                request[name] = {} if packed == b"{}" else self.unpack(packed)
            except (ValueError, RecursionError, MemoryError) as error:
                request[name] = {}
                request.fault = f"the {name} can't be read: {type(error).__name__}: {error}"
            if not isinstance(request[name], dict):
                request.fault = f"the {name} is not a map but a {type(request[name]).__name__}"
                request[name] = {}
        request["msg_id"] = request["header"]["msg_id"]
        request["msg_type"] = request["header"]["msg_type"]
        request.raw_header = header
        return CHANNELS[number], identities, request
