"""Output of threads and tasks that go on after their cell has ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any


class LateOutput:
    """Listens on for what cells that have ended still show.

    Parameters
    ----------
    client : ipyparallel.Client
        Of the group. It lets go of a request when the cell has ended.
    """

    CELLS = 16  # how many it follows

    def __init__(self, client: Any) -> None:
        self._client = client
        self._followed: deque[str] = deque()

    def follow(
        self, requests: Mapping[int, str], show: Callable[[int, dict[str, Any]], None]
    ) -> None:
        """Pass on what requests show from now on.

        Parameters
        ----------
        requests : mapping of int to str
            The request of each rank, which is answered.
        show : callable
            Takes a rank and a message; called on the client's io thread.
        """

        def listen() -> None:
            for rank, request in requests.items():
                self._listen(rank, request, show)
            while len(self._followed) > self.CELLS * max(1, len(requests)):
                self._client._futures.pop(self._followed.popleft(), None)

        self._client._io_loop.add_callback(listen)

    def _listen(self, rank: int, request: str, show: Callable[[int, dict[str, Any]], None]) -> None:
        client = self._client

        def take(message: dict[str, Any]) -> None:
            client.metadata.pop(request, None)  # it would gather all of it
            show(rank, message)

        if request not in client._futures:
            # The client looks for nothing else in what it finds there.
            client._futures[request] = SimpleNamespace(iopub_callbacks=[take])
            self._followed.append(request)
