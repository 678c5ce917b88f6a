"""An engine that reaches its controller through an ssh server, here one of the test's own."""

from __future__ import annotations

import json

from conftest import Cluster, wait_for


def test_an_engine_works_through_ssh(cluster: Cluster, ssh_server):
    address, key = ssh_server
    cluster.start_controller()
    engine = cluster.start_engine(f"--ssh={address}", f"--sshkey={key}", "--restart=always")
    client = cluster.client(1)
    assert client[0].apply_sync(abs, -3) == 3
    listening = json.loads(cluster.connection_file("engine").read_text())["registration"]
    log = engine.log.read_text()
    assert "registering with the controller at tcp://127.0.0.1" in log
    assert f":{listening}" not in log, "it did not go through the tunnel"
    # The tunnel is kept for the next process.
    uuid = client._engines[0]
    client[0].execute("import os; os._exit(1)")
    wait_for(lambda: client._engines.get(0) not in (None, uuid), what="the next process")
    assert client[0].apply_sync(abs, -4) == 4


def test_a_host_that_is_not_known_is_refused_in_one_line(cluster: Cluster, ssh_server):
    address, key = ssh_server
    cluster.start_controller()
    other = address.replace("127.0.0.1", "localhost")  # not in known_hosts under this name
    engine = cluster.start_engine(f"--ssh={other}", f"--sshkey={key}")
    assert engine.wait(30) == 1
    last = engine.log.read_text().strip().splitlines()[-1]
    assert last.startswith(f"dipengine: ssh to {other} failed; is it installed")
