"""What is done with NCCL for the peers of a failed rank; on CPU ranks, as far as that goes.

The GPUs themselves are seen by ``make gpu-check``.
"""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest
from ddipp import CellFailed, CellInterrupted, DdippError, Group
from ddipp.errors import DevicesLost
from ddipp.group.cell import summarize
from ddipp.group.peers import NcclPeers
from ddipp.group.report import RankReport


class StandIn:
    """A group whose ranks have begun so many collectives, and which notes what is done to them."""

    generation = 3

    def __init__(self, *collectives: int) -> None:
        self.collectives = list(collectives)
        self.dead: set[int] = set()
        self.settled: set[int] = set()
        self.done: list[Any] = []
        self.limits = SimpleNamespace(grace_s=10.0)
        self.ranks = self

    def reports(self, *, stack: bool) -> list[RankReport]:
        return [
            RankReport(rank, "dead")
            if rank in self.dead
            else RankReport(rank, "busy", collectives=begun)
            for rank, begun in enumerate(self.collectives)
        ]

    def living(self, ranks: list[int]) -> list[int]:
        return [rank for rank in ranks if rank not in self.dead]

    def start(self, rank: int, function: Any, *args: Any) -> Any:
        return SimpleNamespace(ready=lambda: rank in self.settled)

    def forget(self, results: list[Any]) -> None:
        self.done.append(("forget", len(results)))

    def signal(self, sig: int, ranks: list[int]) -> None:
        self.done.append((sig, ranks))

    def cut(self, ranks: list[int]) -> None:
        self.done.append(("cut", ranks))


@pytest.fixture(autouse=True)
def _look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NcclPeers, "_PERIOD_S", 0.0)


def test_peers_are_aborted_once_the_failed_rank_has_settled():
    group = StandIn(7, 5, 5)
    peers = NcclPeers(group)
    peers.failed([1])
    peers.free([0, 2], [1])
    assert group.done == []  # of the five collectives some may still be under way
    group.settled.add(1)
    peers.free([0, 2], [1])
    assert group.done == [(signal.SIGINT, [0]), ("cut", [0])]
    group.done.clear()
    peers.free([0, 2], [1])
    assert group.done == [(signal.SIGINT, []), ("cut", [])]  # once is enough; rank 2 computes
    group.collectives[2] = 6
    peers.free([0, 2], [1])
    assert group.done[-1] == ("cut", [2])
    assert peers.aborted == {0: 6, 2: 6}
    peers.forget()
    assert group.done[-1] == ("forget", 1)


def test_a_failed_rank_that_waits_for_another_failed_one_is_not_waited_for():
    group = StandIn(7, 5, 4)
    peers = NcclPeers(group)
    peers.failed([1])
    peers.failed([2])
    group.settled.add(2)  # rank 1 can't: its fifth collective needs rank 2
    peers.free([0], [1, 2])
    assert group.done[-1] == ("cut", [0])


def test_peers_of_a_dead_rank_are_aborted_at_once():
    group = StandIn(7, 0)
    group.dead.add(1)
    peers = NcclPeers(group)
    peers.failed([])
    peers.free([0], [1])
    assert group.done == [(signal.SIGINT, [0]), ("cut", [0])]
    assert peers.aborted == {0: 0}


def test_the_collective_that_was_waited_for_is_named_not_the_last_one_queued():
    class ValueErrorThere(Exception):
        ename, evalue = "ValueError", ""

    class Interrupt(Exception):
        ename, evalue = "KeyboardInterrupt", ""

    reports = [
        RankReport(0, "idle", collective="all_reduce", number=9),
        RankReport(1, "idle", collective="all_reduce", number=5),
    ]
    errors: dict[int, Exception] = {1: ValueErrorThere(), 0: Interrupt()}
    ending = " because rank 1 raised ValueError"
    for aborted, said in [
        ({0: 6}, "rank 0 aborted in collective #6"),
        ({0: 9}, "rank 0 aborted in all_reduce #9"),
        ({0: 0}, "rank 0 aborted in all_reduce #9"),
        ({}, "rank 0 stopped"),
    ]:
        assert summarize(errors, reports, False, aborted).endswith(said + ending)


# --- on ranks ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cpu_group():
    with Group.start(ranks=2) as group:
        yield group


@pytest.fixture
def as_nccl(cpu_group, monkeypatch):
    """Treats cells as with NCCL; the group itself is Gloo's."""
    monkeypatch.setattr(cpu_group, "backend", "nccl")
    return cpu_group


def test_an_aborted_peer_is_named_with_its_collective(as_nccl):
    as_nccl.run("kept = rank")
    with pytest.raises(CellFailed) as failure:
        as_nccl.run("x = torch.ones(1)\nif rank == 1: raise ValueError\ndist.all_reduce(x)")
    assert "rank 0 aborted in all_reduce #1 because rank 1 raised ValueError" in str(failure.value)
    as_nccl.run("assert kept == rank\ndist.barrier()")


def test_an_interrupt_takes_peers_out_of_their_collective(as_nccl):
    with pytest.raises(CellInterrupted):
        as_nccl.run(
            "import time\nx = torch.ones(1)\nif rank == 1: time.sleep(60)\ndist.all_reduce(x)",
            timeout_s=0.5,
        )
    as_nccl.run("dist.barrier()")


def test_ranks_that_were_in_no_more_than_the_others_are_whole(cpu_group):
    cpu_group.run("alone = dist.new_group([1])\ndist.barrier()")
    assert cpu_group.generations._settle() == [0, 1]
    cpu_group.run("if rank == 1: dist.all_reduce(torch.ones(1), group=alone)")
    assert cpu_group.generations._settle() == [0]


def test_a_rank_without_its_gpu_is_named_and_renewed(cpu_group):
    cpu_group.run("kept = [rank]")
    cpu_group.run(
        "import ddipp.on_rank.membership as side\n"
        "if rank == 1: side.settle = lambda _: 'CUDA error: device-side assert triggered'"
    )
    with pytest.raises(CellFailed):
        cpu_group.run("raise ValueError")
    for _ in range(2):
        with pytest.raises(DevicesLost) as failure:
            cpu_group.run("1")
        assert str(failure.value) == (
            "rank 1 can't use its GPU any more (CUDA error: device-side assert triggered). What is "
            "in main memory is there: save what you need with %dipull -r 1 name, then let "
            "%makedip --renew start it again"
        )
    assert cpu_group.pull(["kept"], 1) == {"kept": [1]}
    cpu_group.renew()
    cpu_group.run("dist.barrier()\nassert ('kept' in globals()) == (rank == 0)")
    with pytest.raises(DdippError, match="all ranks can go on"):
        cpu_group.renew()


def test_models_go_on_though_their_group_was_ended_from_beside(cpu_group):
    """As the thread does that aborts without the plug-in."""
    cpu_group.run(
        "model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))\n"
        "import ddipp.on_rank.membership as side\n"
        "side.remember_group()\ndist.destroy_process_group()"
    )
    cpu_group.form()
    cpu_group.run("model(torch.ones(1, 2) * rank).sum().backward()")
    cpu_group.run("assert model.module.weight.grad.tolist() == [[0.5, 0.5]]")


def test_a_gpu_that_is_the_source_s_own_becomes_the_target_s_own(cpu_group):
    """What ``%dipsync`` copies names its GPU. There is none here: CUDA's answers are stood in."""
    cpu_group.run(
        "import io, pickle\n"
        "from unittest import mock\n"
        "from types import SimpleNamespace\n"
        "from ddipp.on_rank import held, share\n"
        "file = io.BytesIO()\n"
        "devices = torch.device('cuda', 1), torch.device('cuda', 0), torch.device('cpu')\n"
        "with mock.patch.multiple(torch.cuda, is_initialized=lambda: True,\n"
        "                         current_device=lambda: 1):\n"
        "    share._pickler(file, [], [], False).dump(devices)\n"
        "with mock.patch.object(torch.cuda, 'current_device', lambda: 3):\n"
        "    names = [str(one) for one in pickle.loads(file.getvalue())]\n"
        "assert names == ['cuda:3', 'cuda:0', 'cpu'], names\n"
        "parameter = SimpleNamespace(device=torch.device('cuda', 3))\n"
        "model = SimpleNamespace(parameters=lambda: iter([parameter]), device_ids=[1],\n"
        "                        output_device=1)\n"
        "held._follow_parameters(model)\n"
        "assert (model.device_ids, model.output_device) == ([3], 3)"
    )
