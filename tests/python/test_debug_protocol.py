"""Jupyter's debug protocol on the control channel, as a front end speaks it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Cluster
from conversation import Conversation

CELL = "def double(x):\n    y = x * 2\n    return y\n\nresult = double(21)\n"


class FrontEnd:
    """What of a front end debugs.

    Parameters
    ----------
    cluster : Cluster
        With one engine.
    """

    def __init__(self, cluster: Cluster) -> None:
        client = cluster.client(1)
        self.engine = client._engines[0]
        self.talk = Conversation(json.loads(cluster.connection_file("client").read_text()))
        self._seq = 0

    def debug(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Return the content of a reply."""
        self._seq += 2
        content = {"type": "request", "command": command, "seq": self._seq, "arguments": arguments}
        sent = self.talk.send("control", "debug_request", content, engine=self.engine)
        assert self.talk.hear(lambda: self.talk.is_answered(sent), 30), f"no answer to {command}"
        assert self.talk.hear(lambda: self.talk.is_idle(sent), 5)
        return next(
            message["content"]
            for channel, message in self.talk.heard
            if channel == "control" and message["parent_header"]["msg_id"] == sent
        )

    def execute(self, code: str) -> str:
        """Send a cell."""
        content = {"code": code, "silent": False, "store_history": True}
        return self.talk.send("mux", "execute_request", content, engine=self.engine)

    def event(self, name: str) -> dict[str, Any]:
        """Wait for an event and return what it says."""

        def events() -> list[dict[str, Any]]:
            return [
                message["content"]["body"]
                for _, message in self.talk.heard
                if message["msg_type"] == "debug_event" and message["content"]["event"] == name
            ]

        assert self.talk.hear(lambda: bool(events()), 20), f"no event {name}"
        return events()[-1]


@pytest.fixture
def front_end(cluster: Cluster) -> Iterator[FrontEnd]:
    cluster.start_controller()
    cluster.start_engine()
    made = FrontEnd(cluster)
    yield made
    made.talk.close()


def test_a_cell_stops_at_a_breakpoint_and_goes_on(front_end: FrontEnd):
    assert front_end.debug("debugInfo")["body"]["isStarted"] is False
    assert front_end.debug("initialize", clientID="test", adapterID="x")["success"]
    assert front_end.debug("attach")["success"]
    path = front_end.debug("dumpCell", code=CELL)["body"]["sourcePath"]
    breakpoints = [{"line": 2}]
    reply = front_end.debug(
        "setBreakpoints", source={"path": path}, breakpoints=breakpoints, sourceModified=False
    )
    assert reply["body"]["breakpoints"][0]["verified"], reply
    assert front_end.debug("configurationDone")["success"]
    cell = front_end.execute(CELL)
    thread = front_end.event("stopped")["threadId"]
    frames = front_end.debug("stackTrace", threadId=thread)["body"]["stackFrames"]
    assert (frames[0]["name"], frames[0]["line"]) == ("double", 2)
    scopes = front_end.debug("scopes", frameId=frames[0]["id"])["body"]["scopes"]
    local = next(scope for scope in scopes if scope["name"] == "Locals")
    variables = front_end.debug("variables", variablesReference=local["variablesReference"])
    assert {"x": "21"}.items() <= {
        v["name"]: v["value"] for v in variables["body"]["variables"]
    }.items()
    front_end.debug("continue", threadId=thread)
    assert front_end.talk.hear(lambda: front_end.talk.is_answered(cell), 20)
    assert front_end.debug("disconnect", restart=False, terminateDebuggee=False)["success"]
    after = front_end.execute("assert result == 42")
    assert front_end.talk.hear(lambda: front_end.talk.is_answered(after), 20)
    assert front_end.talk.heard[-1][1]["content"].get("status", "ok") == "ok"


def test_the_debugger_answers_while_a_cell_runs_and_says_nothing_in_its_output(front_end: FrontEnd):
    cell = front_end.execute("import time; time.sleep(3)")
    front_end.talk.hear(lambda: front_end.talk.has("execute_input", cell))
    assert front_end.debug("debugInfo")["success"]
    assert not front_end.talk.is_answered(cell)
    assert front_end.debug("inspectVariables")["success"]
    assert front_end.debug("nonsense") == {}  # as ipykernel's, which has not started
    assert not front_end.talk.has("stream")


def test_what_is_promised_is_there(front_end: FrontEnd):
    front_end.talk.ask("info", "mux", "kernel_info_request", {}, engine=front_end.engine)
    features = dict(front_end.talk.scenes[-1][1])["kernel_info_reply.content.supported_features"]
    assert features == "['debugger']"
