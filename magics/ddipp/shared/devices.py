"""Which GPUs there are, found without starting CUDA in the notebook's process."""

from __future__ import annotations

import ctypes
import re

from ..errors import DdippError


def gpu_count() -> int:
    """Return the number of NVIDIA GPUs of this machine, 0 without a driver."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return 0
    if nvml.nvmlInit_v2() != 0:
        return 0
    try:
        count = ctypes.c_uint(0)
        return count.value if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0 else 0
    finally:
        nvml.nvmlShutdown()


def gpu_uuids() -> list[str]:
    """Return the UUID of each GPU of this machine, in the driver's order."""
    nvml = ctypes.CDLL("libnvidia-ml.so.1")
    if nvml.nvmlInit_v2() != 0:
        return []
    try:
        return [_uuid(nvml, index) for index in range(gpu_count())]
    finally:
        nvml.nvmlShutdown()


def _uuid(nvml: ctypes.CDLL, index: int) -> str:
    device = ctypes.c_void_p()
    text = ctypes.create_string_buffer(96)  # NVML_DEVICE_UUID_V2_BUFFER_SIZE
    if (
        nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) != 0
        or nvml.nvmlDeviceGetUUID(device, text, len(text)) != 0
    ):
        return str(index)  # CUDA takes that too
    return text.value.decode()


def parse_ids(text: str) -> list[int]:
    """Read a list such as ``"0,2-3"`` and keep its order.

    Raises
    ------
    DdippError
        When it is not such a list or names an id twice.
    """
    ids: list[int] = []
    for item in filter(None, re.split(r"[,\s]+", text.strip())):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        if match is None:
            raise DdippError(f"{text!r} is not a list of ids; write it as 0,2-3")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise DdippError(f"{item!r} counts backwards; write it as {last}-{first}")
        ids.extend(range(first, last + 1))
    if not ids:
        raise DdippError("the list of ids is empty")
    if len(set(ids)) != len(ids):
        raise DdippError(f"{text!r} names an id twice")
    return ids


def choose_gpus(wish: str, available: int | None = None) -> list[int]:
    """Return the GPU ids that `wish`, ``"all"`` or a list, means.

    Parameters
    ----------
    wish : str
        The text after ``-g``.
    available : int, optional
        The number of GPUs; counted when not given.

    Raises
    ------
    DdippError
        When there is no GPU or no GPU of that id.
    """
    available = gpu_count() if available is None else available
    if available == 0:
        raise DdippError("there is no GPU on this machine; use CPU ranks: %makedip -n 2")
    if wish.strip().lower() == "all":
        return list(range(available))
    ids = parse_ids(wish)
    unknown = [i for i in ids if i >= available]
    if unknown:
        have = "only GPU 0" if available == 1 else f"GPUs 0-{available - 1}"
        raise DdippError(f"there is no GPU {unknown[0]}; this machine has {have}")
    return ids
