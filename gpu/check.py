"""What can only be checked on GPUs: binding, NCCL groups that fail and recover, memory, speed.

    make gpu-check

Prints a table, a row a check, and exits with 1 if one fails. ``--rehearse`` does what can be done
of it on CPU ranks, to see that the build is sound. With one GPU two ranks share it for the checks
that need a peer: NCCL allows that to ranks which it takes for two hosts (``NCCL_HOSTID``).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ipyparallel
from ddipp import CellFailed, DdippError, Group
from ddipp.devices import gpu_count, gpu_uuids

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
STEP = ROOT / "bench" / "ddp_step_gpu.py"
STEP_LIMIT = 1.01  # times the same script under torchrun
PROMPT_S = 2.0
CHECK_S = 120  # what a check may take
WORKS = "y = torch.ones(1, device=device)\ndist.all_reduce(y)\nassert y.item() == world_size"


class Failed(Exception):
    """A check that did not hold."""


def need(condition: bool, what: str) -> None:
    if not condition:
        raise Failed(what)


# --- groups -------------------------------------------------------------------------------------


@contextlib.contextmanager
def two_ranks() -> Iterator[Group]:
    """Two ranks on two GPUs, or on one that they share."""
    if gpu_count() >= 2:
        with Group.start(gpus=[0, 1]) as group:
            yield group
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:

        def start(program: str, *options: str, **extra: str) -> None:
            command = [str(BIN / program), "--profile-dir", folder, *options]
            log = stack.enter_context((Path(folder) / f"{program}.log").open("ab"))
            process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **extra})
            stack.callback(process.wait)
            stack.callback(process.terminate)

        start("dipcontroller")
        file = Path(folder) / "security" / "ipcontroller-client.json"
        while not file.exists():
            time.sleep(0.01)
        for rank in range(2):
            start(
                "dipengine", "--python", sys.executable, "--restart=on-failure", f"--id={rank}",
                CUDA_VISIBLE_DEVICES="0", NCCL_HOSTID=f"ddipp-{rank}",
                TORCH_NCCL_ASYNC_ERROR_HANDLING="2", TORCH_NCCL_ENABLE_MONITORING="0",
            )  # fmt: skip
        client = stack.enter_context(contextlib.closing(ipyparallel.Client(str(file), timeout=60)))
        client.wait_for_engines(2, timeout=60, interactive=False)
        try:
            yield Group.attach(client, [0, 1], backend="nccl")
        except BaseException:
            print(*Path(folder, "dipengine.log").read_text(errors="replace").splitlines()[-30:],
                  sep="\n")  # fmt: skip
            raise


# --- checks -------------------------------------------------------------------------------------


def build() -> str:
    """The plug-in is there and was built against this torch."""
    with Group.start(gpus="all") as group:
        group.run(
            "from ddipp import plugin\nloaded, problem = plugin.load()\n"
            "assert loaded is not None, problem\n"
            "versions = torch.__version__, '.'.join(map(str, torch.cuda.nccl.version()))"
        )
        torch_version, nccl = group.pull(["versions"])["versions"]
    return f"torch {torch_version}, NCCL {nccl}"


def form() -> str:
    """A NCCL group of all GPUs."""
    begin = time.monotonic()
    with Group.start(gpus="all") as group:
        group.run(WORKS)
        seconds = time.monotonic() - begin
        need(group.world_size == gpu_count(), "not one rank a GPU")
        group.run("assert dist.get_backend() == 'nccl'")
        return f"{group.world_size} ranks, {seconds:.1f} s from nothing to the first all_reduce"


def binding() -> str:
    """Each rank has its own GPU, in the order asked for, and no context on another."""
    wish = list(reversed(range(gpu_count())))
    with Group.start(gpus=wish) as group:
        group.run(WORKS)
        group.run(
            "import os\nuuid = 'GPU-' + str(torch.cuda.get_device_properties(device).uuid)\n"
            "place = torch.cuda.current_device(), int(os.environ['LOCAL_RANK']), uuid, os.getpid()"
        )
        places = [group.pull(["place"], rank)["place"] for rank in range(group.world_size)]
    for rank, (current, local_rank, uuid, _) in enumerate(places):
        need(current == local_rank == rank, f"rank {rank} is on device {current}")
        need(uuid == gpu_uuids()[wish[rank]], f"rank {rank} is on {uuid}")
    contexts = [processes_on(gpu) for gpu in range(gpu_count())]
    if any(contexts):  # not visible in every container
        for rank, (*_, pid) in enumerate(places):
            gpus = [gpu for gpu, pids in enumerate(contexts) if pid in pids]
            need(gpus == [wish[rank]], f"rank {rank} has contexts on GPUs {gpus}")
    return f"GPUs {wish}"


def processes_on(gpu: int) -> list[int]:
    """Return the processes that compute on a GPU, as the driver knows them."""

    class Process(ctypes.Structure):
        _fields_ = (
            ("pid", ctypes.c_uint),
            ("memory", ctypes.c_ulonglong),
            ("instance", ctypes.c_uint),
            ("compute", ctypes.c_uint),
        )

    nvml = ctypes.CDLL("libnvidia-ml.so.1")
    nvml.nvmlInit_v2()
    device, count = ctypes.c_void_p(), ctypes.c_uint(64)
    found = (Process * 64)()
    nvml.nvmlDeviceGetHandleByIndex_v2(gpu, ctypes.byref(device))
    if nvml.nvmlDeviceGetComputeRunningProcesses_v3(device, ctypes.byref(count), found) != 0:
        return []
    return [process.pid for process in found[: count.value]]


def rehearsal() -> str:
    """The plug-in works with this torch, and a group of CPU ranks recovers."""
    with Group.start(ranks=2) as group:
        group.run(
            "from ddipp import plugin\nloaded, problem = plugin.load()\n"
            f"assert loaded is not None, problem\nversion = torch.__version__\n{WORKS}"
        )
        try:
            group.run(f"x = torch.ones(1)\nif rank == 1: raise ValueError\n{WAITS}")
        except CellFailed as failure:
            need("rank 0 aborted in all_reduce #2" in str(failure), str(failure))
        else:
            raise Failed("the cell did not fail")
        group.run(WORKS)
        return f"torch {group.pull(['version'])['version']}, 2 CPU ranks"


def fault(cell: str, cause: str, interrupt: bool = False) -> Callable[[], str]:
    def check() -> str:
        with two_ranks() as group:
            group.run(f"kept = rank + 10\n{WORKS}")
            need(all(report.gpu for report in group.reports()), "a report has no GPU figures")
            for _ in range(3):
                if interrupt:
                    threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
                begin = time.monotonic()
                try:
                    group.run(f"x = torch.ones(1024, device=device)\n{cell}")
                except CellFailed as failure:
                    prompt = time.monotonic() - begin - (0.7 if interrupt else 0)
                    need(cause in str(failure), str(failure))
                else:
                    raise Failed("the cell did not fail")
                group.run(WORKS)
                works = time.monotonic() - begin - (0.7 if interrupt else 0)
                need(group.pull(["kept"])["kept"] == 10, "rank 0 lost a variable")
        limit = 60.0 if "kill" in cell else PROMPT_S
        need(prompt <= limit, f"{prompt:.1f} s to the prompt")
        return f"{prompt:.2f} s to the prompt, {works:.2f} s until the group works"

    return check


def memory() -> str:
    """What a cell that runs out of memory held is free after it."""
    with Group.start(gpus="all") as group:
        group.run(WORKS)
        group.run("before = torch.cuda.memory_reserved()")
        try:
            group.run(
                "def hold():\n    held = []\n"
                "    while True:\n"
                "        held.append(torch.empty(2**30, dtype=torch.uint8, device=device))\n"
                "hold()"
            )
        except CellFailed as failure:
            need("OutOfMemoryError" in str(failure), str(failure))
        group.run("after = torch.cuda.memory_reserved()")
        both = group.pull(["before", "after"])
        need(both["after"] <= both["before"] + 2**26, f"{both['after'] / 2**30:.1f} GiB still held")
        used = group.reports()[0].gpu
        need(used is not None, "the report shows no GPU figures")
    return f"{both['after'] / 2**20:.0f} MiB reserved after, {both['before'] / 2**20:.0f} before"


def step() -> str:
    """A step of DDP in an engine and under torchrun, alternating."""
    ours, theirs = [], []
    for _ in range(3):
        with Group.start(gpus="all") as group:
            group.run(STEP.read_text())
            ours.append(1000 * float(group.pull(["median_s"])["median_s"]))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        done = subprocess.run(
            [*command, f"--nproc-per-node={gpu_count()}", STEP],
            capture_output=True,
            text=True,
            check=False,
        )
        need(done.returncode == 0, done.stderr[-2000:])
        theirs.append(1000 * float(done.stdout.split()[-1]))
    ratio = statistics.median(one / other for one, other in zip(ours, theirs))
    each = " ".join(f"{one:.3f}/{other:.3f}" for one, other in zip(ours, theirs))
    text = f"{ratio:.3f} times torchrun (ms: {each})"
    need(ratio <= STEP_LIMIT, text)
    return text


WAITS = "dist.all_reduce(x)\nx.sum().item()"
CHECKS: dict[str, Callable[[], str]] = {
    "build": build,
    "form": form,
    "binding": binding,
    "abort, a rank raises": fault(f"if rank == 1: raise ValueError\n{WAITS}", "rank 1 raised"),
    "abort, Ctrl-C": fault(
        f"import time\nif rank == 1: time.sleep(600)\n{WAITS}", "interrupted", interrupt=True
    ),
    "abort, a rank dies": fault(
        f"import os\nif rank == 1: os.kill(os.getpid(), 9)\n{WAITS}", "rank 1 died"
    ),
    "memory": memory,
    "step": step,
}


REHEARSAL = {"rehearsal": rehearsal}


def run_here(name: str) -> int:
    """Do one check in this process; the last line says what came of it."""
    faulthandler.dump_traceback_later(CHECK_S, exit=True)
    try:
        print((CHECKS | REHEARSAL)[name]())
    except (Failed, DdippError, ipyparallel.error.IPythonError) as error:
        print(error)
        return 1
    return 0


def run_apart(name: str) -> bool:
    """Do one check in a process of its own, so that one that crashes or hangs is only one."""
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, __file__, "--only", name], capture_output=True, text=True, check=False
    )
    lines = done.stdout.strip().splitlines() or ["it printed nothing"]
    verdict = "FAILED" if done.returncode else "ok"
    print(f"{name:24}{verdict:8}{time.monotonic() - begin:4.0f} s  {lines[-1]}", flush=True)
    if done.returncode:
        print(*lines[-40:-1], *done.stderr.splitlines()[-40:], sep="\n    ", flush=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rehearse", action="store_true", help="on CPU ranks")
    parser.add_argument("--only", choices=[*CHECKS, *REHEARSAL], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        return run_here(args.only)
    checks = REHEARSAL if args.rehearse else CHECKS
    if gpu_count() == 0 and checks is CHECKS:
        print("gpu-check: skipped, there is no NVIDIA GPU on this machine")
        return 0
    failed = sum(not run_apart(name) for name in checks)
    print(f"gpu-check: {failed} of {len(checks)} checks failed" if failed else "gpu-check: passed")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
