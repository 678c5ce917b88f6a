"""Where the warm process listens from which the ranks of a group are forked."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .private_folder import private_folder

#: What ranks are forked with. The second one is imported by the first step of an optimizer, which
#: takes as long as the import of torch and is paid by each rank otherwise.
PRELOAD = ("torch", "torch._dynamo")
#: Variables that differ from start to start and do not change what an import does.
_PASSING = ("IPP_", "JPY_", "_")


def nursery_socket(environment: Mapping[str, str]) -> Path:
    """Return the socket of the nursery of this process for engines with some environment.

    What is imported may depend on the environment: another one has another nursery.
    """
    lines = sorted(
        f"{name}={value}" for name, value in environment.items() if not name.startswith(_PASSING)
    )
    text = "\n".join([sys.executable, *lines]).encode(errors="surrogateescape")
    return private_folder() / f"nursery-{os.getpid()}-{hashlib.sha256(text).hexdigest()[:12]}"


def nursery_arguments(environment: Mapping[str, str], preload: Sequence[str]) -> list[str]:
    """Return the options of ``dipengine`` for it.

    Parameters
    ----------
    environment : mapping
        What is set for the engines beside the variables of this process.
    preload : sequence of str
        Modules that ranks need.
    """
    path = nursery_socket({**os.environ, **environment})
    return [f"--nursery={path}", f"--preload={','.join(preload)}"]


@contextlib.contextmanager
def kept_warm(environment: Mapping[str, str]) -> Iterator[None]:
    """Let the nursery outlive its ranks inside the block, for those that are started next."""
    path = nursery_socket({**os.environ, **environment})
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        with contextlib.suppress(OSError):  # there is none
            connection.connect(str(path))
        yield
