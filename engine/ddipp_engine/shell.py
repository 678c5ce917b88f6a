"""The IPython shell of an engine: what user code may do to it must not cost the reply."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable
from typing import Any

from ipykernel.zmqshell import ZMQInteractiveShell
from IPython.core import page

from .compiler import CellCompiler


def printable(error: Any) -> Any:
    """Return `error`, or one of the same name in its place when its ``str()`` fails."""
    if error is None:
        return None
    try:
        str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as second:
        text = f"<str() of the exception raised {type(second).__name__}>"
        return type(type(error).__name__, (Exception,), {})(text)
    return error


class EngineShell(ZMQInteractiveShell):
    """ipykernel's shell; an exception that can't be printed is reported under its name."""

    _shown = 0  # id() of the exception that was shown last
    _shown_error: tuple[BaseException, list[str]] | None = None  # in this request
    _last_before: BaseException | None = None  # shown before this request
    #: What is known of an exception beside its name and text; goes with the reply.
    describe_failure: Callable[[BaseException], dict[str, Any]] = staticmethod(lambda _: {})

    def begin_request(self) -> None:
        """Forget what earlier requests have shown."""
        self._shown_error = None
        self._last_before = getattr(sys, "last_value", None)

    def shown_error(self) -> tuple[BaseException, list[str]] | None:
        """Return the first error that this request has shown, and its traceback.

        ``%run``, ``%%time`` and others show errors without failing the request.
        """
        return self._shown_error

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Show an error; see IPython."""
        super().showtraceback(exc_tuple, *args, **kwargs)
        value = exc_tuple[1] if exc_tuple is not None else sys.exc_info()[1]
        # %tb shows one of an earlier request.
        if value is not None and value is not self._last_before and self._shown_error is None:
            self._shown_error = value, list(self._last_traceback or [])

    def init_instance_attrs(self) -> None:
        """Compile cells under the place that a client gives them."""
        super().init_instance_attrs()
        self.compile = CellCompiler()  # ipykernel names the class that it wants in its own way

    def init_hooks(self) -> None:
        """Let ``name?`` display its text: clients of engines have no pager."""
        super().init_hooks()
        self.set_hook("show_in_pager", page.as_hook(page.display_page), 50)

    def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
        self._shown = id(evalue)
        if isinstance(evalue, SystemExit):
            stb = [line for line in stb if "%tb" not in line]  # it would show nothing
        saved = sys.stdout, sys.stderr
        try:
            # User code may have set them to None.
            sys.stdout, sys.stderr = saved[0] or io.StringIO(), saved[1] or io.StringIO()
            super()._showtraceback(etype, printable(evalue), stb)
        finally:
            sys.stdout, sys.stderr = saved

    def _format_exception_for_storage(self, exception: Any, *args: Any, **kwargs: Any) -> Any:
        # For the history. It was formatted a moment ago to be shown; again would take 50 ms.
        if id(exception) != self._shown:
            return super()._format_exception_for_storage(exception, *args, **kwargs)
        return {
            "ename": type(exception).__name__,
            "evalue": str(printable(exception)),
            "traceback": self._last_traceback,
        }

    # ipykernel reads their signatures to know what this IPython takes.
    @functools.wraps(ZMQInteractiveShell.run_cell)
    def run_cell(self, *args: Any, **kwargs: Any) -> Any:
        """Run a cell; see IPython."""
        result = super().run_cell(*args, **kwargs)
        result.error_in_exec = printable(result.error_in_exec)
        return result

    @functools.wraps(ZMQInteractiveShell.run_cell_async)
    async def run_cell_async(self, *args: Any, **kwargs: Any) -> Any:
        """Run a cell that awaits; see IPython."""
        result = await super().run_cell_async(*args, **kwargs)
        result.error_in_exec = printable(result.error_in_exec)
        return result


# Libraries know a notebook by the name of its shell's class.
EngineShell.__name__ = ZMQInteractiveShell.__name__
