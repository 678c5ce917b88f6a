"""Shows in the notebook what the ranks print and display."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Iterable
from typing import Any

from .front_end import (
    CellOfNotebook,
    FrontEnd,
    can_update,
    has_front_end,
    is_terminal,
    kernel,
    set_next_input,
)
from .renderers import InPlace, LineByLine
from .transcript import Transcript


class OutputView:
    """Shows messages of some ranks as a local cell would show its own.

    What comes within a tick is shown together, in the order of the ranks.

    Parameters
    ----------
    ranks : collection of int, optional
        Whose output is shown; all when not given.
    world_size : int
        With more than one rank shown, each block of text is labelled, and what ranks show alike is
        shown once.
    quiet : bool
        Show nothing but errors.
    """

    TICK_S = 0.006
    PAUSE_S = 0.04  # between ticks when much comes
    _ERROR_WAITS_S = 0.5
    _LAST_S = 0.1

    def __init__(self, ranks: Collection[int] | None, world_size: int, quiet: bool = False) -> None:
        self._ranks = set(range(world_size)) if ranks is None else set(ranks)
        self._quiet = quiet
        self._front = FrontEnd()
        self._several: _Several | None = None
        if len(self._ranks) > 1:
            self._several = _Several(self._ranks, self._front)
        self._came: dict[int, list[dict[str, Any]]] = {}
        self._due: float | None = None
        self._last_tick = 0.0
        self._clears: set[int] = set()  # ranks that clear with their next output
        self._errors: list[tuple[float, int, dict[str, Any]]] = []  # not shown yet
        self._cell = CellOfNotebook()
        self._payloads: list[dict[str, Any]] = []

    def show(self, rank: int, message: dict[str, Any]) -> None:
        """Take one iopub message; it is shown with the next :meth:`tick` that is due."""
        kind = message["header"]["msg_type"]
        if rank not in self._ranks or kind not in _KINDS:
            return
        if self._quiet and kind != "error":
            return
        now = time.monotonic()
        self._came.setdefault(rank, []).append(message)
        if self._due is None:
            wait = 0.0 if self._several is None else self.TICK_S
            self._due = max(now + wait, self._last_tick + wait * self.PAUSE_S / self.TICK_S)
        if now >= self._due:
            self.tick()

    def due_in(self) -> float | None:
        """Return the seconds until :meth:`tick` has something to do, None for nothing known."""
        return None if self._due is None else max(0.0, self._due - time.monotonic())

    def tick(self, *, everything: bool = False) -> None:
        """Show what is due, or everything."""
        now = time.monotonic()
        if not everything and self._due is not None and now < self._due:
            return
        came, self._came, self._due = self._came, {}, None
        if came:
            self._last_tick = now
        for rank in sorted(came):
            for message in came[rank]:
                self._take(rank, message, now)
        while self._errors and now - self._errors[0][0] >= self._ERROR_WAITS_S:
            self._show_error(*self._errors.pop(0)[1:])
        if self._several is not None:
            self._several.render(now, everything=everything)
        self._front.flush()

    def end(self, errors: Iterable[Exception] = ()) -> None:
        """Show what is left; the cell has ended.

        Parameters
        ----------
        errors : iterable of Exception
            What is going to be raised, and is not to be shown twice.
        """
        known = {(getattr(one, "ename", ""), getattr(one, "evalue", "")) for one in errors}
        self.tick(everything=True)
        for _, rank, content in self._errors:
            if (content.get("ename"), content.get("evalue")) not in known:
                self._show_error(rank, content)
        self._errors = []
        self.tick(everything=True)

    def show_late(self, rank: int, message: dict[str, Any]) -> None:
        """Show a message that came after the end of the cell, in its place; from any thread."""
        kind, content = message["header"]["msg_type"], message["content"]
        if self._quiet or rank not in self._ranks or kind not in _KINDS - {"error"}:
            return
        if kind == "stream" and self._several is not None:
            content = {**content, "text": f"[rank {rank}]\n{content['text']}"}
        self._cell.send(kind, content)

    def take_payload(self, rank: int, payload: dict[str, Any]) -> None:
        """Do what the reply of a rank asks the front end for, once for all ranks."""
        if rank not in self._ranks or payload in self._payloads:
            return
        self._payloads.append(payload)
        if payload.get("source") == "set_next_input":
            set_next_input(payload["text"], replace=bool(payload.get("replace")))
        elif payload.get("source") == "page":
            self._front.show({"data": payload["data"]})

    # --- one message -------------------------------------------------------------------------

    def _take(self, rank: int, message: dict[str, Any], now: float) -> None:
        kind, content = message["header"]["msg_type"], message["content"]
        for error in [error for error in self._errors if error[1] == rank]:
            # What ends a cell is among its last messages, and is shown when it has ended.
            if now - error[0] >= self._LAST_S:
                self._errors.remove(error)
                self._show_error(rank, error[2])
        if kind == "error":
            return self._errors.append((now, rank, content))
        if kind == "clear_output":
            if content.get("wait"):
                return self._clears.add(rank)
            return self._clear(rank, wait=False)
        if rank in self._clears:
            self._clear(rank, wait=True)
        if self._several is not None:
            self._several.take(rank, kind, content, now)
        elif kind == "stream":
            self._front.write(content["name"], content["text"])
        else:
            self._front.show(content, update=kind == "update_display_data")

    def _clear(self, rank: int, wait: bool) -> None:
        self._clears.discard(rank)
        if self._several is not None:
            self._several.clear(rank, wait)
        else:
            self._front.clear(wait)

    def _show_error(self, rank: int, content: dict[str, Any]) -> None:
        text = "\n".join(content.get("traceback") or [f"{content['ename']}: {content['evalue']}"])
        shown = {"name": "stderr", "text": text + "\n"}
        if self._several is not None:
            self._several.take(rank, "stream", shown, time.monotonic())
        else:
            self._front.write(**shown)


class _Several:
    """The output of several ranks."""

    def __init__(self, ranks: Collection[int], front: FrontEnd) -> None:
        self._front = front
        self._contents: dict[int, dict[str, Any]] = {}  # what is rich, by its place
        self._unlike = 0
        self._renderer: InPlace | LineByLine
        if can_update():
            self._renderer = InPlace(front.publish_text, self._show_rich, front.clear)
            self._transcript = Transcript(ranks, InPlace.FOLD_S)
        else:
            self._renderer = LineByLine(front.write, self._show_rich, live=is_terminal())
            self._transcript = Transcript(ranks, LineByLine.PATIENCE_S)

    def take(self, rank: int, kind: str, content: dict[str, Any], now: float) -> None:
        if kind == "stream":
            return self._transcript.add(rank, content["name"], content["text"], now)
        data = content["data"]
        plain = data.get("text/plain", "")
        lives = _is_alive(content)
        if not has_front_end() or (list(data) == ["text/plain"] and not lives):
            return self._transcript.add(rank, "stdout", plain + "\n", now)
        if kind == "update_display_data":
            return self._front.show(content, update=True)
        key = json.dumps([data, content.get("metadata")], sort_keys=True)
        if lives:
            self._unlike += 1
            key = f"{self._unlike} {key}"
        self._contents.setdefault(self._transcript.add_rich(rank, key, now), content)
        return None

    def clear(self, rank: int, wait: bool) -> None:
        self._transcript.clear(rank)
        if isinstance(self._renderer, InPlace):
            self._renderer.clear(wait or self._transcript.is_shown())

    def render(self, now: float, *, everything: bool) -> None:
        self._renderer.render(self._transcript, now, everything=everything)

    def _show_rich(self, place: int) -> None:
        self._front.show(self._contents[place])


_KINDS = frozenset(
    {"stream", "display_data", "execute_result", "update_display_data", "clear_output", "error"}
)


def _is_alive(content: dict[str, Any]) -> bool:
    """Tell whether an output will change: it is not to be shown once for several ranks."""
    by_name = (content.get("transient") or {}).get("display_id")
    return bool(by_name) or "application/vnd.jupyter.widget-view+json" in content["data"]


def kernel_restarts() -> bool:
    """Tell whether this process is a kernel that ends because it is to be started again."""
    farewell = getattr(kernel(), "_shutdown_message", None)
    return farewell is not None and bool(farewell["content"].get("restart"))


def say(text: str) -> None:
    """Show a line of ours in the notebook."""
    print(f"ddipp: {text}", file=sys.stderr)
