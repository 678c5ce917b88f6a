"""ipyparallel's own Cluster on our programs, dipcluster, and Group as a script uses it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ipyparallel
import psutil
from conftest import BIN, wait_for

__name__ = "__main__"  # see test_client.py


def processes_of(folder: Path) -> list[int]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if process.pid != os.getpid() and str(folder) in " ".join(process.info["cmdline"] or []):
            found.append(process.pid)
    return found


def test_the_cluster_of_ipyparallel_finds_our_launchers(tmp_path: Path):
    cluster = ipyparallel.Cluster(
        controller="ddipp", engines="ddipp", n=2, profile_dir=str(tmp_path), log_level=40
    )
    with cluster as client:
        client.wait_for_engines(2, timeout=30, interactive=False)
        assert client.ids == [0, 1]
        client[:].execute("import sys; which = sys.executable", block=True)
        assert client[:]["which"] == [sys.executable] * 2
    wait_for(lambda: not processes_of(tmp_path), 10)


def test_engine_ids_follow_the_order_of_the_processes(tmp_path: Path):
    cluster = ipyparallel.Cluster(
        controller="ddipp", engines="ddipp", n=3, profile_dir=str(tmp_path), log_level=40
    )
    with cluster as client:
        client.wait_for_engines(3, timeout=30, interactive=False)
        (engine_set,) = cluster.engines.values()
        launched = [engine_set.launchers[str(i)].pid for i in range(3)]
        assert client[:].apply_sync(os.getppid) == launched


def dipcluster(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run([BIN / "dipcluster", *args], capture_output=True, text=True, timeout=60)


def test_dipcluster_starts_lists_and_stops(tmp_path: Path):
    profile = f"--profile-dir={tmp_path}"
    started = dipcluster("start", "-n", "2", "--daemonize", profile)
    assert started.stdout == "dipcluster: the engines are ready; stop with: dipcluster stop\n"
    try:
        client = ipyparallel.Client(str(tmp_path / "security" / "ipcontroller-client.json"))
        assert client[:].apply_sync(lambda: 1) == [1, 1]
        client.close()
        assert "runs already" in dipcluster("start", "--daemonize", profile).stderr
        assert "(default)" in dipcluster("list", profile).stdout
    finally:
        stopped = dipcluster("stop", profile)
    assert stopped.stdout == "dipcluster: stopped\n"
    assert processes_of(tmp_path) == []
    assert "no such cluster runs" in dipcluster("stop", profile).stderr


def test_two_clusters_share_a_profile(tmp_path: Path):
    profile = f"--profile-dir={tmp_path}"
    for name in ("a", "b"):
        assert (
            dipcluster("start", "-n1", "--daemonize", profile, "--cluster-id", name).returncode == 0
        )
    assert dipcluster("stop", profile, "--cluster-id", "a").returncode == 0
    path = tmp_path / "security" / "ipcontroller-b-client.json"
    client = ipyparallel.Client(str(path))
    assert client.ids == [0]
    client.close()
    assert dipcluster("stop", profile, "--cluster-id", "b").returncode == 0


def test_a_cluster_in_front_ends_with_ctrl_c_and_with_its_launcher(tmp_path: Path):
    for sig in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(
            [BIN / "dipcluster", "start", "-n1", f"--profile-dir={tmp_path}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout.readline() == "dipcluster: the engines are ready; stop with Ctrl-C\n"
        process.send_signal(sig)
        process.wait(15)
        wait_for(lambda: not processes_of(tmp_path), 15, "the end of all processes")


def test_an_engine_that_cannot_start_is_reported(tmp_path: Path):
    begin = time.monotonic()
    failed = dipcluster(
        "start", "-n1", "--daemonize", f"--profile-dir={tmp_path}", "--engine-args=--python=/no"
    )
    assert time.monotonic() - begin < 10
    assert "the engines did not start: ipengine-0 ended with code 1" in failed.stderr
    assert processes_of(tmp_path) == []


def test_a_group_in_a_script(ipython_dir: Path):
    script = (
        "import ddipp\n"
        "with ddipp.Group.start(ranks=2) as group:\n"
        "    group.push({'a': 20})\n"
        "    group.run('b = torch.tensor(a + rank); dist.all_reduce(b)')\n"
        "    print(int(group.pull(['b'])['b']))\n"
        "    try:\n"
        "        group.run('1 / 0')\n"
        "    except ddipp.CellFailed as failure:\n"
        "        print(sorted(failure.errors))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=90
    )
    assert done.stdout == "41\n[0, 1]\n", done.stderr
