"""Record the bytes that stock ipyparallel puts on the wire, for the protocol tests.

Runs a stock controller, a stock engine and a stock client on loopback, taps every frame that the
client sends and receives, and writes tests/data/recorded_messages.json: the connection file and for
each message its channel and frames in hexadecimal. Run it again when ipyparallel changes:

    .venv/bin/python compat/record_messages.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ipyparallel
import jupyter_client
from jupyter_client.session import Session

OUTPUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "recorded_messages.json"
LARGEST_FRAME = 4096


class Tap:
    """Collects frames below the session, as they go to and come from the sockets."""

    def __init__(self) -> None:
        self.messages: list[dict[str, object]] = []
        self.channels: dict[int, str] = {}

    def add(self, direction: str, channel: str, frames: list[bytes]) -> None:
        # Tracebacks of the programs themselves name the folders of this machine.
        if any(len(frame) > LARGEST_FRAME or b"site-packages" in frame for frame in frames):
            return
        self.messages.append(
            {"direction": direction, "channel": channel, "frames": [f.hex() for f in frames]}
        )


def tap_sessions(tap: Tap) -> None:
    original_serialize = Session.serialize
    original_deserialize = Session.deserialize

    def serialize(self, msg, ident=None):  # type: ignore[no-untyped-def]
        frames = original_serialize(self, msg, ident)
        tap.add("sent", "", [bytes(frame) for frame in frames])
        return frames

    def deserialize(self, msg_list, content=True, copy=True):  # type: ignore[no-untyped-def]
        raw = [bytes(getattr(frame, "buffer", frame)) for frame in msg_list]
        tap.add("received", "", [b"<IDS|MSG>", *raw])
        return original_deserialize(self, msg_list, content=content, copy=copy)

    Session.serialize = serialize
    Session.deserialize = deserialize


def exercise(client: ipyparallel.Client) -> None:
    view = client[:]
    view.apply_sync(abs, -1)
    view.push({"a": 1}, block=True)
    view.pull("a", block=True)
    for code in ("print('out')", "import sys; print('err', file=sys.stderr)", "1 + 1", "1 / 0"):
        result = view.execute(code, silent=False)
        result.wait(10)
        result.wait_for_output(2)
    client.queue_status()
    client.hub_history()
    client.db_query({}, keys=["msg_id"])
    client.result_status(client.history[:1])
    view.apply(time.sleep, 0).wait()
    client.abort(client.history[-1])
    client.clear(block=True)
    client.load_balanced_view().apply_sync(abs, -2)
    client.purge_hub_results(client.history[:1])
    client.shutdown(targets=[0], block=True)
    time.sleep(1)


def main() -> None:
    tap = Tap()
    with tempfile.TemporaryDirectory() as profile:
        arguments = [f"--profile-dir={profile}", "--log-level=40", "--ping=200"]
        controller = subprocess.Popen(
            [sys.executable, "-m", "ipyparallel.controller", "--dictdb", *arguments]
        )
        path = Path(profile) / "security" / "ipcontroller-client.json"
        while not path.exists():
            time.sleep(0.1)
        connection = json.loads(path.read_text())
        engine = subprocess.Popen([sys.executable, "-m", "ipyparallel.engine", *arguments[:2]])
        try:
            tap_sessions(tap)
            client = ipyparallel.Client(str(path))
            client.wait_for_engines(1, timeout=30)
            exercise(client)
            client.close()
        finally:
            engine.terminate()
            controller.terminate()
            engine.wait()
            controller.wait()
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    recording = {
        "ipyparallel": ipyparallel.__version__,
        "jupyter_client": jupyter_client.__version__,
        "connection": connection,
        "messages": tap.messages,
    }
    OUTPUT.write_text(json.dumps(recording, indent=1) + "\n")
    print(f"{len(tap.messages)} messages in {OUTPUT}")


if __name__ == "__main__":
    main()
