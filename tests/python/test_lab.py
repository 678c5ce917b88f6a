"""JupyterLab in a real browser: the tour, run, stopped and looked at by its user interface.

Screenshots go to build/screenshots.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import BIN, wait_for

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "build" / "screenshots"


def chromium() -> str:
    """Return the browser, or skip."""
    pytest.importorskip("jupyterlab", reason="needs JupyterLab: make peers")
    pytest.importorskip("playwright", reason="needs Playwright: make peers")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs Chromium: make peers")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


class Lab:
    """A page of JupyterLab with one notebook."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        page.goto(url)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
        self.dismiss_dialogs()
        page.keyboard.press("Control+b")  # more room without the list of files

    def dismiss_dialogs(self) -> None:
        """Accept the proposed kernel, refuse news."""
        time.sleep(3)
        for button in (".jp-Dialog .jp-mod-accept", ".jp-toast-button:has-text('No')"):
            found = self.page.locator(button)
            if found.count():
                found.first.click()

    def menu(self, name: str, item: str) -> None:
        self.page.get_by_role("menuitem", name=name, exact=True).click()
        self.page.get_by_text(item, exact=True).click()

    def cell(self, part: str) -> Any:
        """Return the code cell with this in its source."""
        return self.page.locator(".jp-CodeCell", has_text=part).first

    def output(self, part: str) -> str:
        areas = self.cell(part).locator(".jp-OutputArea-output")
        return "\n".join(areas.all_text_contents())

    def wait_for_output(self, part: str, pattern: str, timeout_s: float = 20) -> str:
        wait_for(
            lambda: re.search(pattern, self.output(part)), timeout_s, f"{pattern!r} below {part!r}"
        )
        return self.output(part)

    def stop(self) -> None:
        """Press the stop button of the notebook's toolbar."""
        self.page.locator('[data-command="notebook:interrupt-kernel"]').first.click()

    def run_from(self, part: str) -> None:
        self.cell(part).locator(".cm-content").click()
        self.menu("Run", "Run Selected Cell and All Below")

    def picture(self, name: str, part: str) -> None:
        """Save what is to be seen from a cell on."""
        self.cell(part).evaluate("cell => cell.scrollIntoView({block: 'start'})")
        time.sleep(0.5)  # cells are drawn as they come into view
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def server(browser: Any, tmp_path: Path) -> Iterator[str]:
    """Start JupyterLab with settings and an IPython folder of its own; returns its address."""
    port = free_port()
    with (tmp_path / "lab.log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
                *(
                    f"--port={port}",
                    "--IdentityProvider.token=",
                    f"--ServerApp.root_dir={tmp_path}",
                ),
                "--ServerApp.password=",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "IPYTHONDIR": str(tmp_path / "ipython"),
                "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
                "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
            },
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(f"{url}/api"), 40, "JupyterLab")
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    try:
        yield page
    finally:
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / f"end-of-{request.node.name}.png")
        page.close()


@pytest.fixture
def lab(page: Any, server: str, tmp_path: Path) -> Lab:
    shutil.copy(ROOT / "examples" / "tour.ipynb", tmp_path)
    return Lab(page, f"{server}/lab/tree/tour.ipynb?reset")


def test_the_tour_in_jupyterlab(lab: Lab):
    lab.menu("Run", "Run All Cells")
    lab.wait_for_output("%makedip $where", r"ddipp: \d+ ranks on ")
    lab.wait_for_output("the same everywhere", r"\[ranks 0-1\]\nthe same everywhere")
    lab.picture("cells", "the same everywhere")

    # The table is alive while the training runs, and its bar is a widget.
    training = "for epoch in tqdm"
    lab.wait_for_output("%dipstat", r"busy \d")
    lab.wait_for_output(training, r"epochs:")
    assert lab.cell(training).locator(".jupyter-widgets").count() > 0
    lab.wait_for_output("%dipstat", r"all_reduce #\d+")
    lab.picture("training", "%dipstat")

    begin = time.monotonic()
    lab.stop()
    lab.wait_for_output(training, r"ddipp: interrupted; .* all variables kept", 10)
    took = time.monotonic() - begin
    lab.picture("interrupted", "%dipstat")
    assert took < 3  # with the way through browser, server and back

    # Nothing is lost and the group works: from the next cell on to the end.
    lab.run_from("steps so far")
    lab.wait_for_output("steps so far", r"steps so far: True")
    lab.wait_for_output("%makedip --why", r"rank +state +collective")
    lab.wait_for_output("%makedip -k", r"ddipp: ended \d+ ranks")
    lab.wait_for_output("%dipstat", r"the group has ended")
    assert lab.cell("plt.plot").locator("img").count() == 1


def test_names_of_the_ranks_complete_and_a_restart_keeps_them(lab: Lab):
    page = lab.page

    def new_cell(code: str) -> None:
        page.keyboard.press("Escape")
        page.keyboard.press("b")
        page.keyboard.press("Enter")
        page.keyboard.insert_text(code)

    page.locator(".jp-CodeCell .cm-content").last.click()
    new_cell("%load_ext ddipp\n%makedip -n 2")
    page.keyboard.press("Control+Enter")
    lab.wait_for_output("%makedip -n 2", "2 ranks on CPU")
    new_cell("%%dip\nremarkable_name = rank + 41")
    page.keyboard.press("Control+Enter")
    time.sleep(2)
    new_cell("%%dip\nremarka")
    page.keyboard.press("Tab")
    menu = page.locator(".jp-Completer-item", has_text="remarkable_name")
    menu.wait_for(timeout=15_000)
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / "completion.png")
    page.keyboard.press("Enter")
    page.keyboard.press("Control+Enter")
    wait_for(
        lambda: "41" in lab.page.locator(".jp-OutputArea-output").last.text_content(), 15, "41"
    )
    lab.menu("Kernel", "Restart Kernel…")
    page.locator(".jp-Dialog .jp-mod-accept").click()
    time.sleep(3)
    new_cell("%load_ext ddipp\n%makedip --attach")
    page.keyboard.press("Control+Enter")
    lab.wait_for_output("%makedip --attach", r"2 ranks on CPU", 30)
    new_cell("%%dip -S 1\nprint('still', remarkable_name)")
    page.keyboard.press("Control+Enter")
    lab.wait_for_output("'still'", r"still 42")
    new_cell("%makedip --kill")
    page.keyboard.press("Control+Enter")
    lab.wait_for_output("%makedip --kill", r"ended 2 ranks")


def test_the_clusters_tab_sees_and_stops_our_cluster(page: Any, server: str, tmp_path: Path):
    profile = tmp_path / "ipython" / "profile_default"
    dipcluster = [BIN / "dipcluster"]
    options = [f"--profile-dir={profile}", "--cluster-id=training"]
    subprocess.run([*dipcluster, "start", "-n2", "--daemonize", *options], check=True)
    try:
        page.goto(f"{server}/lab")
        page.locator('.lm-TabBar-tab[data-id="ipp-cluster-launcher"]').click(timeout=60_000)
        tab = page.locator("#ipp-cluster-launcher")
        tab.get_by_text("default:training").wait_for(timeout=20_000)
        assert "State: running" in tab.inner_text()
        assert "Number of engines: 2" in tab.inner_text()
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / "clusters.png")
        tab.get_by_text("STOP").click()
        wait_for(lambda: "State: Stopped" in tab.inner_text(), 20, "the tab to show it")
        wait_for(lambda: not list((profile / "security").glob("*.json")), 20, "the end")
        listed = subprocess.run(
            [*dipcluster, "list", "--json", *options], capture_output=True, text=True
        )
        assert listed.stdout == "[]\n"
    finally:
        subprocess.run([*dipcluster, "stop", *options], capture_output=True)
