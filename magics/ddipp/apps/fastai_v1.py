"""The app for fastai 1: ``learn.fit_one_cycle(3)`` of a single-device notebook trains on all ranks.

fastai's own ``DistributedTrainer`` assumes CUDA, and its module needs spaCy. The callback here does
the same with the group's device, only while a fit lasts, so that ``predict``, ``show_results``,
``export`` and ``lr_find`` find the learner as they know it.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

from ..errors import DdippError
from .plain import TorchApp

PINS = (
    "fastai 1 needs an environment of its time, for example Python 3.10 with: pip install "
    '"fastai==1.0.61" "torch==1.13.1" "torchvision==0.14.1" "numpy<1.24" "pandas<2" "pillow<10" '
    '"matplotlib<3.8" "setuptools<81" ddipp'
)

#: Callbacks that may stop at any batch by what its loss is.
STOP_BY_LOSS = {"LRFinder", "TerminateOnNaNCallback"}


def library() -> Any:
    """Return fastai's module of learners.

    Raises
    ------
    DdippError
        With one line that says what to install.
    """
    try:
        import fastai
    except ImportError:
        raise DdippError(f"fastai is not installed; {PINS}") from None
    version = str(getattr(fastai, "__version__", ""))
    if not version.startswith("1."):
        raise DdippError(f"this is fastai {version}, for which there is -a fastai_v2; {PINS}")
    try:
        return importlib.import_module("fastai.basic_train")
    except Exception as error:  # of whatever its dependencies have dropped since
        raise DdippError(f"fastai {version} can't be loaded here ({error}); {PINS}") from None


class FastaiApp(TorchApp):
    """Wraps ``Learner.fit``, through which every training of fastai goes."""

    def __init__(self) -> None:
        self._fit: Any = None
        self._bars: list[tuple[Any, str, Any]] = []

    def start(self, rank: int, world_size: int) -> None:
        """Prepare this rank."""
        super().start(rank, world_size)
        basic_train = library()
        _repair_torch()
        _follow_device(basic_train)
        learner_class = basic_train.Learner
        self._fit = fit = learner_class.fit

        @functools.wraps(fit)
        def fit_on_all_ranks(
            learner: Any, epochs: int, lr: Any = None, wd: Any = None, callbacks: Any = None
        ) -> Any:
            given = {} if lr is None else {"lr": lr}
            callbacks = list(callbacks or [])
            if not _is_wrapped(learner):
                names = {type(callback).__name__ for callback in [*callbacks, *learner.callbacks]}
                callbacks.append(_trainer_class()(learner, rank, bool(names & STOP_BY_LOSS)))
            return fit(learner, epochs, wd=wd, callbacks=callbacks, **given)

        learner_class.fit = fit_on_all_ranks
        if rank != 0:
            self._silence()

    def stop(self) -> None:
        """Undo `start`."""
        super().stop()
        if self._fit is not None:
            sys.modules["fastai.basic_train"].Learner.fit = self._fit  # type: ignore[attr-defined]
        for module, name, bar in self._bars:
            setattr(module, name, bar)
        self._bars.clear()

    def _silence(self) -> None:
        """Replace the progress bars by those of the console, which know how to be quiet."""
        bars = importlib.import_module("fastprogress.fastprogress")
        self._swap(bars, "NO_BAR", True)
        quiet = dict(zip(("master_bar", "progress_bar"), bars.force_console_behavior()))
        for module in [*sys.modules.values()]:
            if getattr(module, "__name__", "").partition(".")[0] not in ("fastai", "fastprogress"):
                continue
            for name, bar in quiet.items():
                if name in vars(module):
                    self._swap(module, name, bar)

    def _swap(self, module: Any, name: str, value: Any) -> None:
        self._bars.append((module, name, getattr(module, name)))
        setattr(module, name, value)


def _is_wrapped(learner: Any) -> bool:
    from torch.nn.parallel import DistributedDataParallel

    return isinstance(learner.model, DistributedDataParallel) or any(
        type(callback).__name__ == "DistributedTrainer" for callback in learner.callbacks
    )


def _repair_torch() -> None:
    """Give fastai's image warps the ``torch.solve`` that torch has dropped."""
    torch: Any = importlib.import_module("torch")
    solve = getattr(torch, "solve", None)
    if solve is None or hasattr(solve, "__wrapped__"):
        return

    @functools.wraps(solve)
    def solve_now(b: Any, a: Any) -> tuple[Any, None]:
        return torch.linalg.solve(a, b), None

    torch.solve = solve_now


def _follow_device(basic_train: Any) -> None:
    """Let new data go to the rank's own GPU; fastai has looked for it once, when it was loaded."""
    import torch

    if torch.cuda.is_available():
        basic_train.defaults.device = torch.device("cuda", torch.cuda.current_device())


@functools.cache
def _trainer_class() -> Any:
    import torch
    import torch.distributed as dist
    from fastai.basic_train import LearnerCallback
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.data import RandomSampler
    from torch.utils.data.distributed import DistributedSampler

    class GroupTrainer(LearnerCallback):  # type: ignore[misc]
        """Wraps the model in DistributedDataParallel and shares out the data."""

        _order = -20  # before the recorder, and before all that decides by what was recorded

        def __init__(self, learn: Any, rank: int, watches_loss: bool) -> None:
            super().__init__(learn)
            self.rank = rank
            self.watches_loss = watches_loss

        def _shared(self, loader: Any) -> Any:
            shuffle = isinstance(loader.sampler, RandomSampler)
            sampler: Any = DistributedSampler(loader.dataset, shuffle=shuffle)
            # Losses and metrics are averaged over ranks: all need the same number of batches.
            return loader.new(shuffle=False, sampler=sampler)

        def _average(self, values: list[Any]) -> list[Any]:
            device = self.learn.data.device
            numbers = [value for value in values if isinstance(value, (int, float, torch.Tensor))]
            if len(numbers) < len(values) or any(torch.as_tensor(n).numel() != 1 for n in numbers):
                return values
            total = torch.tensor([float(n) for n in numbers], device=device, dtype=torch.float64)
            dist.all_reduce(total)
            return [total[i].float().cpu() / dist.get_world_size() for i in range(len(numbers))]

        def on_train_begin(self, callbacks: Any = None, **kwargs: Any) -> None:
            data = self.learn.data
            self.before = (data.train_dl, data.valid_dl, self.learn.recorder.silent)
            device = next(self.learn.model.parameters()).device
            ids = [device.index] if device.type == "cuda" else None
            self.learn.model = DistributedDataParallel(self.learn.model, device_ids=ids)
            data.train_dl = self._shared(data.train_dl)
            if data.valid_dl is not None:
                data.valid_dl = self._shared(data.valid_dl)
            if self.rank != 0:
                self.learn.recorder.silent = True

        def on_epoch_begin(self, epoch: int, **kwargs: Any) -> None:
            self.learn.data.train_dl.dl.sampler.set_epoch(epoch)

        def on_batch_end(
            self, smooth_loss: Any, last_loss: Any, train: bool, **kwargs: Any
        ) -> dict[str, Any]:
            if not (train and self.watches_loss):
                return {}
            smooth, last = self._average([smooth_loss, last_loss])  # all stop at the same batch
            return {"smooth_loss": smooth, "last_loss": last}

        def on_epoch_end(self, last_metrics: list[Any], **kwargs: Any) -> dict[str, Any]:
            return {"last_metrics": self._average(last_metrics)} if last_metrics else {}

        def on_train_end(self, **kwargs: Any) -> None:
            data = self.learn.data
            data.train_dl, data.valid_dl, self.learn.recorder.silent = self.before
            if isinstance(self.learn.model, DistributedDataParallel):
                self.learn.model = self.learn.model.module

    return GroupTrainer
