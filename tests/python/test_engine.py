"""What the engine promises about the Python that it hosts, and about its own end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ipyparallel
import pytest
from conftest import BIN, Cluster, wait_for
from environments import (
    OLD_CLIENTS,
    SMOKE_CLIENT,
    environment,
    old_client,
    pythons,
    with_our_packages,
)

__name__ = "__main__"  # see test_client.py


@pytest.fixture
def engine(cluster: Cluster):
    cluster.start_controller()
    cluster.start_engine()
    return cluster.client(1)[0]


def run(view, code: str) -> str:
    result = view.execute(code, silent=False)
    result.get(60)
    result.wait_for_output(5)
    return result.stdout


def test_the_interpreter_is_that_of_the_environment(engine):
    code = (
        "import os, sys\n"
        "print(sys.executable, sys.prefix, sys.version_info, os.path.realpath('/proc/self/exe'))\n"
        "print('libpython' in open('/proc/self/maps').read())"
    )
    plain = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert run(engine, code) == plain


def test_modules_of_the_starting_folder_are_found_after_a_change_of_it(cluster: Cluster):
    start = cluster.folder / "start"
    start.mkdir()
    (start / "module_of_the_start.py").write_text("X = 2\n")
    cluster.start_controller()
    cluster.start_engine(cwd=start)
    view = cluster.client(1)[0]
    assert view.apply_sync(lambda: __import__("sys").path[:2]) == ["", str(start)]
    view.apply_sync(os.chdir, "/")
    assert view.apply_sync(lambda: __import__("module_of_the_start").X) == 2


def test_what_the_user_starts_holds_nothing_of_the_engine(engine):
    # The usual three, and the folder that ls reads.
    code = "import subprocess\nsubprocess.run(['ls', '/proc/self/fd'], close_fds=False)"
    assert run(engine, code).split() == ["0", "1", "2", "3"]


def test_the_key_is_not_for_others_to_read(cluster: Cluster, engine):
    code = (
        "import os\n"
        "for pid in os.getpid(), os.getppid():\n"
        "    print(open(f'/proc/{pid}/cmdline').read(), open(f'/proc/{pid}/environ').read())"
    )
    key = json.loads(cluster.connection_file("engine").read_text())["key"]
    text = run(engine, code)
    assert "dipengine" in text and key not in text


def test_what_only_clients_use_is_imported_when_somebody_asks_for_it(engine):
    code = (
        "import sys\nprint('ipyparallel.client' in sys.modules)\n"
        "from ipyparallel.controller.dependency import Dependency\n"
        "import ipyparallel\nprint(ipyparallel.Client.__name__, ipyparallel.__version__)\n"
        "from ipyparallel.engine.app import IPEngine\n"
        "print(IPEngine.instance().id, IPEngine.instance().kernel is get_ipython().kernel)"
    )
    version = ipyparallel.__version__
    assert run(engine, code) == f"False\nClient {version}\n0 True\n"


def test_multiprocessing_works_as_under_plain_python(engine):
    for method in ("fork", "spawn", "forkserver"):
        code = (
            "import multiprocessing as mp\n"
            f"with mp.get_context({method!r}).Pool(2) as pool: print(pool.map(abs, [-1, -2]))"
        )
        assert run(engine, code) == "[1, 2]\n"
    code = (
        "from concurrent.futures import ProcessPoolExecutor as E\n"
        "with E(2) as e: print(list(e.map(abs, [-3])))"
    )
    assert run(engine, code) == "[3]\n"


def test_output_of_a_forked_child_reaches_the_client(engine):
    code = (
        "import multiprocessing as mp\n"
        "def child(): print('from the child', flush=True)\n"
        "p = mp.get_context('fork').Process(target=child); p.start(); p.join()"
    )
    assert run(engine, code) == "from the child\n"


def test_a_forked_child_ends_on_sigterm_and_the_engine_lives(engine):
    code = (
        "import multiprocessing as mp, time\n"
        "p = mp.get_context('fork').Process(target=time.sleep, args=(60,)); p.start()\n"
        "time.sleep(0.2); p.terminate(); p.join(10); print(p.exitcode)"
    )
    assert run(engine, code) == "-15\n"
    assert engine.apply_sync(lambda: 1) == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_dataloader_workers(engine, method):
    code = (
        "import torch\nfrom torch.utils.data import DataLoader, TensorDataset\n"
        "loader = DataLoader(TensorDataset(torch.arange(8)), batch_size=4, num_workers=2, "
        f"multiprocessing_context={method!r})\n"
        "print(sum(int(x.sum()) for (x,) in loader))"
    )
    assert run(engine, code) == "28\n"


def test_pyzmq_in_the_user_code_has_its_own_libzmq(engine):
    code = (
        "import zmq\nc = zmq.Context()\na = c.socket(zmq.PAIR); a.bind('inproc://x')\n"
        "b = c.socket(zmq.PAIR); b.connect('inproc://x'); a.send(b'hi'); print(b.recv(), "
        "zmq.zmq_version())"
    )
    import zmq

    assert run(engine, code) == f"b'hi' {zmq.zmq_version()}\n"


def test_a_figure_is_shown_as_a_picture(engine):
    code = "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])"
    result = engine.execute(code, silent=False)
    result.get(60)
    result.wait_for_output(5)
    assert any("image/png" in output["data"] for output in result.outputs)


def test_signal_0_asks_whether_the_engine_is_there(engine):
    engine.client.send_signal(0, block=True)
    assert engine.apply_sync(lambda: 1) == 1


def test_heartbeats_go_on_while_c_code_holds_the_gil(cluster: Cluster):
    cluster.start_controller("--HeartMonitor.max_heartmonitor_misses=2", "--ping=200")
    cluster.start_engine()
    client = cluster.client(1)

    def hold_the_gil():
        import ctypes

        ctypes.PyDLL(None).sleep(4)
        return "done"

    result = client[0].apply_async(hold_the_gil)
    time.sleep(2)
    begin = time.monotonic()
    client.send_signal(signal.SIGCONT, block=True)
    assert time.monotonic() - begin < 1, "control requests wait for the GIL"
    assert result.get(10) == "done"
    assert client.ids == [0]


def test_startup_command_script_and_traits(cluster: Cluster, tmp_path: Path):
    script = tmp_path / "start.py"
    script.write_text("from_script = 2\n")
    cluster.start_controller()
    cluster.start_engine(
        "-c", "from_command = 1", "-s", str(script), "--InteractiveShell.colors=nocolor"
    )
    view = cluster.client(1)[0]
    assert run(view, "print(from_command, from_script, get_ipython().colors)") == "1 2 nocolor\n"


def test_an_exit_in_pythonstartup_ends_the_engine(cluster: Cluster, tmp_path: Path):
    startup = tmp_path / "startup.py"
    startup.write_text("import sys; sys.exit(5)\n")
    cluster.start_controller()
    engine = cluster.start_engine(env={**os.environ, "PYTHONSTARTUP": str(startup)})
    assert engine.wait(20) != 0


def test_sigterm_ends_an_idle_and_a_busy_engine(cluster: Cluster):
    cluster.start_controller()
    engines = [cluster.start_engine("--id", str(i)) for i in range(2)]
    client = cluster.client(2)
    client[1].execute("while True: pass")
    time.sleep(0.3)
    for engine in engines:
        engine.terminate()
    for engine in engines:
        assert engine.wait(7) == 128 + signal.SIGTERM
    wait_for(lambda: client.ids == [], 5)


def test_exit_handlers_run_at_the_end(cluster: Cluster, tmp_path: Path):
    mark = tmp_path / "mark"
    cluster.start_controller()
    engine = cluster.start_engine()
    view = cluster.client(1)[0]
    run(view, f"import atexit, pathlib; atexit.register(pathlib.Path({str(mark)!r}).touch)")
    engine.terminate()
    engine.wait(10)
    assert mark.exists()


def test_the_engine_ends_with_its_controller(cluster: Cluster):
    controller = cluster.start_controller()
    engine = cluster.start_engine("--controller-patience=1")
    cluster.client(1)
    controller.kill()
    assert engine.wait(15) == 255
    assert "the connection to the controller has been down for 1 s" in engine.log.read_text()


def test_the_registration_does_not_wait_for_the_next_heartbeat(cluster: Cluster):
    cluster.start_controller("--ping=3600000")
    cluster.start_engine()
    assert cluster.client(1).ids == [0]


@pytest.mark.parametrize("what", ["imports", "startup"])
def test_an_engine_that_starts_slower_than_the_controller_waits_registers(
    cluster: Cluster, tmp_path: Path, what: str
):
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(
        "import sys, time\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'IPython':\n"
        "            sys.meta_path.remove(self)\n"
        "            time.sleep(6)\n"
        "sys.meta_path.insert(0, Slow())\n"
    )
    cluster.start_controller("--IPController.registration_timeout=3")
    if what == "imports":
        engine = cluster.start_engine(env={**os.environ, "PYTHONPATH": str(slow)})
    else:
        engine = cluster.start_engine("-c", "import time; time.sleep(6)")
    client = cluster.client(1)
    assert client[0].apply_sync(lambda: 5) == 5
    assert client.ids == [0]
    waits = {"imports": "Python's imports before registering", "startup": "startup code"}
    assert f"waiting for {waits[what]}" in engine.log.read_text()
    assert "never answered" not in cluster.processes[0].log.read_text()


def test_the_log_says_when_the_registration_is_complete(cluster: Cluster):
    cluster.start_controller()
    engine = cluster.start_engine()
    cluster.client(1)
    wait_for(lambda: "Completed registration with id 0" in engine.log.read_text(), 5)


# --- one clear line for what is wrong ----------------------------------------------------------


def last_line(process) -> str:
    process.wait(30)
    assert process.returncode != 0
    return process.log.read_text().strip().splitlines()[-1]


def log_text(process) -> str:
    process.wait(30)
    assert process.returncode != 0
    return process.log.read_text()


def test_no_connection_file(cluster: Cluster):
    engine = cluster.start_engine("--IPEngine.wait_for_url_file=0.1")
    line = last_line(engine)
    assert str(cluster.connection_file("engine")) in line
    assert line.endswith("No such file or directory; is a controller running with this profile?")


def test_a_damaged_connection_file(cluster: Cluster):
    cluster.start_controller()
    path = cluster.connection_file("engine")
    info = json.loads(path.read_text())
    del info["mux"]
    path.write_text(json.dumps(info))
    assert last_line(cluster.start_engine()).endswith("can't be used: it has no entry 'mux'")
    path.write_text("{")
    engine = cluster.start_engine("--IPEngine.wait_for_url_file=0.5")
    assert "is not valid JSON; is a controller running with this profile?" in last_line(engine)


def test_a_connection_file_that_is_just_being_written_is_waited_for(cluster: Cluster):
    cluster.start_controller()
    whole = cluster.connection_file("engine").read_text()
    path = cluster.folder / "slow.json"
    path.write_text("")
    engine = cluster.start_engine(f"--file={path}")
    log = engine.log
    wait_for(lambda: "is empty" in log.read_text(), 10)
    path.write_text(whole[: len(whole) // 2])
    wait_for(lambda: "is not valid JSON" in log.read_text(), 10)
    path.write_text(whole)
    assert cluster.client(1).ids == [0]
    assert "waiting up to 10 s for the controller's file" in log.read_text()


def test_a_wrong_key_of_an_engine(cluster: Cluster):
    controller = cluster.start_controller()
    path = cluster.connection_file("engine")
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "key": "wrong"}))
    text = log_text(cluster.start_engine())
    assert f"The key in {path} is not that of the controller at tcp://127.0.0.1:" in text
    assert "its signature is wrong" in controller.log.read_text()


def test_a_wrong_key_of_a_client_fails_at_once(cluster: Cluster):
    cluster.start_controller()
    path = cluster.connection_file("client")
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "key": "wrong"}))
    begin = time.monotonic()
    with pytest.raises(ValueError, match="Invalid Signature"):
        cluster.client()
    assert time.monotonic() - begin < 3


def test_no_controller_at_the_address(cluster: Cluster):
    controller = cluster.start_controller()
    info = cluster.connection_file("engine").read_text()
    controller.terminate()
    controller.wait()
    engine = cluster.start_engine("--timeout=1", env={**os.environ, "IPP_CONNECTION_INFO": info})
    assert "did not answer the registration within 1 s" in log_text(engine)


def test_an_interpreter_that_does_not_exist(cluster: Cluster):
    assert "there is no such program" in last_line(cluster.start_engine("--python", "/no/python"))
    assert "does not behave like a Python" in last_line(cluster.start_engine("--python=/bin/true"))


@pytest.mark.parametrize(
    ("package", "version", "line"),
    [
        (
            "ipykernel",
            "6.8.0",
            "ipykernel 6.8.0 of {python} is too old: an engine needs 6.9 or later",
        ),
        ("jupyter_client", "6.1.12", "jupyter_client 6.1.12 of {python} is too old"),
        ("ipykernel", "", "can't host an engine: "),
    ],
)
def test_packages_that_can_not_host_an_engine_are_named_in_a_line(
    cluster: Cluster, tmp_path: Path, package: str, version: str, line: str
):
    stand_in = tmp_path / "packages" / package
    stand_in.mkdir(parents=True)
    says = (
        f"__version__ = {version!r}" if version else "__version__ = '99.0'; from os import nothing"
    )
    (stand_in / "__init__.py").write_text(says + "\n")
    cluster.start_controller()
    engine = cluster.start_engine(env={**os.environ, "PYTHONPATH": str(stand_in.parent)})
    said = last_line(engine)
    assert said.startswith("dipengine: ")
    assert line.format(python=BIN / "python") in said.replace("python3", "python")


def test_an_environment_without_our_package(cluster: Cluster):
    cluster.start_controller()
    engine = cluster.start_engine("--python", sys._base_executable)
    text = log_text(engine)
    assert f"{sys._base_executable} has no module" in text
    assert "-m pip install" in text


@pytest.mark.parametrize("program", ["dipcontroller", "dipengine", "dipcluster"])
def test_help_version_and_unknown_options(program):
    def call(*args: str) -> subprocess.CompletedProcess:
        return subprocess.run([BIN / program, *args], capture_output=True, text=True, timeout=10)

    import ddipp

    assert call("--version").stdout.strip() == ddipp.__version__
    assert "--" in call("--help").stdout
    wrong = call(*(["start"] if program == "dipcluster" else []), "--nonsense")
    assert wrong.returncode != 0
    assert "--nonsense" in wrong.stderr + wrong.stdout


def test_a_port_in_use_is_named(cluster: Cluster):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        controller = cluster.spawn("dipcontroller", f"--ports={port}")
        assert f"can't listen on tcp://127.0.0.1:{port}" in last_line(controller)


# --- every CPython that is found ---------------------------------------------------------------


def other_pythons() -> list[Path]:
    return [path for version, path in pythons().items() if version != sys.version_info[:2]]


@pytest.fixture
def our_packages(tmp_path: Path) -> dict[str, str]:
    return with_our_packages(tmp_path / "packages")


@pytest.mark.parametrize("python", other_pythons(), ids=lambda path: path.parts[-3])
def test_another_cpython_is_hosted_by_the_same_program(cluster, our_packages, python):
    hosted = environment(python, python.parts[-3], "ipyparallel", "ipykernel")
    cluster.start_controller()
    cluster.start_engine("--python", str(hosted), env=our_packages)
    view = cluster.client(1)[0]
    code = "import sys; print(sys.prefix, *sys.version_info[:2])"
    plain = subprocess.check_output([hosted, "-c", code], text=True)
    assert run(view, code) == plain
    code = (
        "import multiprocessing as mp\n"
        "with mp.get_context('spawn').Pool(1) as pool: print(pool.map(abs, [-1]))"
    )
    assert run(view, code) == "[1]\n"
    result = view.execute("1 / 0", silent=False)
    with pytest.raises(ipyparallel.error.RemoteError, match="ZeroDivisionError"):
        result.get(10)


@pytest.mark.parametrize("version", OLD_CLIENTS)
def test_client_and_engine_packages_of_an_older_ipyparallel(cluster, our_packages, version):
    python = old_client(version)
    if python is None:
        pytest.skip(f"no CPython is old enough for ipyparallel {version}")
    cluster.start_controller()
    for _ in range(2):
        cluster.start_engine("--python", str(python), env=our_packages)
    done = subprocess.run(
        [python, SMOKE_CLIENT, cluster.connection_file("client")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    report = json.loads(done.stdout)
    assert report["client"] == version
    assert len(report["outcomes"]) > 10
    failed = {name: why for name, why in report["outcomes"].items() if why != "passed"}
    assert failed == {}
