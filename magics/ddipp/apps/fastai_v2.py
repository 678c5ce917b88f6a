"""The app for fastai 2: ``learn.fit_one_cycle(3)`` of a single-device notebook trains on all ranks.

fastai's own ``DistributedTrainer`` assumes CUDA. The callback here does the same with the group's
device, only while a fit lasts, so that ``predict``, ``show_results``, ``export`` and ``lr_find``
find the learner as they know it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
from collections.abc import Iterator
from typing import Any

from ..errors import DdippError
from .plain import TorchApp

#: Callbacks that may stop at any batch by what its loss is.
STOP_BY_LOSS = {"LRFinder", "TerminateOnNaNCallback"}


class FastaiApp(TorchApp):
    """Wraps ``Learner.fit``, through which every training of fastai goes."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any]] = []

    def start(self, rank: int, world_size: int) -> None:
        """Prepare this rank."""
        super().start(rank, world_size)
        try:
            import fastai
        except ImportError:
            raise DdippError(
                "fastai is not installed; install it with: pip install fastai"
            ) from None
        if int(fastai.__version__.partition(".")[0]) < 2:
            raise DdippError(f"this is fastai {fastai.__version__}; the app is for fastai 2")
        from fastai.learner import Learner

        fit, to_detach = Learner.fit, Learner.to_detach

        @functools.wraps(fit)
        def fit_on_all_ranks(learner: Any, *args: Any, **kwargs: Any) -> Any:
            with _on_all_ranks(learner, rank):
                return fit(learner, *args, **kwargs)

        @functools.wraps(to_detach)
        def to_detach_of_the_loader(
            learner: Any, b: Any, cpu: bool = True, gather: bool = True
        ) -> Any:
            # What is not shared out must not be gathered: predictions would come once a rank.
            shared = isinstance(getattr(learner, "dl", None), _loader_class())
            return to_detach(learner, b, cpu, gather and shared)

        self._replace(Learner, "fit", fit_on_all_ranks)
        self._replace(Learner, "to_detach", to_detach_of_the_loader)
        self._replace_finder()

    def stop(self) -> None:
        """Undo `start`."""
        super().stop()
        for owner, name, original in self._replaced:
            setattr(owner, name, original)
        self._replaced.clear()

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        self._replaced.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def _replace_finder(self) -> None:
        """Let ``lr_find`` keep the model in memory.

        fastai keeps it in a file of rank 0 and puts it back there only, with a barrier that the
        other ranks do not come to.
        """
        from fastai.callback.schedule import LRFinder, ParamScheduler

        def before_fit(finder: Any) -> None:
            ParamScheduler.before_fit(finder)
            finder.best_loss = float("inf")
            finder.state_before = _copy_state(finder.learn)

        def after_fit(finder: Any) -> None:
            learner = finder.learn
            learner.opt.zero_grad()
            model, optimizer = finder.__dict__.pop("state_before")
            _bare(learner.model).load_state_dict(model)
            learner.opt.load_state_dict(optimizer)

        self._replace(LRFinder, "before_fit", before_fit)
        self._replace(LRFinder, "after_fit", after_fit)


def _bare(model: Any) -> Any:
    from torch.nn.parallel import DistributedDataParallel

    return model.module if isinstance(model, DistributedDataParallel) else model


def _copy_state(learner: Any) -> tuple[Any, Any]:
    """Return copies of what a model and its optimizer hold, in main memory."""
    file = io.BytesIO()
    torch: Any = importlib.import_module("torch")
    torch.save((_bare(learner.model).state_dict(), learner.opt.state_dict()), file)
    file.seek(0)
    return tuple(torch.load(file, map_location="cpu", weights_only=False))  # type: ignore[return-value]


@functools.cache
def _loader_class() -> Any:
    import torch
    import torch.distributed as dist
    from fastai.distributed import DistributedDL

    class GroupDL(DistributedDL):  # type: ignore[misc]
        """Shares out batches over the ranks; the order is that of rank 0."""

        def _broadcast(self, t: Any, rank: int) -> list[int]:
            device = self.device if dist.get_backend() == "nccl" else "cpu"
            order = torch.tensor(t, dtype=torch.int64, device=device)
            dist.broadcast(order, rank)
            return list(order.tolist())

    return GroupDL


@contextlib.contextmanager
def _on_all_ranks(learner: Any, rank: int) -> Iterator[None]:
    """Wrap model and data loaders while a fit lasts, whatever ends it."""
    from fastcore.basics import noop
    from torch.nn.parallel import DistributedDataParallel

    if isinstance(learner.model, DistributedDataParallel):
        yield  # the user has done it
        return
    loaders, logger = list(learner.dls.loaders), learner.logger
    callback = _callback_class()()
    with contextlib.ExitStack() as stack:
        if rank != 0:
            stack.enter_context(learner.no_bar())
            learner.logger = noop
        learner.add_cb(callback)
        try:
            yield
        finally:
            learner.remove_cb(callback)
            learner.model = _bare(learner.model)
            learner.dls.loaders = loaders
            learner.logger = logger


@functools.cache
def _callback_class() -> Any:
    import torch.distributed as dist
    from fastai.callback.core import Callback
    from torch.nn.parallel import DistributedDataParallel

    loader_class = _loader_class()

    class GroupTrainer(Callback):  # type: ignore[misc]
        """Wraps the model in DistributedDataParallel and shares out the data."""

        order = 11

        def _wrap(self, dl: Any) -> Any:
            return dl if isinstance(dl, loader_class) else loader_class(dl, device=self.dls.device)

        def before_fit(self) -> None:
            names = {type(callback).__name__ for callback in self.learn.cbs}
            self.watches_loss = bool(names & STOP_BY_LOSS)
            device = next(self.learn.model.parameters()).device
            ids = [device.index] if device.type == "cuda" else None
            self.learn.model = DistributedDataParallel(self.learn.model, device_ids=ids)
            self.learn.dls.loaders = [self._wrap(dl) for dl in self.learn.dls.loaders]

        def after_backward(self) -> None:
            if self.watches_loss:  # all ranks have to stop at the same batch
                loss = self.learn.loss.detach().clone()
                dist.all_reduce(loss)
                self.learn.loss = loss / dist.get_world_size()

        def before_train(self) -> None:
            self.learn.dl = self._wrap(self.learn.dl)

        def before_validate(self) -> None:
            self.learn.dl = self._wrap(self.learn.dl)

    return GroupTrainer
