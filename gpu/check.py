"""What can only be checked on GPUs: binding, NCCL groups that fail and recover, memory, speed.

    make gpu-check

Prints a table, a row a check, and exits with 1 if one fails. ``--rehearse`` does what can be done
of it on CPU ranks, to see that the build is sound. With one GPU two ranks share it for the checks
that need a peer: NCCL allows that to ranks which it takes for two hosts (``NCCL_HOSTID``).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import ctypes
import faulthandler
import io
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
import psutil
from ddipp import CellFailed, DdippError, Group
from ddipp.errors import DevicesLost
from ddipp.shared.devices import gpu_count, gpu_uuids

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
STEP = ROOT / "bench" / "ddp_step_gpu.py"
STEP_LIMIT = 1.01  # times the same script under torchrun
PROMPT_S = 2.0
CHECK_S = 180  # what a check may take
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
            )  # fmt: skip
        client = stack.enter_context(contextlib.closing(ipyparallel.Client(str(file), timeout=60)))
        client.wait_for_engines(2, timeout=60, interactive=False)
        group = Group.attach(client, [0, 1], backend="nccl")
        try:
            yield group
        except BaseException:
            print(*group.reports(), sep="\n")
            print(*Path(folder, "dipengine.log").read_text(errors="replace").splitlines()[-20:],
                  sep="\n")  # fmt: skip
            raise
        finally:
            group.shutdown()


# --- checks -------------------------------------------------------------------------------------


def build() -> str:
    """The plug-in is there and was built against this torch."""
    with Group.start(gpus="all") as group:
        group.run(
            "from ddipp.on_rank import plugin\nloaded, problem = plugin.load()\n"
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
        contexts = [processes_on(gpu) for gpu in range(gpu_count())]
    for rank, (current, local_rank, uuid, _) in enumerate(places):
        need(current == local_rank == rank, f"rank {rank} is on device {current}")
        need(uuid == gpu_uuids()[wish[rank]], f"rank {rank} is on {uuid}")
    if not any(pid in pids for *_, pid in places for pids in contexts):
        return f"GPUs {wish}; the driver does not show our contexts"  # every rank has one
    for rank, (*_, pid) in enumerate(places):
        gpus = [gpu for gpu, pids in enumerate(contexts) if pid in pids]
        need(
            gpus == [wish[rank]], f"rank {rank}, pid {pid}, has contexts on GPUs {gpus}: {contexts}"
        )
    return f"GPUs {wish}, contexts on no other"


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
            "from ddipp.on_rank import plugin\nloaded, problem = plugin.load()\n"
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


def fault(cell: str, says: str, interrupt: bool = False) -> Callable[[], str]:
    """Return a check: a cell in which rank 0 waits for ever for rank 1, three times."""

    def check() -> str:
        with two_ranks() as group:
            group.run(f"kept = rank + 10\n{WORKS}")
            need(all(report.gpu for report in group.reports()), "a report has no GPU figures")
            for _ in range(3):
                begin = time.monotonic()
                if interrupt:
                    threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
                text = failure_of(
                    group, f"x = torch.ones(1024, device=device)\n{cell}\n{WAITS}\nwent_on = True"
                )
                prompt = time.monotonic() - begin - (0.7 if interrupt else 0)
                need(says in text, text)
                group.run(WORKS)
                works = time.monotonic() - begin - (0.7 if interrupt else 0)
                need(group.pull(["kept"])["kept"] == 10, "rank 0 lost a variable")
                group.run("assert 'went_on' not in globals()")
        limit = 30.0 if "kill" in cell else PROMPT_S
        need(prompt <= limit, f"{prompt:.1f} s to the prompt")
        return f"{prompt:.2f} s to the prompt, {works:.2f} s until the group works"

    return check


def failure_of(group: Group, cell: str) -> str:
    """Return what is said of a cell that has to fail."""
    try:
        group.run(cell)
    except CellFailed as failure:
        return str(failure)
    raise Failed("the cell did not fail")


def training() -> str:
    """A rank raises in a training: its model is whole, and training on gives the same losses."""
    with two_ranks() as group:
        group.run(TRAINING)
        group.run("train(30)")
        undisturbed = losses_of(group)
        group.run(TRAINING)
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            # Nothing in it waits for the GPU, so rank 0 queues all steps.
            failure_of(group, "train(30, fail_at=20)")
        need("%dipsync --from 1 model" in said.getvalue(), said.getvalue())
        group.sync(["model", "optimizer", "done"], source=1)
        group.run("train(30)")
        disturbed = losses_of(group)
    need(len(disturbed) == 30, f"{len(disturbed)} losses")
    off = max(abs(one - other) / abs(one) for one, other in zip(undisturbed, disturbed))
    need(off < 1e-5, f"the losses differ by {off:.1e}: {undisturbed}, {disturbed}")
    return f"30 losses, the last {disturbed[-1]:.6f}; they differ by {off:.0e} at most"


def losses_of(group: Group) -> list[float]:
    group.run("values = torch.stack(losses).tolist()")
    return list(group.pull(["values"], 1)["values"])


def groups() -> str:
    """What the user holds of other groups works after a fault in one of them."""
    use = (
        "y = torch.ones(1, device=device)\nfor one in (side, mesh.get_group()):\n"
        "    dist.all_reduce(y, group=one)\nassert y.item() == 4"
    )
    with two_ranks() as group:
        group.run(
            "from torch.distributed.device_mesh import init_device_mesh\n"
            f"side = dist.new_group([0, 1])\nmesh = init_device_mesh('cuda', (2,))\n{use}"
        )
        cell = "if rank == 1: raise ValueError\ndist.all_reduce(y, group=side)\ny.item()"
        for _ in range(2):
            need("rank 0 aborted in" in failure_of(group, cell), "not aborted")
            group.run(use)
    return "new_group and a device mesh"


def lost_device() -> str:
    """A rank whose GPU refuses all work after an assertion is named, and renewed."""
    with two_ranks() as group:
        group.run(f"kept = [rank]\n{WORKS}")
        text = failure_of(
            group,
            "if rank == 1:\n    index = torch.tensor([7], device=device)\n"
            "    print(torch.zeros(3, device=device)[index].sum().item())\n"
            "y = torch.ones(1, device=device)\ndist.all_reduce(y)\ny.item()",
        )
        need("rank 1 raised" in text and "rank 0 aborted" in text, text)
        try:
            group.run("1")
        except DevicesLost as error:
            need(error.ranks == [1], str(error))
            text = str(error)
        else:
            raise Failed("the group formed without the GPU of rank 1")
        need(group.pull(["kept"], 1)["kept"] == [1], "a variable in main memory is lost")
        group.renew()
        group.run(f"{WORKS}\nassert rank == 1 or kept == [0]")
    return text.partition("(")[2].partition(")")[0]


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
    for _ in range(5):
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
TRAINING = """
torch.manual_seed(0)
layers = [torch.nn.Linear(1024, 1024) for _ in range(8)]
model = torch.nn.Sequential(*layers).to(device)
model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[device.index])
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
done, losses = 0, []

def batch(number):
    generator = torch.Generator().manual_seed(2 * number + rank)
    return torch.randn(64, 1024, generator=generator).to(device, non_blocking=True)

def train(end, fail_at=None):
    global done
    while done < end:
        if done == fail_at and rank == 1:
            raise ValueError
        optimizer.zero_grad()
        loss = (model(batch(done)) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        done += 1
"""
CHECKS: dict[str, Callable[[], str]] = {
    "build": build,
    "form": form,
    "binding": binding,
    "a rank raises": fault(
        "if rank == 1: raise ValueError",
        "rank 1 raised ValueError; rank 0 aborted in all_reduce #2 because rank 1 raised",
    ),
    "Ctrl-C": fault("import time\nif rank == 1: time.sleep(600)", "interrupted", interrupt=True),
    "a rank dies": fault("import os\nif rank == 1: os.kill(os.getpid(), 9)", "rank 1 died"),
    "other groups": groups,
    "training goes on": training,
    "a GPU is lost": lost_device,
    "memory": memory,
    "step": step,
}
REHEARSAL = {"rehearsal": rehearsal}
ALONE = ("binding", "memory", "step")  # they want the whole machine


def run_here(name: str) -> int:
    """Do one check in this process; the last line says what came of it."""
    faulthandler.dump_traceback_later(CHECK_S)
    try:
        print((CHECKS | REHEARSAL)[name]())
    except (Failed, DdippError, ipyparallel.error.IPythonError) as error:
        print(error)
        return 1
    return 0


def run_apart(name: str) -> bool:
    """Do one check in a process of its own, so that one that crashes or hangs is only one."""
    begin = time.monotonic()
    command = [sys.executable, __file__, "--only", name]
    process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = process.communicate(timeout=CHECK_S + 5)
    except subprocess.TimeoutExpired:
        for one in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        out, err = process.communicate()
        out += f"\nnot done after {CHECK_S} s"
    lines = out.strip().splitlines() or ["it printed nothing"]
    verdict = "FAILED" if process.returncode else "ok"
    shown = [f"{name:24}{verdict:8}{time.monotonic() - begin:4.0f} s  {lines[-1]}"]
    if process.returncode:
        shown += [*lines[-40:-1], *err.splitlines()[-40:]]
    print("\n    ".join(shown), flush=True)
    return bool(process.returncode == 0)


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
    together = [name for name in checks if name not in ALONE]
    cores = len(os.sched_getaffinity(0))
    with concurrent.futures.ThreadPoolExecutor(max(1, cores // 4)) as pool:
        passed = list(pool.map(run_apart, together))
    passed += [run_apart(name) for name in checks if name in ALONE]
    failed = passed.count(False)
    print(f"gpu-check: {failed} of {len(checks)} checks failed" if failed else "gpu-check: passed")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
