"""dipcluster on its ways to launch: here, ssh, mpiexec, Slurm; ipyparallel's Cluster on them."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import ipyparallel
import nbformat
import psutil
import pytest
from conftest import BIN, wait_for
from ddipp import Group
from ddipp.cluster.launchers import find_program
from servers import sshd
from test_two_hosts import HERE, THERE, other_host  # noqa: F401

__name__ = "__main__"  # see test_client.py

ROOT = Path(__file__).resolve().parents[2]
MPIEXEC = shutil.which("mpiexec")
AS_ROOT = ["--launch-args=--allow-run-as-root", "--launch-args=--oversubscribe"]
SERVERS = ("munged", "slurmctld", "slurmd", "slurmstepd", "sshd")  # of the tests
KILLS = int(os.environ.get("DDIPP_KILLS", "8"))

needs_mpi = pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec: make peers")


def dipcluster(*args: str, timeout: float = 60) -> subprocess.CompletedProcess:
    command = [BIN / "dipcluster", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def start(folder: Path, *args: str) -> ipyparallel.Client:
    """Start a cluster and return a client of it."""
    started = dipcluster("start", "--daemonize", f"--profile-dir={folder}", *args)
    assert started.returncode == 0, started.stderr
    assert started.stdout == "dipcluster: the engines are ready; stop with: dipcluster stop\n"
    return ipyparallel.Client(str(client_file(folder)), timeout=10)


def client_file(folder: Path) -> Path:
    return folder / "security" / "ipcontroller-client.json"


def processes_of(part: Path | str) -> list[psutil.Process]:
    """Return the processes that have this in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            if str(part) in words and not any(name in words for name in SERVERS):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return [one for one in found if one.pid != os.getpid()]


def left_behind(folder: Path) -> list[str]:
    """Return the files that only a running cluster may have."""
    patterns = ("security/*.json", "pid/*.json")
    return [str(path) for pattern in patterns for path in folder.glob(pattern)]


def stop(folder: Path) -> None:
    stopped = dipcluster("stop", f"--profile-dir={folder}")
    assert (stopped.returncode, stopped.stdout) == (0, "dipcluster: stopped\n"), stopped.stderr
    wait_for(lambda: not processes_of(folder), what=f"{processes_of(folder)} to end")
    assert left_behind(folder) == []


def train_the_demo(folder: Path) -> None:
    """Run the training of the demo on all engines of a cluster."""
    import numpy as np
    from sklearn.datasets import load_digits

    demo = nbformat.read(ROOT / "examples" / "digits.ipynb", as_version=4)
    cells = [cell.source for cell in demo.cells if cell.source.startswith("%%dip")]
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    group = Group.connect(str(client_file(folder)))
    try:
        group.push({"train_x": images[:1440], "train_y": labels[:1440]})
        for cell in cells:
            group.run(cell.partition("\n")[2], quiet=True)
        group.run(
            "with torch.no_grad():\n"
            "    found = net(torch.from_numpy(test_x)).argmax(1).numpy()\n"
            "accuracy = float((found == test_y).mean())".replace("test_x", "train_x").replace(
                "test_y", "train_y"
            ),
            quiet=True,
        )
        assert group.pull(["accuracy"])["accuracy"] > 0.95
    finally:
        group.shutdown()
        group.client.close()


# --- here ----------------------------------------------------------------------------------------


def test_status_list_signal_engines_and_restart(tmp_path: Path):
    profile = f"--profile-dir={tmp_path}"
    client = start(tmp_path, "-n2", "--engine-args=--restart=on-failure")
    client[:].execute("kept = 1", block=True)
    listed = json.loads(dipcluster("list", "--json", profile).stdout)
    assert [(one["engines"], one["launched_by"]) for one in listed] == [(2, "ddipp")]
    assert dipcluster("list", profile).stdout.splitlines()[1].split()[:2] == ["(default)", "2"]
    status = json.loads(dipcluster("status", "--json", profile).stdout)
    assert [(row["id"], row["completed"]) for row in status["engines"]] == [(0, 1), (1, 1)]
    assert "cluster (default): 2 engines" in dipcluster("status", profile).stdout

    sleeping = client[:].apply_async(time.sleep, 60)
    time.sleep(0.5)
    assert dipcluster("signal", "INT", profile).returncode == 0
    with pytest.raises(ipyparallel.CompositeError, match="KeyboardInterrupt"):
        sleeping.get(10)
    assert "there is no signal 'HELLO'" in dipcluster("signal", "HELLO", profile).stderr
    assert "no engine 7" in dipcluster("signal", "INT", "--targets", "7", profile).stderr

    more = subprocess.Popen(
        [BIN / "dipcluster", "engines", "-n1", profile], stdout=subprocess.PIPE, text=True
    )
    assert "the engines are ready" in more.stdout.readline()
    assert len(client.ids) == 3
    more.send_signal(signal.SIGINT)
    assert more.wait(15) == 0
    wait_for(lambda: len(client.ids) == 2)

    controllers = [one for one in processes_of(tmp_path) if "dipcontroller" in one.cmdline()[0]]
    client.close()
    assert dipcluster("restart", profile).returncode == 0
    assert not controllers[0].is_running()
    client = ipyparallel.Client(str(client_file(tmp_path)), timeout=10)
    assert client.ids == [0, 1]
    client.close()
    stop(tmp_path)
    assert "start one with: dipcluster start" in dipcluster("status", profile).stderr


def test_ipyparallel_finds_and_stops_our_cluster(tmp_path: Path):
    start(tmp_path, "-n2").close()
    cluster = ipyparallel.Cluster.from_file(profile_dir=str(tmp_path), cluster_id="")
    client = cluster.connect_client_sync()
    assert client.ids == [0, 1]
    client.close()
    listing = subprocess.run(
        [sys.executable, "-m", "ipyparallel.cluster", "list", f"--profile-dir={tmp_path}"],
        capture_output=True,
        text=True,
        env={**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")},
    )
    assert re.search(r"True +2 Ddipp", listing.stdout), listing.stdout + listing.stderr
    cluster.stop_cluster_sync()
    wait_for(lambda: not processes_of(tmp_path))
    wait_for(lambda: left_behind(tmp_path) == [])


def test_dipcluster_finds_and_stops_a_cluster_of_ipyparallel(tmp_path: Path):
    cluster = ipyparallel.Cluster(
        controller="ddipp", engines="ddipp", n=2, profile_dir=str(tmp_path), log_level=40
    )
    cluster.shutdown_atexit = False
    cluster.start_cluster_sync()
    profile = f"--profile-dir={tmp_path}"
    listed = json.loads(dipcluster("list", "--json", profile).stdout)
    assert [one["cluster_id"] for one in listed] == [cluster.cluster_id]
    stopped = dipcluster("stop", profile, f"--cluster-id={cluster.cluster_id}")
    assert stopped.stdout == "dipcluster: stopped\n", stopped.stderr
    assert processes_of(tmp_path) == []


def test_what_is_left_of_a_cluster_is_recognised_and_cleaned(tmp_path: Path):
    start(tmp_path, "-n1").close()
    files = {path: Path(path).read_bytes() for path in left_behind(tmp_path)}
    assert len(files) == 4
    stop(tmp_path)
    for path, content in files.items():
        Path(path).write_bytes(content)
    profile = f"--profile-dir={tmp_path}"
    assert dipcluster("list", "--json", profile).stdout == "[]\n"
    assert "dipcluster clean" in dipcluster("status", profile).stderr
    assert dipcluster("clean", profile).stdout == (
        "dipcluster: removed what was left of 1 cluster\n"
    )
    assert left_behind(tmp_path) == []
    # A start does not mind them either.
    for path, content in files.items():
        Path(path).write_bytes(content)
    start(tmp_path, "-n1").close()
    stop(tmp_path)


def test_an_engine_that_fails_is_named_with_the_end_of_its_log(tmp_path: Path):
    failed = dipcluster(
        *("start", "-n2", "--daemonize", f"--profile-dir={tmp_path}", "--engine-args=--python=/no")
    )
    assert failed.returncode == 1
    assert "ended with code 1; the end of its log, " in failed.stderr
    assert "dipengine: --python /no: there is no such program" in failed.stderr
    assert processes_of(tmp_path) == []
    assert left_behind(tmp_path) == []


def test_an_encrypted_cluster_is_started_and_asked(tmp_path: Path):
    start(tmp_path, "-n1", "--controller-args=--enable-curve").close()
    status = dipcluster("status", "--json", f"--profile-dir={tmp_path}")
    assert len(json.loads(status.stdout)["engines"]) == 1
    stop(tmp_path)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["strat"], "there is no command 'strat'; do you mean 'start'?"),
        (["start", "-n", "x"], "--n: Value x not in range 1 to 65536; see --help"),
        (
            ["start", "--engines=pbs"],
            "--engines pbs: say local, ssh, mpi, slurm or sbatch; see --help",
        ),
        (["start", "--engines=ssh"], "which hosts? --hosts node1:4,node2:4; see --help"),
        (
            ["start", "--time=5"],
            "--time= is for --engines=slurm or sbatch; see --help",
        ),
        (["stop"], "no such cluster runs in {folder}"),
        (["restart"], "no cluster that dipcluster has started runs here under this name"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, words: list[str], line: str):
    profile = [] if words == ["strat"] else [f"--profile-dir={tmp_path}"]
    done = dipcluster(*words, *profile)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"dipcluster: {line.format(folder=tmp_path)}\n"


@pytest.mark.timeout(60 + 25 * KILLS)
def test_nothing_is_left_when_any_process_is_killed_at_any_moment(tmp_path: Path):
    """kill -9 at random moments of start, run and stop; DDIPP_KILLS says how often."""
    for number in range(KILLS):
        rng = random.Random(number)
        folder = tmp_path / str(number)
        process = subprocess.Popen(
            [BIN / "dipcluster", "start", "-n2", f"--profile-dir={folder}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        phase = ("start", "run", "stop")[number % 3]
        if phase != "start":
            wait_for((folder / "security" / "cluster-.json").exists)
            wait_for(lambda f=folder: len(processes_of(f)) >= 6, 20)
        if phase == "stop":
            process.terminate()
        time.sleep(rng.random() * (0.5 if phase == "start" else 0.1))
        candidates = processes_of(folder)
        victim = rng.choice(candidates) if candidates else None
        killed = victim.cmdline()[0] if victim and victim.is_running() else "nobody"
        if victim is not None:
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                killed = "nobody"
        time.sleep(0.2)
        # The death of an engine is no end of the cluster.
        dipcluster("stop", f"--profile-dir={folder}")
        story = f"{number}: {killed} killed during {phase}"
        wait_for(lambda f=folder: not processes_of(f), 20, f"all processes to end, {story}")
        process.wait(10)
        wait_for(lambda f=folder: not left_behind(f), 10, f"no files, {story}")


# --- elsewhere -----------------------------------------------------------------------------------


def test_engines_through_ssh(tmp_path: Path, ssh_server):
    address, key = ssh_server
    folder = tmp_path / "profile"
    ssh = [f"--launch-args={word}" for word in ("-p", address.partition(":")[2], "-i", str(key))]
    # Loopback is reached as 127.0.0.1 only: the certificate of the host says so.
    client = start(
        folder,
        "--engines=ssh",
        "--hosts=127.0.0.1:2",
        *ssh,
        "--ip=127.0.0.1",
        f"--engine-args=--python={sys.executable}",
        f"--engine-args=--work-dir={tmp_path}",
    )
    assert client.ids == [0, 1]
    names = client[:].apply_sync(lambda: __import__("os").environ.get("SSH_CONNECTION", ""))
    assert all(names)
    key_text = json.loads(client_file(folder).read_text())["key"]
    assert not processes_of(key_text)  # nobody can read it in a list of processes
    client.close()
    train_the_demo(folder)
    engines = processes_of(f"--work-dir={tmp_path}")
    assert len(engines) >= 4
    # Killed, not asked: the other hosts notice that ssh has gone.
    launcher = json.loads((folder / "pid" / "dipcluster-.json").read_text())["launcher"]
    for process in [*psutil.Process(launcher).children(), psutil.Process(launcher)]:
        process.kill()
    wait_for(lambda: not any(engine.is_running() for engine in engines), 20, "the remote engines")
    wait_for(lambda: not processes_of(folder))


def test_a_host_that_is_not_known_is_refused(tmp_path: Path, ssh_server):
    address, key = ssh_server
    ssh = [f"--launch-args={word}" for word in ("-p", address.partition(":")[2], "-i", str(key))]
    failed = dipcluster(
        *("start", "--daemonize", f"--profile-dir={tmp_path / 'profile'}", "--engines=ssh"),
        *("--hosts=localhost", *ssh),
    )
    assert failed.returncode == 1
    assert "Host key verification failed" in failed.stderr
    assert left_behind(tmp_path / "profile") == []


def mpi_rank() -> int:
    from mpi4py import MPI

    return MPI.COMM_WORLD.Get_rank()


def test_engines_on_another_host(tmp_path: Path, other_host: str, monkeypatch):  # noqa: F811
    """Another network, with no way to it but what the two hosts have between them."""
    folder = tmp_path / "profile"
    there = ("ip", "netns", "exec", other_host)
    with sshd(tmp_path / "ssh", monkeypatch, THERE, there) as (address, key):
        client = start(
            folder,
            *("--engines=ssh", f"--hosts={THERE}:2", f"--ip={HERE}", f"--location={HERE}"),
            *("--launch-args=-p", f"--launch-args={address.partition(':')[2]}"),
            *("--launch-args=-i", f"--launch-args={key}"),
            f"--engine-args=--python={sys.executable}",
        )
        networks = client[:].apply_sync(os.stat, "/proc/self/ns/net")
        here = os.stat("/proc/self/ns/net").st_ino
        assert all(network.st_ino != here for network in networks)
        client.close()
        train_the_demo(folder)
        stop(folder)


@needs_mpi
def test_engines_with_mpiexec(tmp_path: Path):
    pytest.importorskip("mpi4py")
    client = start(
        tmp_path, "--engines=mpi", "-n2", *AS_ROOT, f"--engine-args=--python={sys.executable}"
    )
    assert client.ids == [0, 1]
    ranks = client[:].apply_sync(mpi_rank)
    assert ranks == [0, 1]
    client.close()
    train_the_demo(tmp_path)
    listed = json.loads(dipcluster("list", "--json", f"--profile-dir={tmp_path}").stdout)
    assert listed[0]["launched_by"] == "ddipp-mpi"
    stop(tmp_path)


@pytest.mark.parametrize("way", ["slurm", "sbatch"])
def test_engines_with_slurm(tmp_path: Path, slurm, way: str):
    folder = tmp_path / "profile"
    client = start(
        folder,
        f"--engines={way}",
        "-n2",
        *("--time=5", "--partition=debug"),
        *(["--launch-args=--overlap"] if way == "slurm" else []),
        "--ip=127.0.0.1",
        f"--engine-args=--python={sys.executable}",
    )
    assert client.ids == [0, 1]
    procids = client[:].apply_sync(lambda: __import__("os").environ["SLURM_PROCID"])
    assert procids == ["0", "1"]
    client.close()
    train_the_demo(folder)
    stop(folder)
    wait_for(lambda: not subprocess.check_output(["squeue", "--noheader"]).strip(), 20)


def test_the_manifest_is_what_kubernetes_takes():
    validator = pytest.importorskip("kubernetes_validate", reason="make peers")
    import yaml

    for options in ([], ["-n", "8", "--gpus", "1", "--name=a", "--image=b/c:1"]):
        for part in yaml.safe_load_all(dipcluster("kubernetes", *options).stdout):
            validator.validate(part, "1.29", strict=True)


def test_the_manifest_for_kubernetes_starts_what_it_says(tmp_path: Path, cluster):
    yaml = pytest.importorskip("yaml")
    text = dipcluster("kubernetes", "-n", "2", "--name=localhost", "--gpus=1").stdout
    service, deployment, job = yaml.safe_load_all(text)
    assert len(service["spec"]["ports"]) == 18
    (controller,) = deployment["spec"]["template"]["spec"]["containers"]
    (engine,) = job["spec"]["template"]["spec"]["containers"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    assert engine["resources"]["limits"] == {"nvidia.com/gpu": 1}
    # What kubelet would do with the names in parentheses.
    info = {one["name"]: one.get("value", "") for one in engine["env"]}["IPP_CONNECTION_INFO"]
    info = info.replace("$(IPP_SESSION_KEY)", "secret").replace(
        "tcp://localhost", "tcp://127.0.0.1"
    )
    ports = next(word for word in controller["command"] if word.startswith("--ports"))
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 10101)) == 0:
            pytest.skip("port 10101 is in use here")
    os.environ["IPP_SESSION_KEY"] = "secret"
    try:
        cluster.start_controller(ports)
    finally:
        del os.environ["IPP_SESSION_KEY"]
    for index in range(2):
        environment = {
            **os.environ,
            "IPP_CONNECTION_INFO": info,
            "JOB_COMPLETION_INDEX": str(index),
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        cluster.processes.append(subprocess.Popen(engine["command"], env=environment))
    assert cluster.client(2).ids == [0, 1]


# --- ipyparallel's Cluster -----------------------------------------------------------------------


def check(cluster: ipyparallel.Cluster) -> None:
    with cluster as client:
        client.wait_for_engines(2, timeout=60, interactive=False)
        executables = client[:].apply_sync(lambda: __import__("sys").executable)
        assert executables == [sys.executable] * 2
        assert (
            client[:].apply_sync(lambda: "_ddipp_engine" in __import__("sys").modules) == [True] * 2
        )


@needs_mpi
def test_ipyparallel_starts_our_engines_with_mpi(tmp_path: Path):
    pytest.importorskip("mpi4py")
    cluster = ipyparallel.Cluster(
        controller="ddipp", engines="ddipp-mpi", n=2, profile_dir=str(tmp_path), log_level=40
    )
    cluster.config.MPIEngineSetLauncher.mpi_args = ["--allow-run-as-root", "--oversubscribe"]
    check(cluster)
    wait_for(lambda: not processes_of(tmp_path))


def test_ipyparallel_starts_our_engines_with_slurm(tmp_path: Path, slurm, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it leaves the job's script and output where it is
    folder = tmp_path / "profile"
    cluster = ipyparallel.Cluster(
        controller="ddipp", engines="ddipp-slurm", n=2, profile_dir=str(folder), log_level=40
    )
    check(cluster)
    wait_for(lambda: not processes_of(folder))


def test_ipyparallel_starts_our_engines_with_ssh(tmp_path: Path, ssh_server):
    address, key = ssh_server
    folder = tmp_path / "profile"
    cluster = ipyparallel.Cluster(
        controller="ddipp", engines="ddipp-ssh", n=2, profile_dir=str(folder), log_level=40
    )
    settings = cluster.config.SSHEngineSetLauncher
    settings.engines = {"127.0.0.1": 2}
    for part in (cluster.config.SSHEngineSetLauncher, cluster.config.SSHEngineLauncher):
        known = f"UserKnownHostsFile={key.parent / 'known_hosts'}"
        part.ssh_args = ["-p", address.partition(":")[2], "-i", str(key), "-o", known]
        part.scp_args = ["-P", address.partition(":")[2], "-i", str(key), "-o", known]
        part.remote_python = sys.executable
        part.remote_profile_dir = str(tmp_path / "remote")
    check(cluster)
    wait_for(lambda: not processes_of(folder))


def test_the_program_is_found_beside_the_interpreter():
    assert find_program("dipcluster") == str(BIN / "dipcluster")
