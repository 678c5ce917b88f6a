"""Training in cells gives the weights that torchrun gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Notebook

torch = pytest.importorskip("torch", reason="torch is not installed")

SCRIPT = Path(__file__).with_name("train_digits.py")


@pytest.mark.parametrize("ranks", [2, 3])
def test_weights_are_those_of_torchrun(notebook: Notebook, tmp_path: Path, ranks: int):
    notebook.run(f"%makedip -n {ranks}")
    try:
        notebook.run("%%dip\n" + SCRIPT.read_text())
        weights = []
        for rank in range(ranks):
            notebook.run(f"%dipull -r {rank} weights")
            weights.append(notebook["weights"])
    finally:
        notebook.run("%makedip -k")
    assert all(torch.equal(weights[0], other) for other in weights[1:])

    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nproc-per-node={ranks}",
            "--master-port=0",
            "--rdzv-backend=c10d",
            "--rdzv-endpoint=127.0.0.1:0",
            SCRIPT,
            tmp_path,
        ],
        check=True,
        timeout=150,
    )
    for rank in range(ranks):
        reference = torch.load(tmp_path / f"weights-{rank}.pt")
        assert torch.allclose(weights[rank], reference, rtol=0, atol=1e-5)
    start = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    assert len(weights[0]) == sum(p.numel() for p in start.parameters())
