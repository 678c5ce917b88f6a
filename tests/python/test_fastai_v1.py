"""The app for fastai 1, with the real library in an environment of its time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_apps import DATA

#: Runs cells in an IPython of that environment; a cell "name = ..." of the last line is printed.
DRIVER = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="NoColor")
for cell in json.load(sys.stdin):
    result = shell.run_cell(cell)
    if not any(fault in cell for fault in ("1 / 0", "SIGKILL")):
        result.raise_error()
print("RESULT " + json.dumps(shell.user_ns.get("results")))
"""

TRAIN = """
import tempfile
from pathlib import Path
from fastai.basic_data import DataBunch
from fastai.basic_train import Learner, load_learner
from fastai.metrics import accuracy
from fastai.train import *
if rank == 0:
    folder = [tempfile.mkdtemp()]
else:
    folder = [None]
dist.broadcast_object_list(folder)
data = DataBunch.create(
    train_set, test_set, bs=32 // world_size, num_workers=0, path=Path(folder[0]))
learn = Learner(
    data, network(), loss_func=torch.nn.functional.cross_entropy, metrics=accuracy)
before = learn.model[0].weight.detach().clone()
learn.lr_find()
assert len(learn.recorder.losses) > 20
assert learn.model[0].weight.equal(before)  # it puts the model back
learn.fit_one_cycle(6, 1e-2)
reported = float(learn.recorder.metrics[-1][0])
steps = len(learn.recorder.losses) // 6
assert type(learn.model).__name__ == "Sequential"
assert type(learn.data.train_dl.dl.sampler).__name__ == "RandomSampler"
predictions, targets = learn.get_preds()
assert len(predictions) == len(test_set), len(predictions)
score = float((predictions.argmax(1) == targets).float().mean())
weights = torch.cat([p.detach().flatten() for p in learn.model.parameters()])
learn.save("trained")
learn.load("trained")
"""

TABLE = """
import numpy as np, pandas as pd
from fastai.tabular import *
from sklearn.datasets import load_wine
wine = load_wine()
frame = pd.DataFrame(wine.data, columns=wine.feature_names)
frame["kind"] = wine.target.astype(str)
order = np.random.RandomState(0).permutation(len(frame))
frame = frame.iloc[order].reset_index(drop=True)
data = (TabularList.from_df(frame, cont_names=list(wine.feature_names), procs=[Normalize])
        .split_by_idx(list(range(0, len(frame), 4))).label_from_df("kind")
        .databunch(bs=16 // world_size, num_workers=0))
torch.manual_seed(0)
learn = tabular_learner(data, layers=[32], metrics=accuracy)
learn.fit_one_cycle(8, 1e-2)
steps = len(learn.recorder.losses) // 8
score = float(learn.validate()[1])
weights = torch.cat([p.detach().flatten() for p in learn.model.parameters()])
reported = None
"""


def run_cells(
    python: Path, folder: Path, cells: list[str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run cells, and end the group."""
    done = subprocess.run(
        [python, "-c", DRIVER],
        input=json.dumps([*cells, "%makedip -k"]),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "IPYTHONDIR": str(folder)},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done


def result_of(done: subprocess.CompletedProcess[str]) -> Any:
    """Return what a cell has called ``results``."""
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return json.loads(line.removeprefix("RESULT "))


def results_of(python: Path, folder: Path, ranks: int, code: str) -> list[dict[str, Any]]:
    """Return score, steps and the sum of the weights of each rank, after a fault and training."""
    cells = [
        "%load_ext ddipp",
        f"%makedip -n {ranks} -a fastai_v1",
        "%%dip -q\n" + DATA,
        "%%dip\nif rank == 0: 1 / 0\ndist.barrier()",
        "%%dip -q --timeout 100\n" + code,
        "results = []",
    ]
    for rank in range(ranks):
        cells += [
            f"%dipull -r {rank} score steps reported weights",
            "results.append(dict(score=score, steps=steps, reported=reported,"
            " weights=weights.double().sum().item()))",
        ]
    done = run_cells(python, folder, cells, timeout_s=170)
    assert "ZeroDivisionError" in done.stdout
    return list(result_of(done))


#: Gloo would let rank 0 wait for half an hour.
DEATH = """%%dip
import os, signal, threading
large, kept = torch.zeros(40_000_000), rank + 10
if rank == 1: threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
while True: dist.broadcast(large, 0)
"""


def test_a_death_in_the_middle_of_a_large_message(tmp_path: Path, ddipp_for_fastai_v1: Path):
    cells = ["%load_ext ddipp", "%makedip -n 2 -a fastai_v1", DEATH, "%dipull kept"]
    done = run_cells(ddipp_for_fastai_v1, tmp_path, [*cells, "results = kept"], timeout_s=60)
    assert "rank 1 died: it was killed by signal 9" in done.stdout
    assert result_of(done) == 10


@pytest.mark.parametrize(("code", "least"), [(TRAIN, 0.88), (TABLE, 0.9)], ids=["images", "table"])
def test_training_on_two_ranks_is_as_good_as_on_one(
    tmp_path: Path, ddipp_for_fastai_v1: Path, code: str, least: float
):
    (one,) = results_of(ddipp_for_fastai_v1, tmp_path, 1, code)
    two, other = results_of(ddipp_for_fastai_v1, tmp_path, 2, code)
    assert two["weights"] == other["weights"]
    assert one["score"] > least
    assert two["score"] == pytest.approx(one["score"], abs=0.04)
    assert two["steps"] == pytest.approx(one["steps"], abs=1)
    for result in (one, two, other):
        if result["reported"] is not None:
            assert result["reported"] == pytest.approx(result["score"], abs=0.02)


def test_what_is_wrong_with_an_environment_is_said_in_one_line(tmp_path: Path, monkeypatch):
    from ddipp import DdippError
    from ddipp.apps.fastai_v1 import library

    real = {name: module for name, module in sys.modules.items() if name.startswith("fastai")}

    def forget() -> None:
        for name in [name for name in sys.modules if name.startswith("fastai")]:
            del sys.modules[name]

    def complaint() -> str:
        forget()
        with pytest.raises(DdippError) as error:
            library()
        return str(error.value)

    (tmp_path / "fastai").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "fastai" / "__init__.py").write_text("__version__ = '2.8.12'\n")
    assert complaint().startswith("this is fastai 2.8.12, for which there is -a fastai_v2; ")
    (tmp_path / "fastai" / "__init__.py").write_text("__version__ = '1.0.61'\n")
    (tmp_path / "fastai" / "basic_train.py").write_text("import pkg_resources_of_old\n")
    assert complaint().startswith(
        "fastai 1.0.61 can't be loaded here (No module named 'pkg_resources_of_old'); "
    )
    assert '"torch==1.13.1"' in complaint()
    (tmp_path / "fastai" / "__init__.py").write_text("raise ImportError\n")
    assert complaint().startswith("fastai is not installed; ")
    forget()
    sys.modules.update(real)
