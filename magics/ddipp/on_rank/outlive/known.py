"""Objects that are known from their creation, without keeping them alive."""

from __future__ import annotations

import gc
import weakref
from typing import Any


class Known:
    """Objects of a class and its subclasses, those that there are and those made from now on.

    Copies and unpickled objects are made by ``__new__`` too.
    """

    def __init__(self) -> None:
        self._references: list[weakref.ref[Any]] = []

    def watch(self, kind: type | None) -> None:
        """Begin, unless the class is not loaded or is known."""
        if kind is None or "_ddipp_known" in vars(kind):
            return
        kinds = {kind, *_subclasses(kind)}
        self._references.extend(
            weakref.ref(thing) for thing in gc.get_objects() if type(thing) in kinds
        )
        own = vars(kind).get("__new__")

        def make(cls: Any, *args: Any, **kwargs: Any) -> Any:
            create = super(kind, cls).__new__ if own is None else own.__func__  # type: ignore[arg-type]
            made = create(cls) if create is object.__new__ else create(cls, *args, **kwargs)
            self.add(made)
            return made

        kind.__new__ = staticmethod(make)  # type: ignore[method-assign,assignment]
        kind._ddipp_known = True  # type: ignore[attr-defined]

    def add(self, thing: Any) -> None:
        """Know an object."""
        self._references.append(weakref.ref(thing))

    def objects(self) -> list[Any]:
        """Return those that are alive, each once."""
        living = {id(thing): thing for one in self._references if (thing := one()) is not None}
        self._references[:] = [weakref.ref(thing) for thing in living.values()]
        return list(living.values())


def _subclasses(kind: type) -> set[type]:
    found: set[type] = set(kind.__subclasses__())
    return found.union(*map(_subclasses, found))
