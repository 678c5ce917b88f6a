"""The app for fastai 2: ``learn.fit_one_cycle(3)`` of a single-device notebook trains on all ranks.

fastai's own ``DistributedTrainer`` assumes CUDA. The callback here does the same with the group's
device, only while a fit lasts, so that ``predict``, ``show_results``, ``export`` and ``lr_find``
find the learner as they know it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from ..errors import DdippError
from .plain import TorchApp


class FastaiApp(TorchApp):
    """Wraps ``Learner.fit``, through which every training of fastai goes."""

    def __init__(self) -> None:
        self._fit: Any = None
        self._to_detach: Any = None

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

        self._fit, self._to_detach = Learner.fit, Learner.to_detach
        fit, to_detach = self._fit, self._to_detach

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

        Learner.fit, Learner.to_detach = fit_on_all_ranks, to_detach_of_the_loader

    def stop(self) -> None:
        """Undo `start`."""
        super().stop()
        if self._fit is not None:
            from fastai.learner import Learner

            Learner.fit, Learner.to_detach = self._fit, self._to_detach


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
            if isinstance(learner.model, DistributedDataParallel):
                learner.model = learner.model.module
            learner.dls.loaders = loaders
            learner.logger = logger


@functools.cache
def _callback_class() -> Any:
    from fastai.callback.core import Callback
    from torch.nn.parallel import DistributedDataParallel

    loader_class = _loader_class()

    class GroupTrainer(Callback):  # type: ignore[misc]
        """Wraps the model in DistributedDataParallel and shares out the data."""

        order = 11

        def _wrap(self, dl: Any) -> Any:
            return dl if isinstance(dl, loader_class) else loader_class(dl, device=self.dls.device)

        def before_fit(self) -> None:
            device = next(self.learn.model.parameters()).device
            ids = [device.index] if device.type == "cuda" else None
            self.learn.model = DistributedDataParallel(self.learn.model, device_ids=ids)
            self.learn.dls.loaders = [self._wrap(dl) for dl in self.learn.dls.loaders]

        def before_train(self) -> None:
            self.learn.dl = self._wrap(self.learn.dl)

        def before_validate(self) -> None:
            self.learn.dl = self._wrap(self.learn.dl)

    return GroupTrainer
