"""The notebook, as a group knows it; see :mod:`ddipp.group.announcer`."""

from __future__ import annotations

from collections.abc import Collection

from . import display


class NotebookAnnouncer:
    """Shows lines and output in the notebook, or in the terminal of a script."""

    def say(self, text: str) -> None:
        """Show a line of ours."""
        display.say(text)

    def view(self, see: Collection[int] | None, world_size: int, quiet: bool) -> display.OutputView:
        """Return what shows the output of a cell."""
        return display.OutputView(see, world_size, quiet)

    def is_rich(self) -> bool:
        """Tell whether a notebook shows rich output; a terminal shows text."""
        return display.has_front_end()

    def restarts(self) -> bool:
        """Tell whether this process is a kernel that is to be started again."""
        return display.kernel_restarts()
