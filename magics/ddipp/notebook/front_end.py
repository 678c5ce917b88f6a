"""What shows output to the person: a notebook, a terminal, or a file."""

from __future__ import annotations

import sys
from typing import Any


class FrontEnd:
    """Writes and displays in the cell that runs, in the order in which it is asked to."""

    def __init__(self) -> None:
        self._unflushed = ""

    def write(self, name: str, text: str) -> None:
        """Write to a stream; :meth:`flush` shows it."""
        if self._unflushed not in ("", name):
            self.flush()
        self._unflushed = name
        (sys.stderr if name == "stderr" else sys.stdout).write(text)

    def flush(self) -> None:
        """Show what was written."""
        if self._unflushed:
            (sys.stderr if self._unflushed == "stderr" else sys.stdout).flush()
            self._unflushed = ""

    def publish_text(self, data: dict[str, Any], display_id: str, update: bool) -> None:
        """Show data under a name by which it can be changed, or change it."""
        from IPython.display import publish_display_data

        self.flush()  # what came before, in its order
        publish_display_data(data, transient={"display_id": display_id}, update=update)

    def show(self, content: dict[str, Any], update: bool = False) -> None:
        """Show the content of a ``display_data`` message, or its text where there is only text."""
        from IPython.display import publish_display_data

        data = content["data"]
        if not has_front_end():
            return self.write("stdout", data.get("text/plain", "") + "\n")
        self.flush()
        publish_display_data(
            data=data,
            metadata=content.get("metadata") or {},
            transient=content.get("transient") or {},
            update=update,
        )
        return None

    def clear(self, wait: bool) -> None:
        """Clear the output of the cell, at once or when something new comes."""
        from IPython.display import clear_output

        self.flush()
        clear_output(wait=wait)


class CellOfNotebook:
    """The cell that runs now, for messages that come when another one may run."""

    def __init__(self) -> None:
        running = kernel()
        self._parent = None if running is None else running.get_parent("shell")

    def send(self, kind: str, content: dict[str, Any]) -> None:
        """Send a message to the front end as one of this cell; from any thread."""
        running = kernel()
        if running is not None:
            running.session.send(running.iopub_socket, kind, content, parent=self._parent)
        elif kind == "stream":
            stream = sys.stderr if content["name"] == "stderr" else sys.stdout
            stream.write(content["text"])
            stream.flush()


def set_next_input(text: str, replace: bool) -> None:
    """Put text into the next cell, or in the place of the one that runs."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None:
        shell.set_next_input(text, replace=replace)


def kernel() -> Any:
    """Return the kernel of this process, None in a terminal or a script."""
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None)


def has_front_end() -> bool:
    """Tell whether a notebook shows rich output; a terminal shows text."""
    return kernel() is not None


def can_update() -> bool:
    """Tell whether what is displayed can be changed: in a notebook, unless it is captured."""
    from IPython import get_ipython
    from IPython.core.displaypub import CapturingDisplayPublisher

    if not has_front_end() or not type(sys.stdout).__module__.startswith("ipykernel."):
        return False
    return not isinstance(get_ipython().display_pub, CapturingDisplayPublisher)


def is_terminal() -> bool:
    """Tell whether a person reads lines as they are written."""
    return not has_front_end() and bool(getattr(sys.stdout, "isatty", bool)())
