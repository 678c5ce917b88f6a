"""Parts of a package without what its ``__init__`` imports for others."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any


class _Finder:
    """Finds one module as the others do, and has something done when it has run."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._name:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            self._then(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def after_import(name: str, then: Callable[[ModuleType], None]) -> None:
    """Call `then` with a module that is not imported yet when somebody has imported it."""
    sys.meta_path.insert(0, _Finder(name, then))  # type: ignore[arg-type]


@contextlib.contextmanager
def parts_of(name: str) -> Iterator[None]:
    """Import submodules of a package inside the block without running its ``__init__``.

    That of ipyparallel imports client, launchers and what they need: a quarter of an engine's
    start, of which an engine uses nothing. After the block any other use of the package, also the
    import of another submodule, runs it first.

    Parameters
    ----------
    name : str
        Of the package.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        yield
        return
    package = importlib.util.module_from_spec(spec)
    path, loader = package.__path__, spec.loader

    def load(attribute: str) -> Any:
        del package.__getattr__  # type: ignore[attr-defined]
        package.__path__ = path
        loader.exec_module(package)
        return getattr(package, attribute)

    package.__getattr__ = load  # type: ignore[method-assign]
    sys.modules[name] = package
    yield
    if "__getattr__" in vars(package):
        del package.__path__  # asked for by whoever imports a submodule
