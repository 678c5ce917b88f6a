"""NCCL: GPU ranks, whose collectives are queued for the GPU and have an abort of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..recovery.facts import Conduct
from .base import Backend

#: The watchdog of NCCL groups leaves it to us what follows from an error: it would abort the
#: collective without an interrupt, and the cell would go on with half a result. It does not end the
#: process either, and ends itself at once (after an error it sleeps four times WAIT_TIMEOUT_DUMP, a
#: minute if not set).
ENVIRONMENT = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TORCH_NCCL_RETHROW_CUDA_ERRORS": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC": "1",
}


@dataclass(frozen=True)
class NcclBackend(Backend):
    """Devices are GPUs."""

    def device(self, local_rank: int) -> Any:
        """Return the GPU of a rank, and make it the present one. On the rank."""
        import torch

        # As accelerate counts; only a test has more ranks than GPUs.
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device

    def init_options(self, device: Any) -> dict[str, Any]:
        """Return further arguments of ``init_process_group``."""
        return {"device_id": device}

    def barrier_options(self, device: Any) -> dict[str, Any]:
        """Return arguments of ``barrier``."""
        return {"device_ids": [device.index or 0]}


NCCL = NcclBackend(
    name="nccl",
    spec="nccl",
    conduct=Conduct(queued=True),
    cut_after_s=1.2,
    guards_sockets=False,  # its bootstrap threads don't expect their sockets to fail
    settles=True,
    frees_first=True,
    aborts=True,
    device_kind="GPU",
    environment=ENVIRONMENT,
    loopback=False,
)
