"""The engine as an IPython kernel: what it offers beside running code."""

from __future__ import annotations

import json
import time

import jupyter_client
import pytest
import zmq
from conftest import Cluster, wait_for


@pytest.fixture(scope="module")
def cluster_of_one(tmp_path_factory):
    running = Cluster(tmp_path_factory.mktemp("profile"))
    running.start_controller()
    running.start_engine()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(cluster_of_one):
    client = cluster_of_one.client(1)
    client.connection_file = cluster_of_one.connection_file("client")
    return client


def ask(client, msg_type: str, content: dict) -> dict:
    """Send a request that ipyparallel's client has no method for; return the reply's content."""
    session = client.session
    socket = client._context.socket(zmq.DEALER)
    socket.linger = 0
    info = json.loads(client.connection_file.read_text())
    try:
        socket.connect(f"{info['interface']}:{info['control']}")
        session.send(socket, msg_type, content=content, ident=client._engines[0].encode())
        assert socket.poll(10_000), f"no answer to {msg_type}"
        _, reply = session.recv(socket, 0)
        return reply["content"]
    finally:
        socket.close()


@pytest.fixture(scope="module")
def console(client):
    """Return a Jupyter client attached to the engine, as a console would be."""
    path = client[0].apply_sync(bind)
    attached = jupyter_client.BlockingKernelClient(connection_file=path)
    attached.load_connection_file()
    attached.start_channels()
    attached.wait_for_ready(20)
    yield attached
    attached.stop_channels()


def bind():
    import ipyparallel

    return ipyparallel.bind_kernel()


bind.__module__ = "__main__"


def reply(console, msg_id: str) -> dict:
    while True:
        message = console.get_shell_msg(timeout=20)
        if message["parent_header"]["msg_id"] == msg_id:
            return message["content"]


def test_a_console_attaches_and_shares_the_namespace(client, console):
    client[0].push({"shared": 41}, block=True)
    outputs = []
    content = console.execute_interactive(
        "shared += 1\nprint('from the console')\nshared",
        timeout=20,
        output_hook=lambda message: outputs.append(message["msg_type"]),
    )["content"]
    assert content["status"] == "ok"
    assert {"stream", "execute_result"} <= set(outputs)
    assert client[0].pull("shared", block=True) == 42
    assert console.is_alive() or console.hb_channel.is_beating()


def test_binding_twice_gives_the_same_file(client, console):
    assert client[0].apply_sync(bind) == client[0].apply_sync(bind)


def test_complete_inspect_history_is_complete_and_kernel_info(console):
    console.execute("answer_to_everything = 42", reply=True, timeout=20)
    matches = reply(console, console.complete("answer_to_ev"))["matches"]
    assert "answer_to_everything" in matches
    found = reply(console, console.inspect("answer_to_everything"))
    assert found["found"] and "42" in found["data"]["text/plain"]
    assert reply(console, console.is_complete("for i in x:"))["status"] == "incomplete"
    history = reply(console, console.history(hist_access_type="tail", n=5))["history"]
    assert "answer_to_everything = 42" in history[-1]
    info = reply(console, console.kernel_info())
    assert info["language_info"]["name"] == "python"


def test_user_expressions_and_silence(console):
    content = console.execute(
        "y = 3", reply=True, timeout=20, user_expressions={"double": "y * 2", "bad": "1 / 0"}
    )["content"]
    assert content["user_expressions"]["double"]["data"]["text/plain"] == "6"
    assert content["user_expressions"]["bad"]["ename"] == "ZeroDivisionError"
    count = content["execution_count"]
    silent = console.execute("y = 4", silent=True, reply=True, timeout=20)["content"]
    assert silent["execution_count"] == count


def test_input_is_refused(client):
    result = client[0].execute("input('name? ')")
    with pytest.raises(Exception, match="StdinNotImplementedError"):
        result.get(20)


def test_background_tasks_go_on_between_cells(client):
    client[0].execute(
        "import asyncio\n"
        "ticks = 0\n"
        "async def tick():\n"
        "    global ticks\n"
        "    while ticks < 20: ticks += 1; await asyncio.sleep(0.01)\n"
        "task = asyncio.ensure_future(tick())",
        block=True,
    )
    wait_for(lambda: client[0].pull("ticks", block=True) == 20, 10)


def test_the_last_output_is_kept_for_replay(client):
    result = client[0].execute("print('one'); display('two'); 'three'", silent=False)
    result.get(20)
    result.wait_for_output(5)
    answer = ask(client, "ddipp_replay_request", {})
    assert [one["msg_type"] for one in answer["outputs"]] == [
        "stream",
        "display_data",
        "execute_result",
    ]
    assert answer["outputs"][0]["content"]["text"] == "one\n"
    by_id = ask(client, "ddipp_replay_request", {"msg_id": answer["msg_id"]})
    assert by_id["outputs"] == answer["outputs"]
    assert ask(client, "ddipp_replay_request", {"msg_id": "of nothing"})["outputs"] == []


def test_a_comm_from_the_engine_reaches_the_client_and_back(client):
    """What ipywidgets and tqdm's notebook bars send."""
    code = (
        "from comm import create_comm\n"
        "got = []\n"
        "comm = create_comm(target_name='test', data={'a': 1})\n"
        "comm.on_msg(lambda message: got.append(message['content']['data']))\n"
        "comm.send({'b': 2})\n"
        "comm.comm_id"
    )
    result = client[0].execute(code, silent=False)
    result.get(20)
    result.wait_for_output(5)
    comm_id = result.metadata["execute_result"]["data"]["text/plain"].strip("'")
    client.session.send(
        client._mux_socket,
        "comm_msg",
        content={"comm_id": comm_id, "data": {"c": 3}},
        ident=client._engines[0].encode(),
    )
    wait_for(lambda: client[0].pull("got", block=True) == [{"c": 3}], 10, "the message")


def test_publish_data(client):
    result = client[0].apply_async(publish)
    result.get(20)
    deadline = time.monotonic() + 5
    while not result.data and time.monotonic() < deadline:
        time.sleep(0.05)
    assert result.data == {"progress": 0.5}


def publish():
    from ipyparallel.engine.datapub import publish_data

    publish_data({"progress": 0.5})


publish.__module__ = "__main__"
