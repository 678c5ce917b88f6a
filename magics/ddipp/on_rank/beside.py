"""Gives variables of a rank away while its main thread is stuck, from a thread beside it.

It needs the GIL, which a rank that waits in a collective or a system call does not hold. The
socket has no file (it is in Linux's abstract namespace) and ends with the process; who connects has
to know the key of the group.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
from typing import Any

from ..shared import values
from .share import join, split

_listening: set[bytes] = set()  # keys


def address(pid: int, key: bytes) -> str:
    """Return where the process of that id listens for who knows that key."""
    return f"\0ddipp-{pid}-{hashlib.sha256(key).hexdigest()[:16]}"


def listen(key: bytes) -> None:
    """Serve pulls from now on; on the rank."""
    from multiprocessing.connection import Listener

    if key in _listening:
        return
    _listening.add(key)
    listener = Listener(address(os.getpid(), key), family="AF_UNIX", authkey=key)
    threading.Thread(target=_serve, args=(listener,), name="ddipp-beside", daemon=True).start()


def _serve(listener: Any) -> None:
    from multiprocessing import AuthenticationError

    while True:
        try:
            with listener.accept() as connection:
                connection.send_bytes(pickle.dumps(_answer(connection.recv())))
        except (OSError, EOFError, AuthenticationError):
            continue  # of a client that has gone, or is none of ours


def _answer(names: list[str]) -> tuple[list[int], bytes, str]:
    """Return the packed variables and the sizes of their parts, or why there are none."""
    from .process import user_namespace

    namespace = user_namespace()
    if missing := [name for name in names if name not in namespace]:
        return [], b"", f"has no variable {', '.join(missing)}"
    try:
        packed = values.pack({name: namespace[name] for name in names}, unwrap=True)
    except values.CannotCopy as problem:
        return [], b"", str(problem)
    return packed.sizes, bytes(join(packed.parts)), ""


def pull(pid: int, key: bytes, names: list[str], timeout_s: float) -> dict[str, Any]:
    """Return variables of a process on this host; not on the rank.

    Raises
    ------
    ConnectionError
        With a few words: when it does not answer in that time, or has no such variable.
    """
    from multiprocessing.connection import Client

    answers: list[tuple[list[int], bytes, str]] = []

    def ask() -> None:
        try:
            with Client(address(pid, key), family="AF_UNIX", authkey=key) as connection:
                connection.send(names)
                answers.append(pickle.loads(connection.recv_bytes()))
        except (OSError, EOFError) as error:
            answers.append(([], b"", f"can't be reached: {error}"))

    # Nobody may ever accept: a process that is stopped.
    asking = threading.Thread(target=ask, name="ddipp-pull", daemon=True)
    asking.start()
    asking.join(timeout_s)
    if not answers:
        raise ConnectionError("does not answer: it is stopped, or holds Python's lock")
    sizes, joined, problem = answers[0]
    if problem:
        raise ConnectionError(problem)
    try:
        return values.unpack(split(bytearray(joined), sizes), own_memory=True)
    except values.CannotCopy as error:
        raise ConnectionError(str(error)) from None
