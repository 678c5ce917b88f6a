"""Reads the dependencies of an extra from pyproject.toml, without building the project."""

from __future__ import annotations

import re
from pathlib import Path


def of(path: str, extra: str) -> list[str]:
    """Return the project's own dependencies and those of `extra`.

    Parameters
    ----------
    path : str
        Of pyproject.toml.
    extra : str
        Name in ``project.optional-dependencies``.
    """
    text = Path(path).read_text()
    found: list[str] = []
    for name in ("dependencies", extra):
        match = re.search(rf"^{name} = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
        if match is None:
            raise KeyError(name)
        found += re.findall(r'"([^"]+)"', match[1])
    return found
