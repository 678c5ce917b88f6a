"""Values that go from process to process, without any process: packed here and unpacked here."""

from __future__ import annotations

import dataclasses
import enum
import threading
import time
import types
from typing import Any

import cloudpickle
import numpy
import pytest
from ddipp.errors import DdippError
from ddipp.group.joining import join_values
from ddipp.shared import values


def copied(_value: dict[str, Any] | None = None, **named: Any) -> dict[str, Any]:
    """Return the variables as another process would get them: in writable memory of its own."""
    packed = values.pack({**(_value or {}), **named})
    return values.unpack([memoryview(bytearray(part)) for part in packed.parts])


@pytest.fixture
def cells(monkeypatch) -> dict[str, Any]:
    """The namespace of the cells of this process."""
    here: dict[str, Any] = {"__name__": "__main__"}
    monkeypatch.setattr(values, "namespace", lambda: here)
    values._brought.clear()
    return here


def other_process(monkeypatch, **there: Any) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "__main__", **there}
    monkeypatch.setattr(values, "namespace", lambda: namespace)
    # cloudpickle knows by these that a class has come back to where it was made.
    for tracked in ("_DYNAMIC_CLASS_TRACKER_BY_ID", "_DYNAMIC_CLASS_TRACKER_BY_CLASS"):
        getattr(cloudpickle.cloudpickle, tracked).clear()
    return namespace


@pytest.mark.parametrize("length", [0, 1, 10, 128, 129, 200_000])
def test_arrays_are_writable_whatever_their_size(length: int):
    there = copied(array=numpy.ones(length), nested={"x": [numpy.ones(length)]})
    there["array"] += 1
    there["nested"]["x"][0] += 1
    assert there["array"].sum() == there["nested"]["x"][0].sum() == 2 * length


@pytest.mark.parametrize("kind", ["datetime64[D]", "timedelta64[s]", "datetime64[ns]"])
@pytest.mark.parametrize("length", [3, 5000])
def test_times_go(kind: str, length: int):
    times = numpy.arange(length).astype(kind)
    there = copied(times=times)["times"]
    assert there.dtype == times.dtype and (there == times).all()
    there[0] = times[1]


def test_tensors_of_every_kind_are_equal_and_of_their_own_memory():
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "whole": base,
        "transposed": torch.arange(6.0).reshape(2, 3).t(),
        "column": torch.arange(12.0).reshape(3, 4)[:, 1],
        "expanded": torch.ones(1).expand(5),
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 2),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "float8": torch.ones(3).to(torch.float8_e5m2),
        "conjugated": torch.tensor([1 + 2j]).conj(),
        "bits": torch.tensor([True, False]),
        "sparse": torch.eye(3).to_sparse(),
        "needs_grad": torch.ones(2, requires_grad=True),
        "of_a_graph": torch.ones(2, requires_grad=True) * 2,
        "parameter": torch.nn.Parameter(torch.ones(2), requires_grad=False),
    }
    there = copied(tensors)
    for name, tensor in tensors.items():
        copy = there[name]
        assert (copy.dtype, copy.shape, copy.requires_grad, type(copy)) == (
            tensor.dtype, tensor.shape, tensor.requires_grad, type(tensor)
        ), name  # fmt: skip
        same = (
            copy.to_dense().float() == tensor.to_dense().float()
            if name == "sparse"
            else (copy.to(torch.complex64) == tensor.to(torch.complex64))
        )
        assert same.all(), name
    there["whole"] += 1
    assert base[0, 0] == 0


def test_tensors_that_share_memory_share_it_afterwards():
    torch = pytest.importorskip("torch")
    base = torch.zeros(10)
    there = copied(base=base, view=base[2:4], words=base.view(torch.int32), nested=[base[5:]])
    there["base"][:] = 7
    assert there["view"].tolist() == [7, 7] and there["nested"][0].tolist() == [7] * 5
    assert there["words"][0] == torch.tensor(7.0).view(torch.int32)


def test_only_the_part_of_a_memory_that_is_used_is_sent():
    torch = pytest.importorskip("torch")
    data = torch.arange(1_000_000.0).reshape(1000, 1000)
    for part in (data[:2], data[:, 3], data[500:502, :7]):
        packed = values.pack({"part": part})
        assert sum(packed.sizes) < 40_000
        assert (values.unpack([bytearray(one) for one in packed.parts])["part"] == part).all()


def test_grads_and_attributes_of_tensors_go_along():
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), 3.0)
    parameter.note = "kept"
    plain = torch.ones(2)
    plain.note = parameter
    there = copied(parameter=parameter, plain=plain)
    assert there["parameter"].grad.tolist() == [3, 3] and there["parameter"].note == "kept"
    assert there["plain"].note is there["parameter"]


def test_a_model_and_its_optimizer_share_their_parameters():
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LSTM(2, 2))
    model[0].weight = model[0].weight
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    model[0](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    there = copied(model=model, optimizer=optimizer)
    before = there["model"][0].weight.detach().clone()
    there["optimizer"].step()
    assert not (there["model"][0].weight == before).all()


@pytest.mark.parametrize(
    "value",
    [
        threading.Lock(),
        (one for one in [1]),
        open(__file__),  # noqa: SIM115
        open(__file__, "rb"),  # noqa: SIM115
        [{"deep": threading.Lock()}],
    ],
)
def test_what_can_not_be_sent_is_named_with_the_reason_in_one_line(value: Any):
    with pytest.raises(values.CannotCopy, match=r"^it can't be sent: .*cannot pickle") as info:
        values.pack({"good": 1, "it": value})
    assert "\n" not in str(info.value)


class Touchy:
    def __reduce__(self) -> Any:
        return _fail, ()


def _fail() -> None:
    raise OSError("on\ntwo lines")


def test_what_can_not_be_rebuilt_is_named_with_the_reason_in_one_line():
    packed = values.pack({"good": 1, "bad": [Touchy()], "more": 2}, by_value=False)
    with pytest.raises(values.CannotCopy, match=r"^bad can't be rebuilt: OSError: on two lines$"):
        values.unpack(packed.parts)


class TwoArguments(Exception):
    def __init__(self, first: str, second: int) -> None:
        super().__init__(first)
        self.second = second


def test_exceptions_with_arguments_of_their_own_go():
    there = copied(error=TwoArguments("a", 2), other=FileNotFoundError(2, "gone", "x"))
    assert there["error"].args == ("a",) and there["error"].second == 2
    assert there["other"].filename == "x" and there["other"].errno == 2


def test_a_module_is_an_import_by_name():
    from torch.nn import functional

    there = copied(numpy=numpy, functional=functional)
    assert there["numpy"] is numpy and there["functional"] is functional


# --- what cells define ---------------------------------------------------------------------------

CELL = """
from __future__ import annotations
import collections, dataclasses, enum
class Base:
    def __init__(self): self.a = 1
class Derived(Base):
    scale = 3
    def __init__(self):
        super().__init__()
        self.b = self.a + helper()
@dataclasses.dataclass
class Config:
    lr: float = 0.1
    names: list[str] = dataclasses.field(default_factory=list)
class Colour(enum.Enum):
    RED = 1
Point = collections.namedtuple("Point", "x y")
offset = 10
def helper(): return offset
def recursive(n): return n if n < 1 else recursive(n - 1) + _hidden()
def _hidden(): return 0
derived, config, red, point = Derived(), Config(), Colour.RED, Point(1, 2)
"""


def test_what_cells_define_goes_by_value_with_what_it_uses(cells, monkeypatch):
    exec(CELL, cells)
    names = ["derived", "config", "red", "point", "Derived", "helper", "recursive"]
    packed = values.pack({name: cells[name] for name in names})
    there = other_process(monkeypatch)
    there.update(values.unpack(packed.parts))
    assert there["derived"].b == 11 and type(there["derived"]) is there["Derived"]
    assert there["Derived"]().b == 11 and there["recursive"](3) == 0
    assert there["offset"] == 10
    assert dataclasses.asdict(there["config"]) == {"lr": 0.1, "names": []}
    assert there["red"].name == "RED" and there["point"].y == 2
    assert isinstance(there["red"], enum.Enum)


def test_functions_use_the_target_s_variables_where_it_has_them(cells, monkeypatch):
    exec("scale = 2\ndef f(): return scale, rank", cells)
    first = values.pack({"f": cells["f"]})
    cells["scale"] = 3
    second = values.pack({"f": cells["f"]})
    there = other_process(monkeypatch, rank=1)
    assert values.unpack(first.parts)["f"]() == (2, 1)
    # A newer push brings the newer value, as long as the user has not set one there.
    assert values.unpack(second.parts)["f"]() == (3, 1)
    there["scale"] = 9
    assert values.unpack(first.parts)["f"]() == (9, 1)


def test_what_a_function_uses_and_can_not_be_sent_is_told(cells, monkeypatch):
    exec("import threading\nlock = threading.Lock()\nk = 4\ndef f(): return lock, k", cells)
    packed = values.pack({"f": cells["f"]})
    assert list(packed.left_out) == ["lock"] and "cannot pickle" in packed.left_out["lock"]
    there = other_process(monkeypatch, lock="its own")
    assert values.unpack(packed.parts)["f"]() == ("its own", 4)
    assert there["k"] == 4


def test_a_class_that_both_have_defined_alike_is_one(cells, monkeypatch):
    exec(CELL, cells)
    instances = ["derived", "config", "red", "point"]
    packed = values.pack({name: cells[name] for name in instances})
    there = other_process(monkeypatch)
    exec(CELL, there)
    rebuilt = values.unpack(packed.parts)
    for name in instances:
        assert type(rebuilt[name]) is type(there[name]), name
    assert rebuilt["config"] == there["config"] and rebuilt["red"] is there["red"]
    # Another definition stays another class: its methods are those that were sent.
    changed = other_process(monkeypatch)
    exec(CELL.replace("self.a = 1", "self.a = 5"), changed)
    assert values.unpack(packed.parts)["derived"].a == 1
    derived = type(values.unpack(packed.parts)["derived"])
    assert derived is not changed["Derived"] and derived.__mro__[1] is not changed["Base"]


def test_functions_of_libraries_keep_their_own_variables(cells):
    library = types.ModuleType("not_importable")
    exec("secret = 5\ndef make():\n    return lambda: secret", library.__dict__)
    assert copied(f=library.make())["f"]() == 5  # type: ignore[attr-defined]
    assert "secret" not in cells


# --- joining -------------------------------------------------------------------------------------


def test_values_of_all_ranks_are_joined_along_the_first_axis():
    torch = pytest.importorskip("torch")
    pandas = pytest.importorskip("pandas")
    assert join_values("x", [[1], [2, 3]]) == [1, 2, 3]
    assert join_values("x", [(1,), (2,)]) == (1, 2)
    assert join_values("x", [1.5, 2]).tolist() == [1.5, 2.0]
    assert join_values("x", [numpy.ones((1, 2)), numpy.zeros((2, 2))]).shape == (3, 2)
    assert join_values("x", [torch.ones(1, 2), torch.zeros(2, 2)]).shape == (3, 2)
    assert join_values("x", [torch.tensor(1), torch.tensor(2)]).tolist() == [1, 2]
    frames = [pandas.DataFrame({"a": [rank]}) for rank in range(3)]
    assert join_values("x", frames)["a"].tolist() == [0, 1, 2]
    for wrong in ([{"a": 1}, {"a": 2}], [[1], 2], [numpy.ones((1, 2)), numpy.ones((1, 3))]):
        with pytest.raises(DdippError, match=r"^x can't be joined: .*-r all gives a list$"):
            join_values("x", wrong)


def test_a_long_list_is_packed_about_as_fast_as_by_pickle():
    import pickle

    many = [{"number": number, "text": str(number)} for number in range(50_000)]
    begin = time.perf_counter()
    pickle.loads(pickle.dumps(many, protocol=5))
    plain = time.perf_counter() - begin
    begin = time.perf_counter()
    assert copied(many=many)["many"] == many
    assert time.perf_counter() - begin < 10 * plain + 0.5
