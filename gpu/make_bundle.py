"""Pack the sources and all that building and checking them needs into one archive.

    make gpu-bundle          # build/ddipp-gpu.tar.xz, for CPython 3.12

For a machine with a GPU, g++, a Python with torch, and no network: unpack it there and call
``run.sh``. Headers and libraries are those of this system's packages.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LIMIT = 60 * 10**6  # bytes
#: What a machine that compiles C++ has.
OWN = ("libc6", "libc-", "libc.", "libm.", "libgcc", "libstdc++", "libpthread", "libdl", "ld-linux",
       "libresolv", "librt")  # fmt: skip
#: Asked for by CMake files of the packages, though nothing of them is used.
EXTRA = ("libcurl4", "civetweb", "libcivetweb1", "libprometheus-cpp-push1.0")
#: Static libraries that are linked; others are left out.
STATIC = ("libboost_filesystem.a", "libboost_system.a", "libSQLiteCpp.a")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64",
             "manylinux_2_24_x86_64", "manylinux_2_26_x86_64", "manylinux1_x86_64")  # fmt: skip
WHEELS = ("ipyparallel", "ipykernel", "ipython", "psutil", "cloudpickle", "scikit-build-core",
          "cmake", "ninja", "pip")  # fmt: skip


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def sources(target: Path) -> None:
    for name in run("git", "-C", ROOT, "ls-files").splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def wheels(target: Path, python: str) -> None:
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    run(
        sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check",
        "--only-binary=:all:", f"--python-version={python}", "--implementation=cp",
        *platforms, "-d", target, *WHEELS,
    )  # fmt: skip


def python_headers(target: Path) -> None:
    """Copy Python.h and what it includes; the limited API is the same for every later version."""
    text = run("g++", "-M", "-x", "c++", f"-I{sysconfig.get_path('include')}",
               "-include", "Python.h", "/dev/null")  # fmt: skip
    folder = sysconfig.get_path("include")
    for name in text.split():
        if name.startswith(folder):
            goal = target / Path(name).relative_to(folder)
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, goal)


def loaded_libraries() -> set[Path]:
    """Return the shared libraries that our programs load, apart from the compiler's own."""
    programs = [BIN / "dipcontroller", BIN / "dipengine"]
    programs += sorted((BIN.parent / "lib" / "ddipp").glob("*.so"))
    paths = {
        Path(line.split("=> ")[1].split(" (")[0])
        for program in programs
        for line in run("ldd", program).splitlines()
        if "=> /" in line
    }
    return {path for path in paths if not path.name.startswith(OWN) and "torch" not in path.name}


def needed_boost() -> set[str]:
    """Return the headers of Boost that are included, found by compiling."""
    users = run("grep", "-rl", "--include=*.cpp", "boost/process", ROOT / "engine",
                ROOT / "launcher", ROOT / "controller").split()  # fmt: skip
    headers: set[str] = set()
    for user in users:
        text = run("g++", "-std=c++20", "-M", f"-I{ROOT}", user)
        headers |= {word for word in text.split() if word.startswith("/usr/include/boost/")}
    return headers


def dependencies(target: Path, packages: list[str]) -> None:
    boost = needed_boost()
    for package in [*packages, *real(packages), *EXTRA]:
        for name in run("dpkg", "-L", package).splitlines():
            if wanted(name, boost):
                copy(Path(name), target)
    for path in loaded_libraries():
        copy(path.parent / path.name, target)


def real(packages: list[str]) -> list[str]:
    """Return the versioned packages that stand behind names such as libboost-dev."""
    found = []
    for package in packages:
        depends = run("dpkg-query", "-W", "-f=${Depends}", package)
        names = [choice.split("|")[0].split("(")[0].strip() for choice in depends.split(",")]
        found += [name for name in names if name.endswith("-dev") and not name.startswith(OWN)]
    return found


def wanted(name: str, boost: set[str]) -> bool:
    if name.startswith("/usr/include/boost/"):
        # Which of these are included depends on the compiler.
        parts = ("/config/", "/predef/", "/preprocessor/", "/mpl/aux_/preprocessed/")
        return name in boost or any(part in name for part in parts)
    if name == "/usr/bin/civetweb":
        return True
    if name.endswith(".a"):
        return Path(name).name in STATIC
    folders = ("/usr/include/", "/usr/lib/x86_64-linux-gnu/", "/lib/x86_64-linux-gnu/",
               "/usr/lib/cmake/", "/usr/share/cmake/")  # fmt: skip
    own_parts = ("/engines-3/", "/ossl-modules/", "/gconv/", "/krb5/", "/icu/")
    return name.startswith(folders) and not any(part in name for part in own_parts)


def copy(path: Path, target: Path) -> None:
    if path.is_dir() or not path.exists():
        return
    place = str(path)
    if place.startswith("/lib/"):
        place = "/usr" + place
    goal = target / place.lstrip("/")
    goal.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        link = os.readlink(path)
        # A link out of its folder would point nowhere there.
        if "/" not in link:
            goal.unlink(missing_ok=True)
            goal.symlink_to(link)
            return copy(path.parent / link, target)
    shutil.copy2(path.resolve(), goal)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default="3.12", help="version of the Python there")
    parser.add_argument("--packages", required=True, help="the system packages of the Makefile")
    args = parser.parse_args()
    folder = ROOT / "build" / "ddipp-gpu"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sources(folder / "source")
    wheels(folder / "wheels", args.python)
    libraries = [
        package
        for package in args.packages.split()
        if package.endswith("-dev") and package not in ("python3-dev", "doctest-dev")
    ]
    dependencies(folder / "deps", libraries)
    python_headers(folder / "python")
    shutil.copy2(ROOT / "gpu" / "run.sh", folder / "run.sh")
    archive = ROOT / "build" / "ddipp-gpu.tar.xz"
    with tarfile.open(archive, "w:xz") as file:
        file.add(folder, "ddipp-gpu")
    size = archive.stat().st_size
    print(f"{archive.relative_to(ROOT)}: {size / 10**6:.1f} MB")
    if size > LIMIT:
        print(f"more than {LIMIT / 10**6:.0f} MB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
