"""Shows in the notebook what the ranks print and display."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection
from typing import Any

from .folding import Folder, ranks_label


class OutputView:
    """Shows messages of some ranks as a local cell would show its own.

    Parameters
    ----------
    ranks : collection of int, optional
        Whose output is shown; all when not given.
    world_size : int
        With more than one rank shown, each block of text is labelled, and lines that ranks write
        alike are shown once.
    quiet : bool
        Show nothing but errors.
    """

    def __init__(self, ranks: Collection[int] | None, world_size: int, quiet: bool = False) -> None:
        self._ranks = set(range(world_size)) if ranks is None else set(ranks)
        self._folder = Folder(self._ranks) if len(self._ranks) > 1 else None
        self._rich_outputs: dict[str, dict[str, Any]] = {}  # by what is equal for equal ones
        self._quiet = quiet
        self._last_label: tuple[int, ...] = ()
        self._at_line_start = True

    def show(self, rank: int, message: dict[str, Any]) -> None:
        """Show one iopub message."""
        if self._quiet or rank not in self._ranks:
            return
        kind = message["header"]["msg_type"]
        content = message["content"]
        if kind == "stream" and self._folder is not None:
            self._folder.add(rank, content["name"], content["text"], time.monotonic())
            self.tick()
        elif kind == "stream":
            self._text(content["name"], content["text"])
        elif kind in ("display_data", "execute_result", "update_display_data"):
            plain = None if has_front_end() else content["data"].get("text/plain")
            if plain is not None and self._folder is not None:
                self._folder.add(rank, "stdout", plain + "\n", time.monotonic())
                return self.tick()
            update = kind == "update_display_data"
            if self._folder is None or update or _is_alive(content):
                self.tick(everything=True)
                self._label((rank,))
                return self._rich(content, update)
            key = json.dumps([content["data"], content.get("metadata")], sort_keys=True)
            self._rich_outputs[key] = content
            self._folder.add_rich(rank, key, time.monotonic())
            self.tick()

    def tick(self, *, everything: bool = False) -> None:
        """Show what has waited long enough for its like from other ranks, or everything."""
        if self._folder is None:
            return
        for line in self._folder.take(time.monotonic(), everything=everything):
            self._label(line.ranks)
            if line.stream == "rich":
                self._rich(self._rich_outputs[line.text], update=False)
            else:
                self._text(line.stream, line.text)

    def _label(self, ranks: tuple[int, ...]) -> None:
        if self._folder is None or self._last_label == ranks:
            return
        if not self._at_line_start:
            self._text("stdout", "\n")
        self._text("stdout", f"[{ranks_label(ranks)}]\n")
        self._last_label = ranks

    def _text(self, name: str, text: str) -> None:
        stream = sys.stderr if name == "stderr" else sys.stdout
        stream.write(text)
        stream.flush()
        self._at_line_start = text.endswith(("\n", "\r"))

    def _rich(self, content: dict[str, Any], update: bool) -> None:
        from IPython.core.interactiveshell import InteractiveShell
        from IPython.display import publish_display_data

        data = content["data"]
        if not InteractiveShell.initialized() or not has_front_end():
            self._text("stdout", data.get("text/plain", "") + "\n")
            return
        publish_display_data(
            data=data,
            metadata=content.get("metadata") or {},
            transient=content.get("transient") or {},
            update=update,
        )


def _is_alive(content: dict[str, Any]) -> bool:
    """Tell whether an output will change: it is not to be shown once for several ranks."""
    by_name = (content.get("transient") or {}).get("display_id")
    return bool(by_name) or "application/vnd.jupyter.widget-view+json" in content["data"]


def _kernel() -> Any:
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None)


def has_front_end() -> bool:
    """Tell whether a notebook shows rich output; a terminal shows text."""
    return _kernel() is not None


def kernel_restarts() -> bool:
    """Tell whether this process is a kernel that ends because it is to be started again."""
    farewell = getattr(_kernel(), "_shutdown_message", None)
    return farewell is not None and bool(farewell["content"].get("restart"))


def say(text: str) -> None:
    """Show a line of ours in the notebook."""
    print(f"ddipp: {text}", file=sys.stderr)
