"""What a fault leaves: every variable, groups and models that work, and ranks that come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import Notebook, wait_for
from ddipp import CellFailed, DdippError, Group
from ddipp.errors import RanksLost
from ddipp.group.failures import summarize
from ddipp.group.report import RankReport, parse_stack, table
from ddipp.recovery.facts import Outcome

MODEL = """%%dip
torch.manual_seed(0)
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1)
        )
    def forward(self, x):
        return self.layers(x)
net = Net()
model = torch.nn.parallel.DistributedDataParallel(net)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
losses, data = [], [torch.randn(4, 8, generator=torch.Generator().manual_seed(10 * step + rank))
                    for step in range(30)]
def step(number):
    optimizer.zero_grad()
    loss = model(data[number]).square().mean()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
"""
WORKS = "%%dip -q\ny = torch.ones(1)\ndist.all_reduce(y)\nassert y.item() == world_size"


@pytest.fixture(scope="module")
def group(notebook: Notebook) -> Notebook:
    notebook.run("%makedip -n 2")
    return notebook


def of(notebook: Notebook) -> Group:
    return notebook.shell.magics_manager.registry["DdippMagics"].group


def pull(notebook: Notebook, name: str) -> list:
    return [of(notebook).pull([name], rank)[name] for rank in range(of(notebook).world_size)]


def interrupt_after(seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    return timer


# --- models and groups --------------------------------------------------------------------------


def test_training_goes_on_with_the_same_losses_after_a_failure_in_backward(group: Notebook):
    group.run(MODEL)
    group.run("%%dip\nfor number in range(30): step(number)")
    reference = pull(group, "losses")
    group.run(MODEL)
    group.run(
        "%%dip\nfailing = {3: 'forward', 11: 'backward'}\n"
        "def hook(grad):\n"
        "    if failing.get(at) == 'backward' and rank == 1: raise ValueError(at)\n"
        "net.layers[2].weight.register_hook(hook)\n"
        "at = -1"
    )
    resume = (
        "%%dip\nwhile len(losses) < 30:\n    at = len(losses)\n"
        "    if failing.get(at) == 'forward' and rank == 0: raise ValueError(at)\n    step(at)"
    )
    for where in (3, 11):
        assert f"{where}" in str(next(iter(group.fail(resume).errors.values())))
        group.run(f"%%dip -q\nassert len(losses) == {where}, len(losses)\nfailing.pop({where})")
    group.run(resume)
    losses = pull(group, "losses")
    for rank in range(2):
        assert losses[rank] == pytest.approx(reference[rank], rel=1e-6, abs=1e-9)


def test_communication_hooks_and_static_graphs_outlive_a_failure(group: Notebook):
    group.run(MODEL)
    group.run(
        "%%dip\nfrom torch.distributed.algorithms.ddp_comm_hooks import default_hooks\n"
        "calls = 0\n"
        "def counting(state, bucket):\n    global calls; calls += 1\n"
        "    return default_hooks.allreduce_hook(state, bucket)\n"
        "hooked = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 1))\n"
        "hooked.register_comm_hook(None, counting)\n"
        "still = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 1), "
        "static_graph=True)"
    )
    group.fail("%%dip\nif rank == 1: 1 / 0\ndist.barrier()")
    group.run(
        "%%dip\ncalls = 0\nhooked(data[0]).sum().backward()\nassert calls > 0\n"
        "for _ in range(3): still(data[0]).sum().backward()"
    )


def test_copies_of_models_and_models_of_subclasses_outlive_a_failure(group: Notebook):
    group.run(
        "%%dip\nimport copy, io\n"
        "class Own(torch.nn.parallel.DistributedDataParallel): pass\n"
        "first = Own(torch.nn.Linear(8, 1))\nfile = io.BytesIO()\ntorch.save(first, file)\n"
        "models = {'first': first, 'copy': copy.deepcopy(first),\n"
        "          'loaded': torch.load(io.BytesIO(file.getvalue()), weights_only=False)}"
    )
    group.fail("%%dip\nif rank == 1: 1 / 0\ndist.barrier()")
    group.run(
        "%%dip\nfor name, one in models.items():\n"
        "    one(torch.full((4, 8), rank + 1.)).sum().backward()\n"
        "    gradient = one.module.weight.grad\n"
        "    assert torch.equal(gradient, torch.full((1, 8), 6.)), (name, gradient)"
    )


def test_groups_that_variables_hold_work_after_a_failure_and_fail_like_the_default_one(
    group: Notebook,
):
    group.run(
        "%%dip\nfrom torch.distributed.device_mesh import init_device_mesh\n"
        "pair = dist.new_group([0, 1])\nalone = dist.new_group([1])\n"
        "mesh = init_device_mesh('cpu', (2,), mesh_dim_names=('dp',))\n"
        "world = dist.group.WORLD"
    )
    for waits_in in ("pair", "mesh.get_group()", "world"):
        error = group.fail(
            "%%dip\nif rank == 1: raise ValueError\n"
            f"dist.all_reduce(torch.ones(1), group={waits_in})"
        )
        assert "rank 0 aborted in all_reduce" in str(error)
        group.run(
            "%%dip -q\nassert dist.group.WORLD is world\n"
            "for one in (pair, mesh.get_group(), world, None):\n"
            "    y = torch.ones(1)\n    dist.all_reduce(y, group=one)\n    assert y.item() == 2\n"
            "if rank == 1: dist.all_reduce(y, group=alone)"
        )
    group.run("%%dip -q\nnew = dist.new_group([0, 1])\ndist.barrier(group=new)")


def test_an_interrupt_frees_ranks_that_wait_in_different_groups(group: Notebook):
    group.run("%%dip\none, two = dist.new_group([0, 1]), dist.new_group([0, 1])")
    timer = interrupt_after(0.5)
    begin = time.monotonic()
    group.fail("%%dip\ndist.all_reduce(torch.ones(1), group=one if rank == 0 else two)")
    timer.join()
    assert time.monotonic() - begin < 4
    group.run(WORKS)


def test_models_that_differ_after_an_interrupt_are_named(group: Notebook, capsys):
    group.run(MODEL)
    group.fail("%%dip\nif rank == 1: step(0)\nelse:\n    step(0)\n    optimizer.step()\n    1 / 0")
    shown = capsys.readouterr().err
    assert "the parameters of model differ between ranks" in shown
    group.run("%dipsync model optimizer net")
    group.run("%%dip\nassert model.module is net\nstep(1)")
    assert len({tuple(net) for net in pull_weights(group)}) == 1
    group.fail("%%dip\n1 / 0")
    assert "differ" not in capsys.readouterr().err


def pull_weights(notebook: Notebook) -> list:
    notebook.run("%%dip -q\nweights = [float(p.detach().double().sum()) for p in net.parameters()]")
    return pull(notebook, "weights")


# --- grace and different failures ---------------------------------------------------------------


def test_a_peer_that_computes_for_longer_than_the_grace_time_is_interrupted(group: Notebook):
    group.run("%makedip --grace 0.5")
    try:
        begin = time.monotonic()
        error = group.fail(
            "%%dip\nimport time\nif rank == 1: raise ValueError\nwhile True: time.sleep(0.01)"
        )
        assert time.monotonic() - begin < 3
        assert "rank 0 stopped because rank 1 raised ValueError" in str(error)
    finally:
        group.run("%makedip --grace 10")


def test_a_peer_does_not_wait_until_its_own_neighbours_end():
    with Group.start(ranks=4) as group:
        with pytest.raises(CellFailed) as caught:
            group.run(
                "import time\nif rank == 1: raise ValueError\nif rank != 3: time.sleep(3)\n"
                "try: dist.all_reduce(torch.ones(1))\nfinally: ended = time.monotonic()"
            )
        assert "rank 1 raised ValueError" in str(caught.value)
        ended = {rank: group.pull(["ended"], rank)["ended"] for rank in (0, 2, 3)}
        assert ended[3] < min(ended[0], ended[2]) - 1


def test_only_the_cause_of_a_failure_is_formatted_for_people(group: Notebook):
    error = group.fail("%%dip\nif rank == 1: raise ValueError\ndist.barrier()")
    cause, consequence = error.errors[1].traceback, error.errors[0].traceback
    assert "---->" in cause
    assert consequence.startswith("Traceback (most recent call last):\n")
    assert "dist.barrier()" in consequence and "run_code" not in consequence
    alone = group.fail("%%dip --ranks 0\nraise RuntimeError('what is not a consequence')")
    assert "---->" in alone.errors[0].traceback


def test_ranks_that_fail_differently_are_all_named(group: Notebook):
    error = group.fail("%%dip\nif rank == 0: raise KeyError('a')\nraise ValueError('b')")
    assert {type_name(one) for one in error.errors.values()} == {"KeyError", "ValueError"}
    assert "raised KeyError" in str(error)
    assert "raised ValueError" in str(error)


def type_name(error: Exception) -> str:
    return getattr(error, "ename", type(error).__name__)


def test_peers_are_folded_by_what_they_were_doing():
    class Failure(Exception):
        def __init__(self, ename: str, evalue: str) -> None:
            self.ename, self.evalue = ename, evalue

    closed = Failure("RuntimeError", "Connection closed by peer")
    errors = {
        1: Failure("ValueError", "x"),
        0: closed,
        2: closed,
        3: Failure("KeyboardInterrupt", ""),
    }
    reports = [RankReport(rank, "idle", collective="all_reduce", number=118) for rank in range(4)]
    outcomes = {rank: Outcome.CONSEQUENCE for rank in (0, 2, 3)} | {1: Outcome.CAUSE}
    assert summarize(errors, outcomes, reports, False) == (
        "rank 1 raised ValueError; ranks 0, 2 aborted in all_reduce #118 because rank 1 raised "
        "ValueError; rank 3 stopped because rank 1 raised ValueError"
    )


def test_an_interrupt_ends_a_wait_for_a_data_loader(group: Notebook):
    group.run(
        "%%dip\nimport time\nclass Slow(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 8\n"
        "    def __getitem__(self, i): time.sleep(30)\n"
        "loader = torch.utils.data.DataLoader(Slow(), num_workers=1)"
    )
    timer = interrupt_after(1.0)
    begin = time.monotonic()
    group.fail("%%dip\nfor batch in loader: pass")
    timer.join()
    assert time.monotonic() - begin < 1.0 + 4
    group.run(WORKS)


# --- death --------------------------------------------------------------------------------------


def test_a_rank_that_dies_comes_back_in_its_place_and_takes_over_from_a_peer(
    group: Notebook, capsys
):
    group.run(MODEL)
    group.run("%%dip\nfor number in range(5): step(number)\nbig = torch.arange(10_000)\nkept = 5")
    group.run("%%dip -q\nimport os\npid = os.getpid()")
    before = pull(group, "pid")
    error = group.fail(
        "%%dip\nimport os, signal\nif rank == 1: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "dist.all_reduce(torch.ones(1))"
    )
    assert "rank 1 died: it was killed by signal 11" in str(error)
    assert "rank 0 aborted in all_reduce" in str(error)
    assert "rank 1 died and was started again, without its variables" in capsys.readouterr().err
    group.run(WORKS)
    after = pull_pids(group)
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert "rank 1 has no variable kept (it died and was started again)" in str(
        group.fail("%dipull -r 1 kept")
    )
    group.run("%dipsync")
    shown = capsys.readouterr().out
    assert "from rank 0 to 1" in shown
    group.run(
        "%%dip\nassert kept == 5 and big.sum() == 49995000 and model.module is net\n"
        "assert isinstance(net, Net) and optimizer.param_groups[0]['params'][0] is "
        "next(net.parameters())\nassert len(losses) == 5\nstep(5)"
    )
    assert len({tuple(weights) for weights in pull_weights(group)}) == 1


def pull_pids(notebook: Notebook) -> list:
    notebook.run("%%dip -q\nimport os\npid = os.getpid()")
    return pull(notebook, "pid")


def test_a_rank_that_dies_between_cells_is_told_before_the_next_one_runs(group: Notebook):
    pids = pull_pids(group)
    os.kill(pids[1], signal.SIGKILL)
    time.sleep(0.3)
    error = group.fail("%%dip\nran = True")
    assert isinstance(error, RanksLost)
    assert "rank 1 died and was started again" in str(error)
    group.run("%%dip\nassert 'ran' not in globals()")
    group.run(WORKS)


def test_rank_0_and_all_ranks_may_die(group: Notebook):
    for dead in ("rank == 0", "True"):
        group.fail(f"%%dip\nimport os\nif {dead}: os._exit(3)\ndist.barrier()")
        group.run(WORKS)


def test_a_rank_that_dies_while_the_group_forms_is_waited_for(group: Notebook):
    """The failing cell ends in a death at the worst moment: when the next generation forms."""
    group.run(
        "%%dip\nimport os, ddipp.on_rank.membership as side\n"
        "def deadly(*args): os._exit(5)\n"
        "if rank == 1: side.open_store = side.held.restore_groups = deadly"
    )
    begin = time.monotonic()
    group.fail("%%dip\n1 / 0")
    assert time.monotonic() - begin < 30
    group.run(WORKS)


def test_a_rank_that_can_not_come_back_is_named_and_others_keep_their_variables(
    notebook: Notebook, group: Notebook, capsys
):
    import psutil

    group.run("%%dip\nkept = rank")
    (supervisor,) = [
        one
        for one in psutil.Process().children()
        if one.name() == "dipengine" and "--id 1" in " ".join(one.cmdline())
    ]
    supervisor.kill()
    time.sleep(0.5)
    error = str(group.fail("%%dip\n1"))
    assert "rank 1 died and did not start again; the variables of the others are kept" in error
    group.run("%dipull kept")
    assert group["kept"] == 0
    assert "rank 1 has died" in str(group.fail("%dipull -r 1 kept"))
    group.run("%makedip -r")
    group.run(WORKS)


# --- variables ----------------------------------------------------------------------------------


def test_sync_sends_what_was_asked_from_where_it_was_asked(group: Notebook, capsys):
    group.run(
        "%%dip\nimport numpy\nvalue = rank\narray = numpy.full(300_000, rank)\n"
        "tensor = torch.full((5,), float(rank), dtype=torch.bfloat16)\n"
        "scalar, empty = torch.tensor(3 + rank), torch.empty(0, 2)\n"
        "tied = [tensor, tensor]\ndef f(): return value"
    )
    group.run("%dipsync -f 1 value array tensor, scalar empty tied f")
    assert "from rank 1 to 0" in capsys.readouterr().out
    group.run(
        "%%dip\nassert value == 1 and array.sum() == 300_000 and tensor.dtype == torch.bfloat16\n"
        "assert tensor.float().sum() == 5 and scalar == 4 and empty.shape == (0, 2)\n"
        "assert tied[0] is tied[1] is tensor and f() == 1\n"
        "array += rank; tensor += rank\n"  # writing is private to a rank
        "dist.barrier()\nassert array[0] == 1 + rank and tensor[0] == 1 + rank"
    )


def test_sync_says_what_can_not_be_sent(group: Notebook):
    group.run("%%dip\nimport threading\nlock = threading.Lock()")
    assert "rank 0 has no variable absent" in str(group.fail("%dipsync absent"))
    assert "lock can't be sent: TypeError" in str(group.fail("%dipsync lock"))
    assert "there is no rank 7" in str(group.fail("%dipsync -f 7 lock"))
    assert "there is no other rank" in str(group.fail("%dipsync -f 1 -t 1 lock"))
    assert "which variables?" in str(group.fail("%dipsync"))
    group.run(WORKS)


def test_a_class_that_only_the_source_knows_goes_along(group: Notebook):
    group.run(
        "%%dip\nown = rank\nif rank == 0:\n    class Mine:\n        a = 7\n"
        "        def see(self): return own, rank\n    mine = Mine()\n"
    )
    group.run("%dipsync mine")
    group.run("%%dip\nassert mine.a == 7 and mine.see() == (rank, rank)")


def test_a_big_push_reaches_every_rank_and_leaves_no_shared_memory(group: Notebook):
    before = len(leftovers())
    group.run("import numpy\nbig = numpy.arange(3_000_000)\nothers = {'a': [big[:10], 'text']}")
    group.run("%dipush big others")
    group.run("%%dip\nassert big.sum() == 4499998500000 and others['a'][1] == 'text'")
    group.run("%%dip\nimport gc\ndel big, others\ngc.collect()")
    assert len(leftovers()) == before


def leftovers() -> list[str]:
    """Descriptors of shared memory that ranks still hold."""
    import psutil

    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            names = os.listdir(f"/proc/{child.pid}/fd")
            found += [os.readlink(f"/proc/{child.pid}/fd/{name}") for name in names]
        except OSError:
            continue
    return [name for name in found if "ddipp-share" in name]


# --- the report ---------------------------------------------------------------------------------


def test_why_says_what_each_rank_is_doing_while_a_cell_hangs(group: Notebook, capsys):
    seen = []

    def look() -> None:
        seen.append(of(group).reports())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.8, look)
    timer.start()
    group.fail(
        "%%dip\nimport time\ndef busy():\n    while True: time.sleep(0.01)\n"
        "if rank == 1: busy()\ndist.all_reduce(torch.ones(3, 4))"
    )
    timer.join()
    waiting, computing = seen[0]
    assert (waiting.state, waiting.collective, waiting.waiting) == ("busy", "all_reduce", True)
    assert waiting.elements == 12
    assert 0.3 < waiting.age < 2
    assert any(frame.endswith("in all_reduce") for frame in waiting.stack)
    assert "cell, line 5, in <module>" in waiting.stack[-1]
    assert computing.stack[:2] == ["cell, line 3, in busy", "cell, line 4, in <module>"]
    shown = table(seen[0])
    assert "waits in all_reduce #" in shown
    assert "12 elements" in shown
    wait_for(  # what the cell held is freed meanwhile
        lambda: all(report.state == "idle" for report in of(group).reports()), what="idle ranks"
    )
    group.run("%makedip --why")
    assert "idle" in capsys.readouterr().out


def test_a_report_comes_while_the_gil_is_held_and_when_a_rank_is_stopped(group: Notebook):
    group.run("%%dip\nimport ctypes, os\npid = os.getpid()\nsleep = ctypes.PyDLL(None).sleep")
    pids = pull(group, "pid")
    seen = []
    timer = threading.Timer(0.5, lambda: seen.append(of(group).reports()))
    timer.start()
    group.run("%%dip\nsleep(1)")
    timer.join()
    assert [report.state for report in seen[0]] == ["busy", "busy"]
    assert all("cell, line 1, in <module>" in report.stack[0] for report in seen[0])
    os.kill(pids[1], signal.SIGSTOP)
    try:
        assert of(group).ranks.reports(timeout_s=0.5)[1].state == "no answer"
    finally:
        os.kill(pids[1], signal.SIGCONT)
    group.run(WORKS)


def test_a_hang_is_reported_once_by_itself(group: Notebook, capsys):
    group.run("%makedip --hang-after 1")
    try:
        timer = interrupt_after(3.5)
        group.fail("%%dip\nimport time\nif rank == 1: time.sleep(60)\ndist.barrier()")
        timer.join()
    finally:
        group.run("%makedip --hang-after 120")
    shown = capsys.readouterr().err
    assert shown.count("no rank has made progress for") == 1
    assert "waits in" in shown
    assert "cell, line 2, in <module>" in shown


def test_a_cell_that_computes_long_is_not_reported_as_a_hang(group: Notebook, capsys):
    group.run("%makedip --hang-after 0.5")
    try:
        group.run("%%dip\nimport time\ndist.barrier()\ntime.sleep(1.5)")
    finally:
        group.run("%makedip --hang-after 120")
    assert "progress" not in capsys.readouterr().err


def test_stacks_keep_what_is_the_users():
    text = (
        'Stack (most recent call first):\n  File "/x/torch/distributed/c10d.py", line 7 in wait\n'
        '  File "/tmp/ipykernel_12/345.py", line 2 in f\n'
        '  File "/x/IPython/core/interactiveshell.py", line 3 in run_code\n'
        '  File "/x/later.py", line 3 in g\n'
    )
    assert parse_stack(text) == ["c10d.py:7, in wait", "cell, line 2, in f"]
    assert parse_stack("") == []


# --- a group on engines that run already --------------------------------------------------------


def test_a_process_ends_quietly_that_has_closed_the_client_of_its_group(cluster):
    cluster.start_controller()
    cluster.start_engine()
    code = (
        "import sys, ipyparallel\nfrom ddipp import Group\n"
        "client = ipyparallel.Client(sys.argv[1], timeout=30)\n"
        "client.wait_for_engines(1, timeout=30, interactive=False)\n"
        "group = Group.attach(client)\nclient.close()"
    )
    file = str(cluster.connection_file("client"))
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_group_takes_engines_that_run_already_in_any_order(cluster, capsys):
    cluster.start_controller()
    for _ in range(3):
        cluster.start_engine("--restart=on-failure")
    client = cluster.client(3)
    with Group.attach(client, [2, 0]) as group:
        group.run("x = torch.tensor([10.0 + rank]); dist.all_reduce(x); print(x.item())")
        assert capsys.readouterr().out == "21.0\n"
        assert client[2].apply_sync(os.getenv, "RANK") == "0"
        with pytest.raises(DdippError, match="rank 1 died"):
            group.run("import os\nif rank == 1: os.kill(os.getpid(), 9)\ndist.barrier()")
        group.run("dist.barrier()")
    assert client.ids == [0, 1, 2]
    with Group.attach(client) as group:  # other members and order, the same engines
        group.run("assert world_size == 3\ndist.barrier()")


def test_without_its_plugin_a_group_recovers_and_says_what_is_lost(group: Notebook, capsys):
    group.run("%makedip -r")  # ranks that have not loaded it
    group.run(
        "%%dip\nimport ddipp.on_rank.plugin as plugin, ddipp.on_rank.held\nplugin._loaded = None"
    )
    group.run("%%dip\nversion, torch.__version__ = torch.__version__, '1.2.3'")
    try:
        group.run(MODEL)
        group.run("%%dip\npair = dist.new_group([0, 1])\nstep(0)")
        capsys.readouterr()
        group.fail("%%dip\nif rank == 1: 1 / 0\nstep(1)")
        shown = capsys.readouterr().err
        group.run(WORKS)
        group.run("%%dip\nstep(1)")
        assert "the torch plug-in is for torch" in shown
        assert "groups made with new_group have ended; make them again" in shown
    finally:
        group.run("%makedip -r")


def test_a_rank_may_die_again_and_again(group: Notebook):
    for _ in range(7):
        group.fail("%%dip\nimport os\nif rank == 1: os._exit(1)\ndist.barrier()")
    group.run(WORKS)
