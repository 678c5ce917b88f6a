"""A group across two hosts, one of which loses its network in the middle of a collective.

The other host is a network namespace, which has its own loopback, addresses and routes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from conftest import BIN, Cluster, wait_for
from ddipp import CellFailed, Group

HERE, THERE = "10.213.77.1", "10.213.77.2"
NAME = f"ddipp{os.getpid() % 10000}"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def other_host() -> Iterator[str]:
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root and the program ip (iproute2) to make a network namespace")
    try:
        ip("netns", "add", NAME)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"can't make a network namespace here: {error.stderr.strip()}")
    try:
        ip("link", "add", f"{NAME}a", "type", "veth", "peer", "name", f"{NAME}b", "netns", NAME)
        ip("addr", "add", f"{HERE}/30", "dev", f"{NAME}a")
        ip("link", "set", f"{NAME}a", "up")
        ip("-n", NAME, "addr", "add", f"{THERE}/30", "dev", f"{NAME}b")
        ip("-n", NAME, "link", "set", f"{NAME}b", "up")
        ip("-n", NAME, "link", "set", "lo", "up")
        yield NAME
    finally:
        ip("netns", "del", NAME)


def start_engine_there(cluster: Cluster, host: str) -> None:
    engine = [BIN / "dipengine", "--python", sys.executable, "--profile-dir", cluster.folder]
    with (cluster.folder / f"there-{len(cluster.processes)}.log").open("wb") as log:
        cluster.processes.append(
            subprocess.Popen(
                ["ip", "netns", "exec", host, *engine, "--restart=on-failure"],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        )


def test_a_group_across_hosts_outlives_the_loss_of_one(other_host: str, cluster: Cluster, capsys):
    cluster.start_controller(
        f"--ip={HERE}", f"--location={HERE}", "--HeartMonitor.max_heartmonitor_misses=3"
    )
    for _ in range(2):
        cluster.start_engine()
    cluster.client(2).close()
    for _ in range(2):
        start_engine_there(cluster, other_host)
    client = cluster.client(4)
    group = Group.attach(client)
    group.run(
        "import os\nplace = [os.environ[name] for name in ('RANK', 'LOCAL_RANK', "
        "'LOCAL_WORLD_SIZE', 'MASTER_ADDR')]\nkept = rank + 10\n"
        "y = torch.ones(1)\ndist.all_reduce(y)\nassert y.item() == 4"
    )
    places = [group.pull(["place"], rank)["place"] for rank in range(4)]
    assert places == [[str(rank), str(rank % 2), "2", HERE] for rank in range(4)]

    big = "import numpy\nbig = numpy.full(2_000_000, rank)"
    group.run(big)
    group.sync(["big"], source=1)  # over the network
    group.run("assert big.sum() == 2_000_000\nbig += 1")

    def cut_off_and_heal() -> None:
        time.sleep(0.7)
        ip("-n", other_host, "link", "set", f"{NAME}b", "down")
        time.sleep(6)
        ip("-n", other_host, "link", "set", f"{NAME}b", "up")

    network = threading.Thread(target=cut_off_and_heal)
    network.start()
    begin = time.monotonic()
    with pytest.raises(CellFailed) as caught:
        group.run("while True: dist.all_reduce(y)")
    network.join()
    assert time.monotonic() - begin < 40
    assert set(caught.value.errors) == {0, 1, 2, 3}
    wait_for(lambda: len(client.ids) == 4, 30, "the engines that were cut off")
    group.run("y = torch.ones(1)\ndist.all_reduce(y)\nassert y.item() == 4")
    kept = [group.pull(["kept"], rank)["kept"] for rank in range(4)]
    assert kept == [10, 11, 12, 13]  # their network was gone, not they
    group.shutdown()
