"""Servers of others that tests start for themselves: sshd and a Slurm of one node."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

SYSTEM = "/usr/sbin:/usr/bin:/sbin:/bin"
SSHD = shutil.which("sshd", path=SYSTEM)
SLURM = {
    name: shutil.which(name, path=SYSTEM) for name in ("munged", "slurmctld", "slurmd", "srun")
}


def wait_for_port(port: int, what: str, address: str = "127.0.0.1") -> None:
    deadline = time.monotonic() + 20
    while True:
        with socket.socket() as one:
            if one.connect_ex((address, port)) == 0:
                return
        assert time.monotonic() < deadline, f"{what} does not listen"
        time.sleep(0.05)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@contextmanager
def sshd(
    folder: Path, monkeypatch: pytest.MonkeyPatch, address: str, prefix: Sequence[str] = ()
) -> Iterator[tuple[str, Path]]:
    """Run sshd with keys of its own; gives "host:port" and the user's private key file.

    Parameters
    ----------
    folder : Path
        For keys and configuration.
    monkeypatch : pytest.MonkeyPatch
        Of the test: its ssh knows the server's key.
    address : str
        Where it listens.
    prefix : sequence of str
        What runs it, for instance on another host.
    """
    if not (SSHD and shutil.which("ssh")):
        pytest.skip("needs ssh and sshd: make peers")
    folder.mkdir(mode=0o700)
    host_key, user_key = make_key(folder / "host"), make_key(folder / "user")
    port = free_port()
    config = folder / "config"
    config.write_text(
        f"Port {port}\nListenAddress {address}\nHostKey {host_key}\nPidFile none\n"
        f"AuthorizedKeysFile {user_key}.pub\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
        "Subsystem sftp internal-sftp\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([*prefix, SSHD, "-D", "-e", "-f", config], stderr=subprocess.DEVNULL)

    # ssh takes its configuration from the password database's home, so it is wrapped.
    known = folder / "known_hosts"
    known.write_text(f"[{address}]:{port} {host_key.with_suffix('.pub').read_text()}")
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    wrapper = bin_folder / "ssh"
    wrapper.write_text(
        f'#!/bin/sh\nexec {shutil.which("ssh")} -o UserKnownHostsFile={known} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_folder), prepend=":")
    try:
        wait_for_port(port, "sshd", address)
        yield f"{address}:{port}", user_key
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def ssh_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """Start sshd on this host."""
    with sshd(tmp_path / "ssh", monkeypatch, "127.0.0.1") as server:
        yield server


SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthInfo=socket={folder}/munge.sock
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/builtin
SelectType=select/linear
ReturnToService=2
MpiDefault=none
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES State=UP OverSubscribe=FORCE:4
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start a Slurm of this machine as its one node, with keys, ports and folders of its own."""
    if not all(SLURM.values()) or os.geteuid() != 0:
        pytest.skip("needs root, Slurm and munge: make peers")
    folder = tmp_path / "slurm"
    for part in ("state", "spool"):
        (folder / part).mkdir(parents=True)
    key = folder / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    ports = {"controller_port": free_port(), "node_port": free_port()}
    conf = folder / "slurm.conf"
    conf.write_text(SLURM_CONF.format(folder=folder, host=host, cores=os.cpu_count(), **ports))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    monkeypatch.setenv("PATH", SYSTEM, prepend=":")
    munged = [
        *(SLURM["munged"], "--force", "--foreground", f"--key-file={key}"),
        *(f"--socket={folder}/munge.sock", f"--pid-file={folder}/munge.pid"),
        *(f"--log-file={folder}/munge.log", f"--seed-file={folder}/seed"),
    ]
    servers = []
    try:
        for command in (munged, [SLURM["slurmctld"], "-D", "-c"], [SLURM["slurmd"], "-D", "-c"]):
            with (folder / f"{Path(command[0]).name}.out").open("w") as log:
                servers.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
            if command is munged:
                while not (folder / "munge.sock").exists():
                    time.sleep(0.05)
        wait_for_port(ports["controller_port"], "slurmctld")
        wait_for_port(ports["node_port"], "slurmd")
        yield
    finally:
        for server in reversed(servers):
            server.terminate()
        for server in servers:
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
