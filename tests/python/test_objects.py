"""What ranks hold beside plain variables, and that it is right after a fault."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import ddipp
import pytest

DIES = "import os\nif dist.get_rank() == 1: os.kill(os.getpid(), 9)\ndist.barrier()"
RAISES = "if dist.get_rank() == 1: raise ValueError\ndist.barrier()"


@pytest.fixture(scope="module")
def group(ipython_dir) -> Iterator[ddipp.Group]:
    with ddipp.Group.start(ranks=2) as made:
        yield made


def fail(group: ddipp.Group, code: str) -> str:
    with pytest.raises(ddipp.CellFailed) as caught:
        group.run(code, timeout_s=60)
    return str(caught.value)


def values(group: ddipp.Group, expression: str) -> list:
    group.run(f"value_of_a_test = {expression}")
    return [
        group.pull(["value_of_a_test"], rank)["value_of_a_test"] for rank in range(group.world_size)
    ]


# --- models ---------------------------------------------------------------------------------------

STATIC = """
from torch.nn.parallel import DistributedDataParallel as DDP
torch.manual_seed(0)
static, plain = (DDP(torch.nn.Linear(4, 4), static_graph=on) for on in (True, False))
plain.load_state_dict(static.state_dict())
def gradient(model):
    model.zero_grad()
    model(torch.ones(2, 4) * (dist.get_rank() + 1)).square().sum().backward()
    return round(float(sum(one.grad.sum() for one in model.parameters())), 3)
"""


def test_a_static_graph_averages_its_gradients_after_a_fault_and_a_copy(group):
    group.run(STATIC)
    before = values(group, "gradient(plain)")
    assert before[0] == before[1]
    for _ in range(2):
        fail(group, RAISES)
        assert values(group, "(gradient(static), gradient(static))") == [
            (one, one) for one in before
        ]
    group.sync(["plain"], source=0)
    assert values(group, "gradient(static)") == before
    assert values(group, "gradient(plain)") == before


def test_models_that_are_a_step_apart_are_named_wherever_they_are(group, capsys):
    group.run(
        "from types import SimpleNamespace\n"
        "from torch.nn.parallel import DistributedDataParallel as DDP\n"
        "def make(): torch.manual_seed(0); return torch.nn.Linear(2, 1)\n"
        "trainer, models = SimpleNamespace(model=DDP(make())), {'a': DDP(make()), 'b': make()}\n"
        "compiled, bare, equal = torch.compile(DDP(make())), make(), DDP(make())\n"
        "all_models = [trainer.model, *models.values(), compiled, bare, equal]\n"
        "steps = [torch.optim.SGD(one.parameters(), lr=0.1) for one in all_models]\n"
        "del all_models\n"
        "for one in steps:\n"
        "    for group in one.param_groups:\n"
        "        for parameter in group['params']: parameter.grad = torch.ones_like(parameter)\n"
    )
    group.run("for one in steps: one.step()")
    capsys.readouterr()
    fail(group, "for one in steps[:-1]:\n    if dist.get_rank() == 0: one.step()\n1 / 0")
    shown = capsys.readouterr().err
    for name in ("trainer.model", "models['a']", "models['b']", "compiled", "bare"):
        assert f"the parameters of {name} differ between ranks" in shown
    assert "%dipsync trainer and" in shown and "%dipsync models and" in shown
    assert "equal differ" not in shown
    group.run("steps = None")


# --- groups ---------------------------------------------------------------------------------------


def test_a_rank_that_waits_in_new_group_is_freed_at_once_and_the_next_one_works(group):
    for _ in range(2):
        begin = time.monotonic()
        fail(group, "if dist.get_rank() == 1: 1 / 0\nsub = dist.new_group([0, 1])")
        assert time.monotonic() - begin < 8  # not the grace time of ten seconds
        group.run("sub = dist.new_group([0, 1])\ndist.barrier(group=sub)")
    group.run(
        "mesh = dist.device_mesh.init_device_mesh('cpu', (2,))\ndist.barrier(mesh.get_group())"
    )


def test_a_held_group_a_death_and_faults_after_it(group):
    group.run("sub = dist.new_group([0, 1])\nkept = 42")
    fail(group, DIES)
    counts = []
    for _ in range(4):
        fail(group, RAISES)
        group.run("import os, threading\ndist.barrier()")
        counts.append(values(group, "len(os.listdir('/proc/self/fd'))"))
    assert counts[1] == counts[-1]  # nothing is left of a generation
    group.run("if dist.get_rank() == 0: assert kept == 42")
    group.run("sub = dist.new_group([0, 1])\ndist.barrier(group=sub)")
    fail(group, DIES)
    fail(group, RAISES)
    group.run("dist.barrier()")


# --- scripts --------------------------------------------------------------------------------------

SUM = "x = torch.ones(1)\ndist.all_reduce(x)\nassert x.item() == 2"


def test_init_process_group_is_answered_by_the_group_that_there_is(group, capsys):
    for _ in range(2):
        group.run(f"dist.init_process_group('gloo')\n{SUM}\ndist.destroy_process_group()")
    assert "init_process_group" in capsys.readouterr().err
    group.run(SUM)
    with pytest.raises(ddipp.CellFailed) as caught:
        group.run("dist.init_process_group('nccl')")
    assert "whose backend is gloo and not nccl" in str(next(iter(caught.value.errors.values())))


def test_a_script_forms_and_ends_groups_of_its_own_again_and_again(group):
    group.run("dist.destroy_process_group()")
    for _ in range(3):
        group.run(f"dist.init_process_group('gloo')\n{SUM}\ndist.destroy_process_group()")
    begin = time.monotonic()
    fail(group, "if rank == 1: 1 / 0\ndist.init_process_group('gloo')")
    assert time.monotonic() - begin < 8
    group.run(SUM)


def test_rpc_over_the_same_store(group):
    group.run(
        "import torch.distributed.rpc as rpc\n"
        "dist.destroy_process_group()\n"
        "rpc.init_rpc(f'worker{rank}', rank=rank, world_size=2)\n"
        "assert rpc.rpc_sync('worker0', torch.add, args=(torch.ones(1), 1)).item() == 2\n"
        "rpc.shutdown()"
    )
    group.form()
    group.run(SUM)


def test_the_environment_is_that_of_torchrun(group):
    group.run("import os\nassert dist.is_torchelastic_launched()")
    for rank, found in enumerate(values(group, "dict(os.environ)")):
        assert found["ROLE_RANK"] == found["RANK"] == str(rank)
        assert found["GROUP_RANK"] == "0" and found["GROUP_WORLD_SIZE"] == "1"
        assert found["ROLE_WORLD_SIZE"] == found["LOCAL_WORLD_SIZE"] == "2"
        for name in ("RUN_ID", "RESTART_COUNT", "MAX_RESTARTS", "USE_AGENT_STORE", "ERROR_FILE"):
            assert found[f"TORCHELASTIC_{name}"]


def test_variables_that_the_user_has_bound_again_stay(group):
    group.run("device, rank, torch_too = 'mine', f'number {rank}', torch\ndel torch")
    fail(group, "1 / 0")
    group.run("assert device == 'mine' and rank.startswith('number') and torch is torch_too")
    group.run("rank, device = dist.get_rank(), torch.device('cpu')")


# --- copies ---------------------------------------------------------------------------------------


def test_what_is_one_rank_s_part_is_not_copied(group):
    group.run(
        "from torch.distributed.tensor import DTensor, Shard, distribute_tensor\n"
        "mesh = dist.device_mesh.init_device_mesh('cpu', (2,))\n"
        "part = distribute_tensor(torch.arange(8.0).reshape(4, 2), mesh, [Shard(0)])\n"
        "module = torch.nn.Linear(2, 4)\n"
        "from torch.distributed.fsdp import fully_shard\n"
        "fully_shard(module, mesh=mesh)\n"
        "adam = torch.optim.Adam(module.parameters())\n"
        "from torch.distributed.fsdp import FullyShardedDataParallel\n"
        "from torch.distributed.optim import ZeroRedundancyOptimizer\n"
    )
    group.form()  # classes are known by then
    group.run(
        "older = FullyShardedDataParallel(\n"
        "    torch.nn.Linear(2, 4), device_id=torch.device('cpu'), use_orig_params=True)\n"
        "sgd = torch.optim.SGD(older.parameters(), lr=0.1)\n"
        "zero = ZeroRedundancyOptimizer(\n"
        "    torch.nn.Linear(2, 4).parameters(), torch.optim.Adam, lr=0.1)"
    )
    for name in ("mesh", "part", "module", "adam", "older", "sgd", "zero"):
        with pytest.raises(ddipp.DdippError) as caught:
            group.sync([name], source=0)
        assert name in str(caught.value)
    assert values(group, "part.full_tensor().sum().item()") == [28.0, 28.0]
    assert values(group, "mesh.get_coordinate()[0]") == [0, 1]
    group.run("mesh = part = module = adam = older = sgd = zero = None")


# --- processes that ranks start -------------------------------------------------------------------

LOADER = """
class Numbers(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return SCALE * i
SCALE = 10
def total(loader): return sum(int(batch.sum()) for batch in loader)
def fresh(**options):
    return torch.utils.data.DataLoader(Numbers(), batch_size=2, num_workers=2, **options)
"""


def test_a_loader_s_worker_that_dies_while_its_rank_is_idle(group):
    group.run(LOADER)
    group.run("loader = fresh(persistent_workers=True)\nassert total(loader) == 280\nkept = 1")
    group.run("import os\nworkers = [one.pid for one in loader._iterator._workers]")
    for pids in values(group, "workers"):
        import os

        os.kill(pids[0], 9)
    time.sleep(0.5)
    group.run("assert kept == 1\nloader = fresh()\nassert total(loader) == 280")


def test_persistent_workers_outlive_an_interrupt(group):
    group.run(LOADER)
    group.run("loader = fresh(persistent_workers=True)\nassert total(loader) == 280\nimport time")
    with pytest.raises(ddipp.CellInterrupted):
        group.run("time.sleep(60)", timeout_s=0.5)
    group.run("assert total(loader) == 280")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_classes_of_cells_in_workers_that_are_started_anew(group, method):
    group.run(LOADER)
    group.run("side_effects = globals().get('side_effects', 0) + 1")
    group.run(f"assert total(fresh(multiprocessing_context={method!r})) == 280")


def test_functions_of_cells_in_pools_and_in_torch_spawn(group, tmp_path):
    group.run(
        "import multiprocessing, collections\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "class Answer:\n"
        "    def __init__(self, value): self.value = value\n"
        "def double(x): return Answer(helper(x))\n"
        "def helper(x): return 2 * x\n"
        "with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:\n"
        "    answers = list(pool.map(double, range(3)))\n"
        "assert all(type(one) is Answer for one in answers)\n"
        "assert [one.value for one in answers] == [0, 2, 4]\n"
    )
    group.run(
        "import torch.multiprocessing as mp\n"
        f"def write(i, name): open(f'{tmp_path}/{{name}}-{{i}}', 'w').close()\n"
        "mp.spawn(write, args=(f'r{rank}',), nprocs=1)"
    )
    assert sorted(one.name for one in tmp_path.iterdir()) == ["r0-0", "r1-0"]


def test_libraries_do_not_take_a_rank_for_a_person_at_a_prompt(group):
    group.run("import sys\nassert not hasattr(sys, 'ps1')")


def test_no_place_but_one_names_what_is_private_to_torch():
    from pathlib import Path

    folder = Path(ddipp.__file__).parent
    private = re.compile(r"(distributed_c10d|_pg_map|_world\b|_fsdp_param|_delay_allreduce)")
    found = {
        path.name
        for path in folder.rglob("*.py")
        if path.name != "torch_internals.py" and private.search(path.read_text())
    }
    assert found <= {"membership.py", "plugin.py", "scripts.py"}  # which name the module to patch
