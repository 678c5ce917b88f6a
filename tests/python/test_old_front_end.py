"""A kernel and ranks with IPython 8 and ipykernel 6.17, as many platforms still have them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cell_output import CellOutput
from environments import overlay
from jupyter_client.manager import KernelManager

OLD = ("ipython==8.12.3", "ipykernel==6.17.1", "backcall==0.2.0", "pickleshare==0.7.5")


@pytest.fixture
def client(ipython_dir: Path, monkeypatch) -> Any:
    monkeypatch.setenv("PYTHONPATH", str(overlay("ipython8", *OLD)))
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield client
    client.stop_channels()
    manager.shutdown_kernel()


def test_values_output_and_tracebacks(client: Any):
    def run(cell: str) -> tuple[CellOutput, dict[str, Any]]:
        came: list[dict[str, Any]] = []
        reply = client.execute_interactive(cell, timeout=100, output_hook=came.append)
        return CellOutput(came), reply["content"]

    run("%load_ext ddipp\n%makedip -n 2")
    versions, _ = run(
        "%%dip -S all\nimport IPython, ipykernel\nprint(IPython.__version__, ipykernel.__version__)"
    )
    assert versions.text == "[ranks 0-1]\n8.12.3 6.17.1\n"
    late, _ = run("%%dip -S all\nimport time; time.sleep(.3 * rank); print('same'); print(rank)")
    assert late.text == "[ranks 0-1]\nsame\n[rank 0]\n0\n[rank 1]\n1\n"
    cleared, _ = run(
        "%%dip\nfrom IPython.display import clear_output\n"
        "for i in range(3): clear_output(wait=True); print('epoch', i)"
    )
    assert cleared.text == "epoch 2\n"
    run("class Mine:\n    def __init__(self): self.a = 1\nmine = Mine()\n%dipush mine")
    run("%%dip\nmine.a += rank")
    pulled, _ = run("%dipull -r all mine\nprint([one.a for one in mine], type(mine[0]) is Mine)")
    assert pulled.text == "[1, 2] True\n"
    _, reply = run("%%dip\nx = 1\n1 / 0")
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(reply["traceback"]))
    assert f"In[{reply['execution_count']}], line 3" in text
