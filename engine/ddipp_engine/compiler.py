"""Compiles cells under the number and lines that they have in the notebook of the person."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Sequence
from typing import Any

from ipykernel.compiler import XCachingCompiler


class CellCompiler(XCachingCompiler):
    """A client may say where a cell stands: tracebacks name that place.

    What it has sent may be a part of the cell, below a magic.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._place: tuple[int, list[str]] | None = None
        self._above: dict[str, int] = {}  # lines above a piece of code, by its file name

    def place_next(self, number: int, above: Sequence[str]) -> None:
        """Take the number of the cell that is compiled next, and its lines above the code."""
        self._place = number, list(above)

    def forget_place(self) -> None:
        """Count as usual."""
        self._place = None

    def cache(self, transformed_code: str, number: int = 0, raw_code: str | None = None) -> str:
        """Name a piece of code and keep its lines for tracebacks."""
        place, self._place = self._place, None
        if place is None:
            name: str = super().cache(transformed_code, number, raw_code)
            self._above.pop(name, None)
            return name
        number, above = place
        raw = (transformed_code if raw_code is None else raw_code).splitlines()
        # IPython takes empty lines at the beginning away.
        while raw and not raw[0].strip():
            above.append(raw.pop(0))
        name = super().cache(transformed_code, number, raw_code)
        size, changed, lines, full_name = linecache.cache[name]  # type: ignore[misc]
        shown = [f"{line}\n" for line in above] + lines
        linecache.cache[name] = (size, changed, shown, full_name)
        self._above[name] = len(above)
        return name

    def ast_parse(self, source: str, filename: str = "<unknown>", symbol: str = "exec") -> Any:
        """Parse a piece of code."""
        above = self._above.get(filename, 0)
        try:
            tree = super().ast_parse(source, filename=filename, symbol=symbol)
        except SyntaxError as error:
            if error.lineno is not None and error.filename == filename:
                error.lineno += above
            if getattr(error, "end_lineno", None) is not None and error.filename == filename:
                error.end_lineno += above  # type: ignore[operator]
            raise
        return ast.increment_lineno(tree, above) if above else tree
