"""Reads dependencies from pyproject.toml, without building the project."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def of(path: str, *extras: str) -> list[str]:
    """Return the project's own dependencies and those of extras, in order and once each.

    Parameters
    ----------
    path : str
        Of pyproject.toml.
    *extras : str
        Names in ``project.optional-dependencies``; ``ddipp[a,b]`` in one stands for those extras.
        ``requires`` is what a build needs.
    """
    text = Path(path).read_text()
    found: list[str] = []
    for name in ("dependencies", *extras):
        match = re.search(rf"^{name} = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
        if match is None:
            raise KeyError(name)
        for requirement in re.findall(r'"([^"]+)"', match[1]):
            own = re.fullmatch(r"ddipp\[(.*)\]", requirement)
            found += of(path, *own[1].split(",")) if own else [requirement]
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    print(*of("pyproject.toml", *sys.argv[1:]), sep="\n")
