"""Rows of output: from print on a rank to the front end, in a kernel.

Stock is ``%%px`` of ipyparallel on its own controller and engines; the relay is the same cell with
one rank shown, which folds nothing.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jupyter_client.manager import start_new_kernel
from programs import Row, running

PRINTS = (
    "import time\nfor turn in range(40):\n"
    "    if RANK == 0: print(f'at {time.time()!r}', flush=True)\n"
    "    time.sleep(.1)"
)
LINES = "for number in range(100_000): print('line', number)"


class Kernel:
    """A kernel, and the seconds at which its messages come."""

    def __init__(self) -> None:
        self.manager, self.client = start_new_kernel(kernel_name="python3")

    def run(self, cell: str) -> list[tuple[float, dict[str, Any]]]:
        came: list[tuple[float, dict[str, Any]]] = []
        reply = self.client.execute_interactive(
            cell, timeout=300, output_hook=lambda message: came.append((time.time(), message))
        )
        if reply["content"]["status"] != "ok":
            raise RuntimeError(reply["content"]["evalue"])
        return came


@contextmanager
def cells(side: str) -> Iterator[tuple[Kernel, str]]:
    """Yield a kernel with two ranks, and the line that sends a cell to them."""
    kernel = Kernel()
    try:
        if side == "stock":
            with running("stock", 2) as cluster:
                path = cluster.folder / "security" / "ipcontroller-client.json"
                kernel.run(
                    f"import ipyparallel\nclient = ipyparallel.Client({str(path)!r})\n"
                    "view = client[:]\nview.block = True\nview.activate()\n"
                    "view.scatter('RANK', [0, 1], block=True, flatten=True)"
                )
                yield kernel, "%%px"
                kernel.run("client.close()")
        else:
            kernel.run("%load_ext ddipp\n%makedip -n 2")
            kernel.run("%%dip\nRANK = rank")
            yield kernel, "%%dip -S all" if side == "ours" else "%%dip"
            kernel.run("%makedip -k")
    finally:
        kernel.client.stop_channels()
        kernel.manager.shutdown_kernel(now=True)


def print_all(side: str) -> float:
    """Milliseconds from print on one rank to the front end, all ranks shown; p50."""
    with cells(side) as (kernel, magic):
        seen: dict[float, float] = {}
        for arrived, message in kernel.run(f"{magic}\n{PRINTS}"):
            content = message["content"]
            text = content.get("text", "") + content.get("data", {}).get("text/plain", "")
            for sent in re.findall(r"at ([\d.]+)", text):
                seen.setdefault(float(sent), arrived)
        if len(seen) != 40:
            raise RuntimeError(f"{len(seen)} of 40 lines came")
        return 1000 * statistics.median(arrived - sent for sent, arrived in seen.items())


def lines_100k(side: str) -> float:
    """Seconds for a cell that prints 100 000 equal lines on each of two ranks."""
    with cells(side) as (kernel, magic):
        kernel.run(f"{magic}\npass")
        begin = time.perf_counter()
        kernel.run(f"{magic}\n{LINES}")
        return time.perf_counter() - begin


SIDES = ("ours", "stock", "relay")
ROWS = [
    Row("output.print_all", "ms", "lower", print_all, SIDES, limit=15),
    Row("output.lines.100k", "s", "lower", lines_100k, SIDES, ceiling=1.3, repeats=1),
]
