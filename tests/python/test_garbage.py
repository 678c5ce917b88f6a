"""What strangers send to the controller's ports costs nothing but a line in its log."""

from __future__ import annotations

import json
import random
import socket

import zmq
from conftest import Cluster

__name__ = "__main__"  # see test_client.py

DELIMITER = b"<IDS|MSG>"


def nasty_messages() -> list[list[bytes]]:
    randomness = random.Random(0)
    messages = [
        [b""],
        [b"", b""],
        [DELIMITER],
        [DELIMITER] * 7,
        [DELIMITER, b"", b"", b"", b"", b""],
        [DELIMITER, b"0" * 64, b"{}", b"{}", b"{}", b"{}"],
        [b"engine", DELIMITER, b"0" * 64, b'{"msg_id":"a","msg_type":"apply_request"}', b"{}", b"{",
         b"\xff"],
        [b"x" * 300, b"y" * 300, DELIMITER, b"short", b"[1", b"", b"", b""],
        [b"a" * 1_000_000],
    ]  # fmt: skip
    for _ in range(200):
        count = randomness.randrange(1, 9)
        frames = [randomness.randbytes(randomness.randrange(0, 50)) for _ in range(count)]
        if randomness.random() < 0.5:
            frames[randomness.randrange(count)] = DELIMITER
        messages.append(frames)
    return messages


def ports_of(cluster: Cluster) -> set[int]:
    ports = set()
    for kind in ("client", "engine"):
        for value in json.loads(cluster.connection_file(kind).read_text()).values():
            ports.update([value] if isinstance(value, int) else [])
            ports.update(value if isinstance(value, list) else [])
    return ports


def test_garbage_on_every_port_disturbs_nobody(cluster: Cluster):
    controller = cluster.start_controller()
    cluster.start_engine()
    client = cluster.client(1)
    context = zmq.Context()
    ports = ports_of(cluster)
    assert len(ports) >= 12
    for port in ports:
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(range(256)))
        for kind in (zmq.DEALER, zmq.PUB):
            with context.socket(kind) as stranger:
                stranger.linger = 0
                stranger.sndtimeo = 100
                stranger.connect(f"tcp://127.0.0.1:{port}")
                for message in nasty_messages():
                    try:
                        stranger.send_multipart(message)
                    except zmq.Again:
                        break
                # Half-open: the connection ends in the middle of a conversation.
    context.term()
    assert client[0].apply_sync(lambda: 1) == 1
    assert controller.poll() is None
    assert client.ids == [0]


def test_a_stranger_cannot_unregister_or_stop_anything(cluster: Cluster):
    controller = cluster.start_controller()
    cluster.start_engine()
    client = cluster.client(1)
    info = json.loads(cluster.connection_file("client").read_text())
    header = json.dumps({"msg_id": "1", "msg_type": "shutdown_request", "session": "x"}).encode()
    leave = json.dumps({"msg_id": "2", "msg_type": "unregistration_request"}).encode()
    context = zmq.Context()
    with context.socket(zmq.DEALER) as stranger:
        stranger.linger = 1000
        stranger.connect(f"tcp://127.0.0.1:{info['registration']}")
        for first in (header, leave):
            for signature in (b"", b"0" * 64):
                stranger.send_multipart([DELIMITER, signature, first, b"{}", b"{}", b'{"id": 0}'])
    context.term()
    assert client[0].apply_sync(lambda: 1) == 1
    assert client.ids == [0]
    assert controller.poll() is None
    assert controller.log.read_text().count("its signature is wrong") == 1  # not once a message
