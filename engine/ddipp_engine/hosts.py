"""What an engine can be hosted by, and one line that says so where it can't."""

from __future__ import annotations

import sys

#: The oldest version of each package with which an engine works.
OLDEST = {
    "ipyparallel": (7, 1),
    "ipykernel": (6, 9),
    "jupyter_client": (7, 0),
    "IPython": (7, 34),
}


def complaint(failure: BaseException | None = None) -> str | None:
    """Return what this environment lacks to host an engine, in one line.

    Parameters
    ----------
    failure : BaseException, optional
        Of the imports. Without one only the versions are looked at.

    Returns
    -------
    str or None
        None when nothing is known to be wrong.
    """
    for name, oldest in OLDEST.items():
        version = imported(name) or (installed(name) if failure else None)
        if version is None:
            if isinstance(failure, ModuleNotFoundError):
                return f"{sys.executable} has no module {name!r}; {remedy(name)}"
            continue
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers < oldest:
            wanted = ".".join(map(str, oldest))
            return (
                f"{name} {version} of {sys.executable} is too old: an engine needs {wanted} "
                f"or later; {remedy(f'{name}>={wanted}')}"
            )
    if isinstance(failure, ModuleNotFoundError):
        return f"{sys.executable} has no module {failure.name!r}; {remedy(str(failure.name))}"
    if isinstance(failure, ImportError):
        return f"{sys.executable} can't host an engine: {failure}"
    return None


def imported(name: str) -> str | None:
    """Return the version of a package that says it and is imported; costs nothing."""
    module = sys.modules.get(name)
    version = None if module is None else vars(module).get("__version__")
    return version if isinstance(version, str) else None


def installed(name: str) -> str | None:
    """Return the version of a package that is installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    try:
        return version_of(name)
    except PackageNotFoundError:
        return None


def remedy(package: str) -> str:
    """Return the command that installs a package into the hosting environment."""
    return f"install it with: {sys.executable} -m pip install '{package}'"
