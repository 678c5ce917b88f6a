"""What is done with NCCL for the peers of a failed rank; on CPU ranks, as far as that goes.

The GPUs themselves are seen by ``make gpu-check``.
"""

from __future__ import annotations

from typing import Any

import pytest
from ddipp import CellFailed, CellInterrupted, DdippError, Group
from ddipp.errors import DevicesLost
from ddipp.group.failures import summarize
from ddipp.group.report import RankReport
from ddipp.recovery.actions import Cut, Interrupt, Settle
from ddipp.recovery.cell import CellFate
from ddipp.recovery.facts import Conduct, Outcome
from ddipp.recovery.policy import Policy

CAUSE, DEATH = Outcome.CAUSE, Outcome.DEATH


def fate(ranks: int) -> CellFate:
    return CellFate(range(ranks), 3, Policy(), Conduct(queued=True))


def seen(*collectives: int, dead: int | None = None) -> list[RankReport]:
    return [
        RankReport(rank, "dead") if rank == dead else RankReport(rank, "busy", collectives=begun)
        for rank, begun in enumerate(collectives)
    ]


def test_peers_are_aborted_once_the_failed_rank_has_settled():
    cell = fate(3)
    assert cell.results({1: CAUSE}, 1.0) == [Settle(3, (1,))]
    assert cell.wants_sights(1.0)
    assert cell.sights(seen(7, 5, 5), 1.0) == []  # some of the five may still be under way
    cell.settled([1])
    assert cell.sights(seen(7, 5, 5), 1.1) == [Interrupt(3, (0,)), Cut(3, (0,))]
    assert cell.sights(seen(7, 5, 5), 1.2) == []  # once is enough; rank 2 computes
    assert cell.sights(seen(7, 5, 6), 1.3) == [Interrupt(3, (2,)), Cut(3, (2,))]
    assert cell.aborted == {0: 6, 2: 6}


def test_a_failed_rank_that_waits_for_another_failed_one_is_not_waited_for():
    cell = fate(3)
    cell.results({1: CAUSE}, 1.0)
    cell.results({2: CAUSE}, 1.1)
    cell.settled([2])  # rank 1 can't: its fifth collective needs rank 2
    assert cell.sights(seen(7, 5, 4), 1.2)[-1] == Cut(3, (0,))


def test_peers_of_a_dead_rank_are_aborted_at_once():
    cell = fate(2)
    assert cell.results({1: DEATH}, 1.0) == []
    assert cell.sights(seen(7, 0, dead=1), 1.0) == [Interrupt(3, (0,)), Cut(3, (0,))]
    assert cell.aborted == {0: 0}


def test_the_collective_that_was_waited_for_is_named_not_the_last_one_queued():
    class ValueErrorThere(Exception):
        ename, evalue = "ValueError", ""

    class Interrupted(Exception):
        ename, evalue = "KeyboardInterrupt", ""

    reports = [
        RankReport(0, "idle", collective="all_reduce", number=9),
        RankReport(1, "idle", collective="all_reduce", number=5),
    ]
    errors: dict[int, Exception] = {1: ValueErrorThere(), 0: Interrupted()}
    outcomes = {1: CAUSE, 0: Outcome.CONSEQUENCE}
    ending = " because rank 1 raised ValueError"
    cases: list[tuple[Any, str]] = [
        ({0: 6}, "rank 0 aborted in collective #6"),
        ({0: 9}, "rank 0 aborted in all_reduce #9"),
        ({0: 0}, "rank 0 aborted in all_reduce #9"),
        ({}, "rank 0 stopped"),
    ]
    for aborted, said in cases:
        assert summarize(errors, outcomes, reports, False, aborted).endswith(said + ending)


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
        "from unittest import mock\n"
        "from types import SimpleNamespace\n"
        "from ddipp.on_rank.outlive import ddp\n"
        "from ddipp.shared import values\n"
        "devices = torch.device('cuda', 1), torch.device('cuda', 0), torch.device('cpu')\n"
        "with mock.patch.multiple(torch.cuda, is_initialized=lambda: True,\n"
        "                         current_device=lambda: 1):\n"
        "    packed = values.pack({'devices': devices}, by_value=False)\n"
        "with mock.patch.object(torch.cuda, 'current_device', lambda: 3):\n"
        "    names = [str(one) for one in values.unpack(packed.parts)['devices']]\n"
        "assert names == ['cuda:3', 'cuda:0', 'cpu'], names\n"
        "parameter = SimpleNamespace(device=torch.device('cuda', 3))\n"
        "model = SimpleNamespace(parameters=lambda: iter([parameter]), device_ids=[1],\n"
        "                        output_device=1)\n"
        "ddp._follow_parameters(model)\n"
        "assert (model.device_ids, model.output_device) == ([3], 3)"
    )
