"""A folder for sockets that nobody else on the machine can enter."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from ..errors import DdippError

#: What a name may add to the folder: a socket's path has 107 bytes at most.
_LONGEST_NAME = 48
_LONGEST_PATH = 107


def private_folder() -> Path:
    """Return the folder, which is there.

    It is ``$XDG_RUNTIME_DIR/ddipp`` where that is short enough and writable, else one for this user
    in the folder of temporary files.

    Raises
    ------
    DdippError
        When what has its name is not a folder of this user, closed to others.
    """
    user = os.getuid()
    candidates = [Path(tempfile.gettempdir(), f"ddipp-{user}"), Path("/tmp", f"ddipp-{user}")]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK):
        candidates.insert(0, Path(runtime, "ddipp"))
    for folder in candidates:
        if len(str(folder)) + 1 + _LONGEST_NAME <= _LONGEST_PATH:
            return _make(folder)
    raise DdippError(f"no folder for sockets is short enough: {', '.join(map(str, candidates))}")


def _make(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = os.lstat(folder)
    except OSError as error:
        raise DdippError(f"can't make the folder {folder}: {error.strerror}") from None
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise DdippError(
            f"{folder} belongs to somebody else; set XDG_RUNTIME_DIR to a folder of yours"
        )
    if stat.S_IMODE(facts.st_mode) & 0o077:
        raise DdippError(f"others can enter {folder}; close it with: chmod 700 {folder}")
    return folder
