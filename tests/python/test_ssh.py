"""An engine that reaches its controller through an ssh server, here one of the test's own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from conftest import Cluster, wait_for

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")

pytestmark = pytest.mark.skipif(
    not (SSHD and shutil.which("ssh")), reason="needs ssh and sshd: apt-get install openssh-server"
)


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@pytest.fixture
def ssh_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Start sshd with keys of its own; returns "host:port" and the user's private key file."""
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    host_key, user_key = make_key(folder / "host"), make_key(folder / "user")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = folder / "config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nPidFile none\n"
        f"AuthorizedKeysFile {user_key}.pub\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", config], stderr=subprocess.DEVNULL)

    # ssh takes its configuration from the password database's home, so it is wrapped.
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {host_key.with_suffix('.pub').read_text()}")
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    wrapper = bin_folder / "ssh"
    wrapper.write_text(
        f'#!/bin/sh\nexec {shutil.which("ssh")} -o UserKnownHostsFile={known} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_folder), prepend=":")

    def answers() -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    wait_for(answers, what="sshd")
    yield f"127.0.0.1:{port}", user_key
    server.terminate()
    server.wait(10)


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
