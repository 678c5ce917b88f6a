"""Faults at random moments of a training, again and again, without one hang, loss or orphan.

``make test`` runs a few rounds; ``make soak`` a hundred of each kind (``DDIPP_FAULT_ROUNDS``). The
times from the fault to the prompt are shown; what they have to be is measured by ``make bench``.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from ddipp import CellFailed, CellInterrupted, Group

ROUNDS = int(os.environ.get("DDIPP_FAULT_ROUNDS", "5"))
#: A cell that takes longer than this from the fault to the prompt has hung.
HANG_S = 20.0

TRAINING = """
import os, signal, time
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
model = torch.nn.parallel.DistributedDataParallel(net)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
large = torch.zeros(4_000_000)
kept, steps, fault, number = rank + 10, 0, None, -1

def at(place):
    global fault_at
    if fault is None or (rank, number, place) != fault[:3]:
        return
    fault_at = time.monotonic()
    kind = fault[3]
    if kind == "error":
        raise ValueError(place)
    if kind == "exit":
        os._exit(3)
    os.kill(os.getpid(), getattr(signal, kind))

def watched(gradient):
    at("backward")
    return gradient

def train(count):
    global number, steps
    net[0].weight._backward_hooks = None
    net[0].weight.register_hook(watched)
    for number in range(count):
        at("start")
        x = torch.randn(8, 16)
        optimizer.zero_grad()
        loss = model(x).square().mean()
        at("forward")
        loss.backward()
        at("after backward")
        if number % 3 == 0:
            dist.all_reduce(loss.detach())
        elif number % 3 == 1:
            dist.broadcast(large, number % world_size)
        at("after all_reduce")
        optimizer.step()
        steps += 1
"""
PLACES = ("start", "forward", "backward", "after backward", "after all_reduce")
CHECK = """
y = torch.ones(2)
dist.all_reduce(y)
assert y[0].item() == world_size
"""


class Training:
    """A training on some ranks, and what must hold after each fault."""

    def __init__(self, ranks: int, seed: int) -> None:
        self.group = Group.start(ranks=ranks)
        self.random = random.Random(seed)
        self.group.run(TRAINING)
        self.processes = self.count_processes()
        self.prompt_s: list[float] = []
        self.works_s: list[float] = []

    @staticmethod
    def count_processes() -> int:
        return len(psutil.Process().children(recursive=True))

    def fails(self, code: str) -> CellFailed:
        with pytest.raises(CellFailed) as caught:
            self.group.run(code)
        return caught.value

    def note(self, fault_at: float) -> None:
        """Take the times, and check that nothing is lost and nothing is left."""
        prompt = time.monotonic()
        self.group.run(CHECK)
        works = time.monotonic()
        self.prompt_s.append(prompt - fault_at)
        self.works_s.append(works - fault_at)
        assert prompt - fault_at < HANG_S
        assert self.count_processes() == self.processes

    def check_kept(self, ranks: list[int]) -> None:
        for rank in ranks:
            assert self.group.pull(["kept"], rank)["kept"] == rank + 10

    def equal_models(self) -> None:
        """After an interrupt or death ranks may differ by a step; go on from rank 0."""
        self.group.sync(["net", "model", "optimizer"], source=0)
        self.group.run("fault = None\ntrain(2)")

    def report(self, kind: str) -> str:
        def figures(times: list[float]) -> str:
            return f"median {statistics.median(times):.2f} s, worst {max(times):.2f} s"

        return (
            f"\n{self.group.world_size} ranks, {len(self.prompt_s)} x {kind}: to the prompt "
            f"{figures(self.prompt_s)}; until the group works {figures(self.works_s)}"
        )


@pytest.fixture(params=[2, 4], ids=["2 ranks", "4 ranks"])
def training(request: pytest.FixtureRequest, ipython_dir: object) -> Iterator[Training]:
    running = Training(request.param, seed=1)
    yield running
    running.group.shutdown()
    assert not [child for child in psutil.Process().children() if child.is_running()]


def show(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        print(text, flush=True)


@pytest.mark.timeout(60 + 30 * ROUNDS)
def test_errors_at_random_moments(training: Training, capsys):
    for _ in range(ROUNDS):
        victim = training.random.randrange(training.group.world_size)
        place = training.random.choice(PLACES)
        number = training.random.randrange(20)
        error = training.fails(f"fault = ({victim}, {number}, {place!r}, 'error')\ntrain(20)")
        assert str(error).startswith(f"rank {victim} raised ValueError"), str(error)
        done = time.monotonic()
        training.note(done)  # for the checks
        training.prompt_s[-1] = done - training.group.pull(["fault_at"], victim)["fault_at"]
        training.check_kept(list(range(training.group.world_size)))
        training.equal_models()
    show(capsys, training.report("error"))


@pytest.mark.timeout(60 + 30 * ROUNDS)
def test_interrupts_at_random_moments(training: Training, capsys):
    for _ in range(ROUNDS):
        sent: list[float] = []

        def interrupt(sent: list[float] = sent) -> None:
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(0.05 + training.random.random() * 0.5, interrupt)
        timer.start()
        error = training.fails("fault = None\ntrain(1_000_000)")
        timer.join()
        assert isinstance(error, CellInterrupted)
        training.note(sent[0])
        training.check_kept(list(range(training.group.world_size)))
        training.equal_models()
    show(capsys, training.report("interrupt"))


@pytest.mark.timeout(60 + 30 * ROUNDS)
def test_deaths_at_random_moments(training: Training, capsys):
    everyone = list(range(training.group.world_size))
    for _ in range(ROUNDS):
        victim = training.random.choice(everyone)
        kind = training.random.choice(["SIGKILL", "SIGSEGV", "SIGABRT", "exit"])
        if training.random.random() < 0.5:  # in the middle of something
            pid = training.group.reports(stack=False)[victim].pid
            sent: list[float] = []

            def kill(pid: int = pid, sent: list[float] = sent) -> None:
                sent.append(time.monotonic())
                os.kill(pid, signal.SIGKILL)

            timer = threading.Timer(0.05 + training.random.random() * 0.4, kill)
            timer.start()
            error = training.fails("fault = None\ntrain(1_000_000)")
            timer.join()
            fault_at = sent[0]
        else:
            fault_at = time.monotonic()
            place = training.random.choice(PLACES)
            number = training.random.randrange(20)
            error = training.fails(f"fault = ({victim}, {number}, {place!r}, {kind!r})\ntrain(20)")
        assert str(error).startswith(f"rank {victim} died: it "), (str(error), str(error.errors))
        training.note(fault_at)
        training.check_kept([rank for rank in everyone if rank != victim])
        training.group.sync()
        training.group.run("kept, fault = rank + 10, None\ntrain(2)")
        training.equal_models()
    show(capsys, training.report("death"))
