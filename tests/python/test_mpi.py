"""Engines as the processes of one MPI job."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess

import pytest
from conftest import BIN, Cluster

pytestmark = pytest.mark.skipif(
    not (shutil.which("mpiexec") and importlib.util.find_spec("mpi4py")),
    reason="needs mpiexec and mpi4py: make peers",
)


def test_ranks_are_ids_and_the_job_ends_well(cluster: Cluster):
    cluster.start_controller()
    log = cluster.folder / "mpiexec.log"
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = ["mpiexec", "--oversubscribe", "-n", "2", BIN / "dipengine", "--mpi"]
    with log.open("wb") as file:
        job = subprocess.Popen(
            [*command, f"--profile-dir={cluster.folder}"],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **as_root},
        )
    cluster.processes.append(job)
    client = cluster.client(2)
    view = client[:]
    view.execute("total = MPI.COMM_WORLD.allreduce(mpi_rank + 1)", block=True)
    assert view.pull(["mpi_rank", "mpi_size", "total"], block=True) == [[0, 2, 3], [1, 2, 3]]
    client.shutdown(block=True)
    assert job.wait(20) == 0, log.read_text()
