"""What is asked of the NVIDIA driver's library, answered by a stand-in with its C interface.

It holds the calls and their structures to NVML's documentation; real GPUs are `make gpu-check`'s.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from conftest import Cluster
from ddipp.backends import backend_named
from ddipp.cluster.launchers import engine_environment
from ddipp.group.calls import Ranks
from ddipp.group.formation import environments
from ddipp.group.report import table
from ddipp.on_rank.process import set_environment

STAND_IN = r"""
#include <stdio.h>
#include <string.h>
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Utilization;
static int devices[2] = {0, 1};
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned* count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  if (index > 1) return 2;
  *device = &devices[index];
  return 0;
}
int nvmlDeviceGetUUID(void* device, char* text, unsigned size) {
  snprintf(text, size, "GPU-%d", *(int*)device);
  return 0;
}
int nvmlDeviceGetHandleByUUID(const char* uuid, void** device) {
  if (strncmp(uuid, "GPU-", 4) != 0) return 2;
  return nvmlDeviceGetHandleByIndex_v2((unsigned)(uuid[4] - '0'), device);
}
int nvmlDeviceGetMemoryInfo(void* device, Memory* memory) {
  memory->total = 80ull << 30;
  memory->used = (unsigned long long)(*(int*)device + 1) << 30;
  memory->free = memory->total - memory->used;
  return 0;
}
int nvmlDeviceGetUtilizationRates(void* device, Utilization* rates) {
  rates->gpu = 90u + (unsigned)*(int*)device;
  rates->memory = 5;
  return 0;
}
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc to build a stand-in for the driver's library")
    folder = tmp_path / "driver"
    folder.mkdir()
    (folder / "nvml.c").write_text(STAND_IN)
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", folder / "nvml.c", "-o", library], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}")
    return library


def test_gpus_are_counted_and_named_by_uuid(driver: Path):
    code = "from ddipp.shared.devices import *; print(gpu_count(), gpu_uuids(), choose_gpus('1,0'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 ['GPU-0', 'GPU-1'] [1, 0]"


def test_ranks_see_the_gpus_of_their_group_in_rank_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ddipp.cluster.launchers.gpu_uuids", lambda: ["GPU-a", "GPU-b", "GPU-c"])
    assert engine_environment([2, 0]) == {"CUDA_VISIBLE_DEVICES": "GPU-c,GPU-a"}
    assert engine_environment(None) == {"CUDA_VISIBLE_DEVICES": ""}


def test_the_watchdog_of_nccl_keeps_still_unless_the_user_wants_it():
    facts = [{"host": "here", "cores": 4, "interface": ""}] * 2
    with mock.patch.dict(os.environ, {"TORCH_NCCL_ENABLE_MONITORING": "1"}, clear=True):
        for values, defaults in environments(facts, backend_named("nccl")):
            set_environment(values, defaults)
        assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "0"
        assert os.environ["TORCH_NCCL_ENABLE_MONITORING"] == "1"
    _, defaults = environments(facts, backend_named("gloo"))[0]
    assert not any("NCCL" in name for name in defaults)


def test_reports_have_the_figures_of_each_ranks_gpu(driver: Path, cluster: Cluster):
    cluster.start_controller()
    for _ in range(3):
        cluster.start_engine()
    client = cluster.client(3)
    ranks = Ranks(client, client.ids, ["0", "0", "GPU-7"])
    ranks.know_gpus(["GPU-1", "", ""])  # the others don't know better
    reports = ranks.reports()
    figures = [report.gpu for report in reports]
    assert figures[0] == {"memory_used": 2 << 30, "memory_total": 80 << 30, "utilisation": 91}
    assert figures[1] == {"memory_used": 1 << 30, "memory_total": 80 << 30, "utilisation": 90}
    assert figures[2] is None  # no such GPU
    assert "2.0/80.0 GiB, 91 %" in table(reports)
    ranks = Ranks(client, client.ids)
    assert not any(report.gpu for report in ranks.reports())
    ranks.know_gpus(["GPU-0", "GPU-1", "GPU-1"])
    assert [report.gpu["utilisation"] for report in ranks.reports()] == [90, 91, 91]
