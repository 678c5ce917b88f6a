"""Virtual environments with other interpreters and other versions of ipyparallel, made once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SMOKE_CLIENT = Path(__file__).resolve().parent / "smoke_client.py"

#: Versions of the client that are tried beside the installed one: packages, and the newest CPython
#: whose functions they can send.
OLD_CLIENTS = {
    "7.1.0": (("ipyparallel==7.1.0", "ipykernel<7", "jupyter-client<8", "pyzmq<26"), (3, 10)),
    "8.8.0": (("ipyparallel==8.8.0", "ipykernel<7"), (3, 13)),
}

#: What the app's own message names, and what its test needs beside it.
FASTAI_V1 = (
    *("fastai==1.0.61", "torch==1.13.1", "torchvision==0.14.1", "numpy<1.24", "pandas<2"),
    *("pillow<10", "matplotlib<3.8", "setuptools<81", "fastprogress<1.0.4"),
    *("ipykernel", "ipyparallel", "cloudpickle", "psutil", "scikit-learn<1.4", "nbclient"),
)


def pythons() -> dict[tuple[int, int], Path]:
    """Return an interpreter for each version found on this machine.

    This process's own comes first, then those of pyenv, then the system's.
    """
    found: dict[tuple[int, int], Path] = {}
    candidates = [*sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3"))]
    for path in [Path(sys.executable), *candidates, Path("/usr/bin/python3")]:
        if not path.exists():
            continue
        probe = "import sys; print(*sys.version_info[:2])"
        major, minor = subprocess.check_output([path, "-c", probe], text=True).split()
        if (int(major), int(minor)) >= (3, 9):
            found.setdefault((int(major), int(minor)), path)
    return found


def cache_folder() -> Path:
    """Return where environments are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ddipp" / "test-envs"


def environment(python: Path | str, name: str, *packages: str) -> Path:
    """Return the interpreter of a virtual environment, which is made once and kept in a cache."""
    folder = cache_folder() / name
    if not (folder / "ready").exists():
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        pip = [folder / "bin" / "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, *packages], check=True)
        (folder / "ready").touch()
    return folder / "bin" / "python"


def overlay(name: str, *packages: str) -> Path:
    """Return a folder for ``PYTHONPATH`` with other versions of packages, without what they need.

    It is made once and kept in a cache.
    """
    folder = cache_folder() / name
    if not (folder / "ready").exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "--upgrade", "--target", folder, *packages], check=True)
        (folder / "ready").touch()
    return folder


def old_client(version: str) -> Path | None:
    """Return the interpreter of an environment with that ipyparallel, or None without a CPython."""
    packages, newest = OLD_CLIENTS[version]
    usable = [found for found in pythons() if found <= newest]
    if not usable:
        return None
    best = max(usable)
    name = f"ipyparallel-{version}-py{best[0]}.{best[1]}"
    return environment(pythons()[best], name, *packages)


def with_our_packages(folder: Path) -> dict[str, str]:
    """Return an environment in which another interpreter finds our Python half, nothing else."""
    import ddipp_engine

    installed = Path(ddipp_engine.__file__).parent.parent
    folder.mkdir(exist_ok=True)
    for name in ("ddipp", "ddipp_engine"):
        (folder / name).symlink_to(installed / name)
    return {**os.environ, "PYTHONPATH": str(folder)}


def fastai_v1(make: bool = True) -> Path | None:
    """Return the interpreter of an environment with fastai 1, or None where there can be none.

    Parameters
    ----------
    make : bool
        Whether to make it should it be missing; it takes some gigabytes.
    """
    usable = [version for version in pythons() if (3, 9) <= version <= (3, 10)]
    if not usable:
        return None
    name = "fastai-v1-py{}.{}".format(*max(usable))
    if not make and not (cache_folder() / name / "ready").exists():
        return None
    return environment(pythons()[max(usable)], name, *FASTAI_V1)


if __name__ == "__main__":
    print({"fastai_v1": fastai_v1}[sys.argv[1]]())
