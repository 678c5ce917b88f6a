"""%dipush, %dipull, %dipsync: by value, any size, in both directions."""

from __future__ import annotations

import time

import pytest
from conftest import Notebook

DEFINITIONS = """
import collections, dataclasses, enum
import numpy as np
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
    def forward(self, x):
        return self.layer(x) * factor
class Numbers(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, index): return index * factor
@dataclasses.dataclass
class Config:
    lr: float = 0.1
class Colour(enum.Enum):
    RED = 1
Point = collections.namedtuple("Point", "x y")
factor = 3
def triple(x): return x * factor
"""
OBJECTS = "net, numbers, config, red, point = Net(), Numbers(), Config(.5), Colour.RED, Point(1, 2)"


@pytest.fixture(scope="module")
def group(notebook: Notebook) -> Notebook:
    notebook.run("%makedip -n 2")
    notebook.run("%%dip everywhere\nimport numpy as np, torch")
    return notebook


@pytest.fixture(autouse=True)
def _fresh(group: Notebook):
    yield
    hidden = ("rank", "world_size", "device", "torch", "dist", "get_ipython", "exit", "quit")
    group.run(
        "%%dip everywhere\nfor _name in list(globals()):\n"
        f"    if not _name.startswith('_') and _name not in {hidden!r}:\n"
        "        del globals()[_name]"
    )
    group.run("%%dip everywhere\nimport numpy as np, torch")


def test_what_the_notebook_defines_goes_to_the_ranks_and_back(group: Notebook):
    group.run(DEFINITIONS + OBJECTS)
    group.run("%dipush Net net numbers config red point triple")
    group.run(
        "%%dip\nfor one in (net, Net()): one(torch.ones(2, 3)).sum().backward()\n"
        "assert numbers[2] == 6 and config.lr == .5 and red.name == 'RED' and point.y == 2\n"
        "assert triple(2) == 6 and isinstance(net, Net)\n"
        "loader = torch.utils.data.DataLoader(numbers)\nassert [int(x) for x in loader][-1] == 9\n"
        "config.lr = .25"
    )
    group.run("%dipull -r 1 net config red point")
    group.run(
        "assert isinstance(net, Net) and isinstance(config, Config) and config == Config(.25)\n"
        "assert red is Colour.RED and point == Point(1, 2)"
    )


def test_what_the_ranks_define_comes_to_the_notebook(group: Notebook):
    group.run("%%dip\n" + DEFINITIONS + OBJECTS)
    group.run("%dipull net numbers config red point triple")
    group.run(
        "assert net(torch.ones(1, 3)).shape == (1, 1) and numbers[2] == 6 and config.lr == .5\n"
        "assert red.name == 'RED' and point.y == 2 and triple(2) == 6"
    )


def test_what_both_have_defined_is_one_class(group: Notebook):
    group.run("%%dip everywhere\n" + DEFINITIONS)
    group.run("config = Config(.5)\nred = Colour.RED\n%dipush config red")
    group.run("%%dip\nassert config == Config(.5) and red is Colour.RED\nback = Config(.75)")
    group.run("%dipull back\nassert back == Config(.75)")


@pytest.mark.parametrize("size", [3, 1_000_000])
def test_a_model_and_its_optimizer_stay_together(group: Notebook, size: int):
    group.run(
        f"model = torch.nn.Linear({size}, 1)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=1.0)\n%dipush model optimizer"
    )
    train = (
        "before = model.weight.detach().clone()\n"
        f"model(torch.ones(1, {size})).sum().backward(); optimizer.step()\n"
        "assert not torch.equal(before, model.weight)"
    )
    group.run("%%dip\n" + train)
    group.run("%dipull model optimizer\n" + train)
    group.run("%dipsync model optimizer")
    group.run("%%dip\n" + train)


@pytest.mark.parametrize("length", [10, 300_000])
def test_arrays_of_every_size_are_writable_on_the_other_side(group: Notebook, length: int):
    group.run(
        f"w = np.ones({length})\ndays = np.arange({length}).astype('datetime64[D]')\n"
        "spans = days - days[0]\n%dipush w days spans"
    )
    group.run("%%dip\nw /= w.sum()\ndays += np.timedelta64(1, 'D')\nspans[0] = 1")
    group.run("%dipull w days spans\nw *= 2\ndays[0] = days[1]\nspans[0] = spans[1]")


def test_a_model_in_ddp_comes_as_its_module(group: Notebook):
    group.run("%%dip\nmodel = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 1))")
    group.run("%dipull model\nassert type(model) is torch.nn.Linear")


def test_a_sharded_tensor_says_how_to_get_its_values(group: Notebook):
    group.run(
        "%%dip\nfrom torch.distributed.tensor import distribute_tensor, Shard\n"
        "from torch.distributed.device_mesh import init_device_mesh\n"
        "parts = distribute_tensor(torch.ones(4), init_device_mesh('cpu', (2,)), [Shard(0)])"
    )
    for magic in ("%dipull", "%dipsync"):
        error = str(group.fail(f"{magic} parts"))
        assert error.startswith("parts can't be sent: ") and "full_tensor()" in error
        assert "\n" not in error
    group.run(
        "%%dip\nfrom torch.distributed.fsdp import fully_shard\n"
        "sharded = fully_shard(torch.nn.Linear(4, 4))"
    )
    for magic in ("%dipull", "%dipsync"):
        error = str(group.fail(f"{magic} sharded"))
        assert error.startswith("sharded can't be sent: ") and "full_state_dict=True" in error


def test_views_grads_and_attributes_survive_a_copy_between_ranks(group: Notebook):
    group.run(
        "%%dip\nbase = torch.full((10,), float(rank))\nview = base[2:4]\n"
        "leaf = torch.ones(2, requires_grad=True)\n(leaf * (rank + 1)).sum().backward()\n"
        "leaf.note = rank"
    )
    group.run("%dipsync -f 1 base view leaf")
    group.run(
        "%%dip\nbase[:] = 5\nassert view.tolist() == [5, 5]\n"
        "assert leaf.grad.tolist() == [2, 2] and leaf.note == 1"
    )


def test_what_can_not_go_is_one_line_that_names_it(group: Notebook):
    group.run(
        "import threading\n"
        "lock, lines, file = threading.Lock(), (x for x in '1'), open('/etc/hostname')"
    )
    for name in ("lock", "lines", "file"):
        error = str(group.fail(f"ok = 1\n%dipush ok {name}"))
        assert error.startswith(f"{name} can't be sent: ") and "\n" not in error
    group.run("%%dip\nassert 'ok' not in globals()\nimport threading\nlock = threading.Lock()")
    assert str(group.fail("%dipull lock")).startswith("lock can't be sent: ")


def test_an_object_that_can_not_be_rebuilt_is_one_line_and_nobody_waits(group: Notebook, capfd):
    group.run(
        "%%dip\nclass Touchy:\n    def __reduce__(self): return eval, ('1 / 0',)\ntouchy = Touchy()"
    )
    begin = time.monotonic()
    error = str(group.fail("%dipull touchy"))
    assert error == (
        "touchy can't be rebuilt: ZeroDivisionError: division by zero (it came from rank 0)"
    )
    error = str(group.fail("%dipsync touchy"))
    assert error.startswith("touchy can't be rebuilt: ZeroDivisionError") and "\n" not in error
    group.run("class Touchy:\n    def __reduce__(self): return eval, ('1 / 0',)\ntouchy = Touchy()")
    error = str(group.fail("%dipush touchy"))
    assert error.startswith("touchy can't be rebuilt: ZeroDivisionError") and "\n" not in error
    assert time.monotonic() - begin < 10
    captured = capfd.readouterr()
    assert "Traceback" not in captured.out + captured.err


def test_exceptions_with_arguments_of_their_own_come(group: Notebook):
    group.run(
        "%%dip\nclass Two(Exception):\n    def __init__(self, a, b):\n"
        "        super().__init__(a)\n        self.b = b\nerror = Two(1, rank)"
    )
    group.run("%dipull -r 1 error\nassert error.b == 1 and error.args == (1,)")


def test_modules_are_imports_by_name(group: Notebook):
    group.run("import torch.nn.functional as F, json\n%dipush F json np")
    group.run(
        "%%dip\nassert F.relu(torch.tensor(-1.)) == 0 and json.dumps(1) == '1' and np.ones(1)"
    )


def test_all_ranks_at_once(group: Notebook):
    pytest.importorskip("pandas")
    group.run(
        "%%dip\nimport pandas\nx, big = rank, np.full(400_000, rank)\n"
        "t = torch.full((2, 3), rank)\n"
        "frame, rows = pandas.DataFrame({'rank': [rank] * 2}), [rank, rank]"
    )
    group.run("%dipull -r all x big\nassert x == [0, 1] and [len(b) for b in big] == [400_000] * 2")
    group.run(
        "%dipull --gather t frame rows big x\n"
        "assert t.shape == (4, 3) and t[2, 0] == 1 and frame['rank'].tolist() == [0, 0, 1, 1]\n"
        "assert rows == [0, 0, 1, 1] and big[-1] == 1 and x.tolist() == [0, 1]"
    )
    assert "has no variable absent" in str(group.fail("%dipull -r all absent"))
    group.run("%%dip\nnamed = {'a': rank}")
    assert "named can't be joined" in str(group.fail("%dipull --gather named"))
