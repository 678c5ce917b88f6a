"""Parts of a package without what its ``__init__`` imports for others."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any


@contextlib.contextmanager
def parts_of(name: str, then: Callable[[ModuleType], None]) -> Iterator[None]:
    """Import submodules of a package inside the block without running its ``__init__``.

    That of ipyparallel imports client, launchers and what they need: a quarter of an engine's
    start, of which an engine uses nothing. After the block any other use of the package, also the
    import of another submodule, runs it first.

    Parameters
    ----------
    name : str
        Of the package.
    then : callable
        Called with the package when its ``__init__`` has run.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        yield
        if name in sys.modules:
            then(sys.modules[name])
        return
    package = importlib.util.module_from_spec(spec)
    path, loader = package.__path__, spec.loader

    def load(attribute: str) -> Any:
        del package.__getattr__  # type: ignore[attr-defined]
        package.__path__ = path
        loader.exec_module(package)
        then(package)
        return getattr(package, attribute)

    package.__getattr__ = load  # type: ignore[method-assign]
    sys.modules[name] = package
    yield
    if "__getattr__" in vars(package):
        del package.__path__  # asked for by whoever imports a submodule
