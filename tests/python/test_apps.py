"""Real trainings of the libraries that apps prepare ranks for, on scikit-learn's digits.

Each is a notebook's code for one device, run on one rank and on two.
"""

from __future__ import annotations

import importlib.util

import pytest
from conftest import Notebook
from ddipp.apps import app_for_imports, known_apps

DATA = """
import numpy as np
from sklearn.datasets import load_digits
torch.manual_seed(0)
np.random.seed(0)
images, labels = load_digits(return_X_y=True)
images = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
labels = torch.tensor(labels)
train_set = torch.utils.data.TensorDataset(images[:1440], labels[:1440])
test_set = torch.utils.data.TensorDataset(images[1440:], labels[1440:])
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(256, 10))
"""

ACCELERATE = """
from accelerate import Accelerator
accelerator = Accelerator()
model = network()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
loader = torch.utils.data.DataLoader(train_set, batch_size=32 // world_size, shuffle=True)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for epoch in range(6):
    for x, y in loader:
        optimizer.zero_grad()
        accelerator.backward(torch.nn.functional.cross_entropy(model(x), y))
        optimizer.step()
trained = accelerator.unwrap_model(model)
steps = len(loader)
"""

LIGHTNING = """
import lightning
class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = network()
    def training_step(self, batch, _):
        x, y = batch
        return torch.nn.functional.cross_entropy(self.network(x), y)
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)
module = Digits()
trainer = lightning.Trainer(max_epochs=6, logger=False, enable_checkpointing=False,
                            enable_progress_bar=False, enable_model_summary=False)
loader = torch.utils.data.DataLoader(train_set, batch_size=32 // world_size, shuffle=True)
trainer.fit(module, loader)
trained = module.network
steps = trainer.global_step // 6
"""

FASTAI = """
from fastai.vision.all import DataLoader, DataLoaders, Learner, CrossEntropyLossFlat, accuracy
loaders = DataLoader(train_set, bs=32 // world_size, shuffle=True), DataLoader(test_set, bs=64)
dls = DataLoaders(*loaders, device=torch.device('cpu'))
learn = Learner(dls, network(), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
before = learn.model[0].weight.detach().clone()
found = learn.lr_find(show_plot=False, suggest_funcs=())
assert learn.model[0].weight.equal(before)  # it puts the model back, on all ranks
tried = len(learn.recorder.losses)
learn.fit_one_cycle(6, 1e-2)
steps = len(learn.recorder.losses) // 6
trained = learn.model
assert type(trained).__name__ == 'Sequential'
assert type(learn.dls.train).__name__ == 'DataLoader'
predictions, targets = learn.get_preds()
assert len(predictions) == len(test_set), len(predictions)
reported = float(learn.recorder.values[-1][-1])
assert abs(reported - (predictions.argmax(1) == targets).float().mean().item()) < 0.02
"""

SCORE = """
trained.eval()
with torch.no_grad():
    score = (trained(images[1440:]).argmax(1) == labels[1440:]).float().mean().item()
weights = torch.cat([p.detach().flatten() for p in trained.parameters()])
"""


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.mark.parametrize(
    ("app", "code"),
    [
        pytest.param("accelerate", ACCELERATE, marks=needs("accelerate")),
        pytest.param("lightning", LIGHTNING, marks=needs("lightning")),
        pytest.param("fastai_v2", FASTAI, marks=needs("fastai")),
    ],
)
def test_training_on_two_ranks_is_as_good_as_on_one(notebook: Notebook, app: str, code: str):
    results = {}
    for ranks in (1, 2):
        notebook.run(f"%makedip -n {ranks} -a {app}")
        try:
            notebook.run("%%dip -q\n" + DATA)
            notebook.run("%%dip -q --timeout 100\n" + code)
            notebook.run("%%dip -q\n" + SCORE)
            weights = []
            for rank in range(ranks):
                notebook.run(f"%dipull -r {rank} weights score steps")
                weights.append(notebook["weights"])
            # The model comes back and is used here.
            notebook.run("%dipull trained images labels")
            notebook.run(
                "found = (trained.eval()(images[1440:]).argmax(1) == labels[1440:]).float().mean()"
            )
            assert float(notebook["found"]) == pytest.approx(notebook["score"], abs=1e-6)
            results[ranks] = (notebook["score"], notebook["steps"])
            assert all(weights[0].equal(other) for other in weights)
            # A second fit, and after a failure: the group is another generation then.
            notebook.fail("%%dip\nif rank == 0: 1 / 0\ndist.barrier()")
            notebook.run("%%dip -q\n" + code)
        finally:
            notebook.run("%makedip -k")
    # The same number of samples in a step, so as many steps and as good a network.
    assert results[1][0] > 0.88
    assert results[2][0] == pytest.approx(results[1][0], abs=0.03)
    assert results[2][1] == results[1][1]


TABLE = """
import pandas as pd
from fastai.tabular.all import (
    CategoryBlock, Normalize, TabularDataLoaders, accuracy, tabular_learner)
from sklearn.datasets import load_breast_cancer
cancer = load_breast_cancer()
frame = pd.DataFrame(cancer.data.astype('float32'), columns=cancer.feature_names)
frame['kind'] = cancer.target
torch.manual_seed(0)
dls = TabularDataLoaders.from_df(
    frame, cont_names=list(cancer.feature_names), cat_names=[], y_names='kind', procs=[Normalize],
    y_block=CategoryBlock(), valid_idx=list(range(0, len(frame), 4)), bs=32 // world_size,
    device=torch.device('cpu'))
torch.manual_seed(0)
learn = tabular_learner(dls, layers=[32], metrics=accuracy)
learn.fit_one_cycle(5, 1e-2)
score = float(learn.validate()[1])
weights = torch.cat([p.detach().flatten() for p in learn.model.parameters()])
"""


@needs("fastai")
def test_a_table_with_fastai_2(notebook: Notebook):
    scores = {}
    for ranks in (1, 2):
        notebook.run(f"%makedip -n {ranks} -a fastai_v2")
        try:
            notebook.run("%%dip -q --timeout 100\n" + TABLE)
            notebook.run(f"%dipull -r {ranks - 1} weights")
            other = notebook["weights"]
            notebook.run("%dipull weights score")
            assert notebook["weights"].equal(other)
            scores[ranks] = notebook["score"]
        finally:
            notebook.run("%makedip -k")
    assert scores[1] > 0.92
    assert scores[2] == pytest.approx(scores[1], abs=0.04)


def test_apps_are_known_and_chosen_by_what_is_imported(notebook: Notebook, monkeypatch, capsys):
    import sys
    import types

    known = {"torch", "accelerate", "fastai_v1", "fastai_v2", "lightning"}
    assert known <= set(known_apps())
    for module in ("accelerate", "lightning", "pytorch_lightning", "fastai"):
        monkeypatch.delitem(sys.modules, module, raising=False)  # pulling a model may bring them
    assert app_for_imports() == "torch"
    for module, version, app in (
        ("accelerate", "1", "accelerate"),
        ("lightning", "2", "lightning"),
        ("fastai", "2.8.12", "fastai_v2"),
        ("fastai", "1.0.61", "fastai_v1"),
    ):
        fake = types.ModuleType(module)
        fake.__version__ = version  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module, fake)
        assert app_for_imports() == app
    for module in ("accelerate", "lightning", "fastai"):
        monkeypatch.delitem(sys.modules, module)
    notebook.run("%makedip -n 1 -a auto")
    assert "app torch" in capsys.readouterr().out
    notebook.run("%makedip -k")


def test_an_app_that_finds_the_wrong_library_says_so_in_one_line(
    notebook: Notebook, monkeypatch, tmp_path
):
    (tmp_path / "fastai.py").write_text("__version__ = '1.0.61'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    error = notebook.fail("%makedip -n 1 -a fastai_v2")
    assert str(error) == "this is fastai 1.0.61; the app is for fastai 2"
