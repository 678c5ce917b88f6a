#!/bin/sh
# Builds ddipp from this bundle against the torch of a Python and runs its GPU checks, offline.
#   ./run.sh [python [--rehearse]]      python: one that imports torch; python3 when not given
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=$(command -v "${1:-python3}") || { echo "run.sh: there is no ${1:-python3}"; exit 1; }
"$python" -c 'import torch' || { echo "run.sh: $python can't import torch; name one that can"; exit 1; }
command -v g++ > /dev/null || { echo "run.sh: needs the C++ compiler g++ (12 or later)"; exit 1; }

work=$here/work
rm -rf "$work"
mkdir "$work"
"$python" -m venv --without-pip "$work/venv"
venv=$work/venv/bin/python
# The packages of the Python that was named, torch among them.
"$python" - > "$($venv -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/named.pth" <<'PYTHON'
import sys
print(*(path for path in sys.path if path.endswith(("site-packages", "dist-packages"))), sep="\n")
PYTHON
pip() { PYTHONPATH=$(echo "$here"/wheels/pip-*.whl) "$venv" -m pip --disable-pip-version-check "$@"; }
pip install -q --no-index --find-links "$here/wheels" --ignore-installed --no-deps \
  $(ls "$here"/wheels/*.whl | grep -v '/pip-')

# One libcrypto in a process: that of this system, which its Python uses too.
system=$(ldconfig -p 2> /dev/null | sed -n 's/.*libcrypto.so.3 (.*x86-64.*=> //p' | head -1)
lib=$here/deps/usr/lib/x86_64-linux-gnu
if [ -n "$system" ]; then rm -f "$lib"/libcrypto.so*; ln -s "$system" "$lib/libcrypto.so"; fi

headers=$("$venv" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -f "$headers/Python.h" ] || headers=$here/python

echo "Building"
PATH=$work/venv/bin:$PATH CMAKE_PREFIX_PATH=$here/deps/usr \
  CMAKE_LIBRARY_PATH=$lib CMAKE_INCLUDE_PATH=$here/deps/usr/include \
  CPATH=$here/deps/usr/include:$here/deps/usr/include/x86_64-linux-gnu \
  LDFLAGS="-Wl,-rpath-link,$lib -Wl,--disable-new-dtags" \
  pip install -q --no-index --no-build-isolation --no-deps --ignore-installed \
  -C build-dir="$work/build" -C cmake.define.DDIPP_PYTHON_INCLUDE_DIR="$headers" \
  -C cmake.define.CMAKE_INSTALL_RPATH="$lib" "$here/source"
[ $# -eq 0 ] || shift
exec "$venv" "$here/source/gpu/check.py" "$@"
