"""Run ipyparallel's own test suite, as installed, on our programs and on the stock ones.

    .venv/bin/python compat/run_suite.py                       # all four pairings
    .venv/bin/python compat/run_suite.py --pairing ours/ours --pairing stock/stock

The first name of a pairing is the controller, the second the engine. Writes build/compat.json: per
pairing and test file passed, failed and skipped, and `regressions`, the tests that do not pass in a
pairing but pass in stock/stock (when that was run too). Older clients run a smoke suite of ours.

The exit status is 1 when a test fails that is not stated here with its reason, or any test of the
smoke suite.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import ipyparallel
from environments import OLD_CLIENTS, SMOKE_CLIENT, old_client, with_our_packages

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PAIRINGS = ("stock/stock", "ours/stock", "stock/ours", "ours/ours")

#: Left out in every pairing, with the reason.
EXCLUDED = {
    "test_ssh.py": "needs sshd in docker",
    "test_slurm.py": "needs slurm in docker",
    "test_mongodb.py": "needs MongoDB",
}

#: May fail where a program of ours stands in, with the reason.
STATED = {
    "test_apps.py::test_apps::test_version[controller]": "ours prints its own version",
    "test_apps.py::test_apps::test_version[engine]": "ours prints its own version",
}


#: So that Open MPI starts more processes than there are cores, as root too, as in a container.
MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
}


def run_pairing(pairing: str, only: str, timeout_s: float) -> dict[str, str]:
    """Run the suite, or the file `only` of it, and return the outcome of each test by name."""
    controller, engine = pairing.split("/")
    environment = {**os.environ, **MPI, "PYTHONPATH": str(ROOT / "compat" / "route")}
    if controller == "ours":
        environment["DDIPP_ROUTE_CONTROLLER"] = str(BIN / "dipcontroller")
    if engine == "ours":
        environment["DDIPP_ROUTE_ENGINE"] = str(BIN / "dipengine")
    tests = Path(ipyparallel.__file__).parent / "tests"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no",
            "--timeout=120", "--asyncio-mode=auto", "-o", "junit_family=xunit1",
            f"--junitxml={report}",
            *(f"--ignore={tests / name}" for name in EXCLUDED), str(tests / only),
        ]  # fmt: skip
        with (ROOT / "build" / f"compat-{pairing.replace('/', '-')}.log").open("w") as log:
            try:
                subprocess.run(
                    command, env=environment, cwd=folder, stdout=log, stderr=log, timeout=timeout_s
                )
            except subprocess.TimeoutExpired:
                print(f"{pairing}: stopped after {timeout_s:.0f} s", file=sys.stderr)
        return read_report(report) if report.exists() else {}


def read_report(path: Path) -> dict[str, str]:
    """Return "passed", "failed" or "skipped" for each test of a JUnit report."""
    outcomes = {}
    for case in ElementTree.parse(path).iter("testcase"):
        file = case.get("classname", "").split(".tests.")[-1].split(".")[0]
        name = f"{file}.py::{case.get('classname', '').rsplit('.', 1)[-1]}::{case.get('name')}"
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            outcomes[name] = "failed"
        else:
            outcomes[name] = "skipped" if "skipped" in kinds else "passed"
    return outcomes


def summarize(outcomes: dict[str, str], reference: dict[str, str] | None) -> dict[str, Any]:
    """Return the entry of one pairing."""
    files: dict[str, Counter[str]] = {}
    for name, outcome in outcomes.items():
        files.setdefault(name.split(".py::")[0], Counter())[outcome] += 1
    entry: dict[str, Any] = {
        kind: sum(counts[kind] for counts in files.values())
        for kind in ("passed", "failed", "skipped")
    }
    entry["files"] = {name: dict(counts) for name, counts in sorted(files.items())}
    entry["failures"] = sorted(name for name, outcome in outcomes.items() if outcome == "failed")
    if reference is not None:
        entry["regressions"] = sorted(
            name
            for name, outcome in reference.items()
            if outcome == "passed" and outcomes.get(name) != "passed" and name not in STATED
        )
    entry["excluded"] = EXCLUDED
    entry["stated"] = STATED
    return entry


def run_smoke(version: str) -> dict[str, str]:
    """Run the smoke suite with an older ipyparallel in the client and in the engines."""
    python = old_client(version)
    if python is None:
        return {"not run": f"no CPython here is old enough for ipyparallel {version}"}
    with tempfile.TemporaryDirectory() as folder:
        environment = with_our_packages(Path(folder) / "packages")
        profile = ["--profile-dir", folder, "--log-level=40"]
        processes = [subprocess.Popen([BIN / "dipcontroller", *profile])]
        for _ in range(2):
            engine = [BIN / "dipengine", "--python", python, *profile]
            processes.append(subprocess.Popen(engine, env=environment))
        connection_file = Path(folder) / "security" / "ipcontroller-client.json"
        while not connection_file.exists() and processes[0].poll() is None:
            time.sleep(0.01)
        try:
            done = subprocess.run(
                [python, SMOKE_CLIENT, connection_file], capture_output=True, text=True, timeout=120
            )
            return json.loads(done.stdout)["outcomes"]
        except (subprocess.TimeoutExpired, ValueError, KeyError) as error:
            return {"smoke suite": f"{type(error).__name__}: {error}"}
        finally:
            for process in processes:
                process.terminate()
                process.wait(20)


def main() -> int:
    """Run the chosen pairings and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairing", action="append", choices=PAIRINGS, help="may be repeated")
    parser.add_argument("--no-smoke", action="store_true", help="leave the older clients out")
    parser.add_argument("--only", default="", help="a file of the suite, such as test_view.py")
    parser.add_argument("--timeout", type=float, default=1500, help="seconds for one pairing")
    args = parser.parse_args()
    (ROOT / "build").mkdir(exist_ok=True)
    outcomes = {}
    for pairing in args.pairing or PAIRINGS:
        outcomes[pairing] = run_pairing(pairing, args.only, args.timeout)
        counts = Counter(outcomes[pairing].values())
        print(f"{pairing}: {counts['passed']} passed, {counts['failed']} failed, "
              f"{counts['skipped']} skipped", flush=True)  # fmt: skip
    smoke = {} if args.no_smoke else {version: run_smoke(version) for version in OLD_CLIENTS}
    for version, found in smoke.items():
        passed = sum(outcome == "passed" for outcome in found.values())
        print(f"client {version}: {passed} of {len(found)} passed", flush=True)
    reference = outcomes.get("stock/stock")
    report = {
        "client": ipyparallel.__version__,
        "pairings": {name: summarize(found, reference) for name, found in outcomes.items()},
        "smoke": smoke,
    }
    path = ROOT / "build" / "compat.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    failed = [
        f"{pairing}: {test}"
        for pairing, found in outcomes.items()
        for test, outcome in found.items()
        if outcome == "failed" and (pairing == "stock/stock" or test not in STATED)
    ]
    failed += [
        f"client {version}: {test}: {outcome}"
        for version, found in smoke.items()
        for test, outcome in found.items()
        if outcome != "passed" and test != "not run"
    ]
    failed += [f"{pairing}: nothing ran" for pairing, found in outcomes.items() if not found]
    for line in failed:
        print(f"FAILED {line}")
    print(f"details in {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
