"""The output of a cell as a front end shows it in the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class CellOutput:
    """Applies messages of a kernel, in their order, as notebooks do.

    Attributes
    ----------
    outputs : list of dict
        As in a notebook file.
    """

    def __init__(self, messages: Sequence[dict[str, Any]] = ()) -> None:
        self.outputs: list[dict[str, Any]] = []
        self._clears = False
        for message in messages:
            self.take(message)

    def take(self, message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind == "clear_output":
            if content["wait"]:
                self._clears = True
            else:
                self.outputs = []
        elif kind == "update_display_data":
            for output in self.outputs:
                if output.get("display_id") == content["transient"]["display_id"]:
                    output["data"] = content["data"]
        elif kind in ("stream", "display_data", "execute_result", "error"):
            if self._clears:
                self.outputs, self._clears = [], False
            self._append(kind, content)

    def _append(self, kind: str, content: dict[str, Any]) -> None:
        last = self.outputs[-1] if self.outputs else {}
        if kind == "stream" and last.get("name") == content["name"]:
            last["text"] += content["text"]
            return
        display_id = content.get("transient", {}).get("display_id")
        self.outputs.append({**content, "kind": kind, "display_id": display_id})

    @property
    def text(self) -> str:
        """Everything that is text, a line end after each output."""
        pieces = []
        for output in self.outputs:
            data = output.get("data", {})
            rich = [mime for mime in data if mime != "text/plain"]
            text = output.get("text", "" if rich else data.get("text/plain", ""))
            pieces.append(text if text.endswith("\n") or not text else text + "\n")
        return "".join(pieces)

    def data(self, mime: str) -> list[Any]:
        """What is shown in one format."""
        return [one["data"][mime] for one in self.outputs if mime in one.get("data", {})]
