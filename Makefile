# Two commands on a fresh Debian or Ubuntu machine: `make demo` and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/bash

VENV := .venv
BIN := $(VENV)/bin
JOBS ?= $(shell nproc)
SUDO := $(shell test $$(id -u) = 0 || echo sudo)

SYSTEM_PACKAGES := g++ cmake ninja-build ccache pkg-config git python3 python3-dev python3-venv \
  libzmq3-dev cppzmq-dev nlohmann-json3-dev libssl-dev libboost-dev libboost-filesystem-dev \
  help2man libspdlog-dev libfmt-dev libcli11-dev doctest-dev libsqlitecpp-dev libsqlite3-dev prometheus-cpp-dev

CPP_SOURCES := $(wildcard $(addsuffix /*.?pp,protocol protocol/net common controller controller/* \
  engine engine/* launcher bench/load))
SOURCES := CMakeLists.txt $(wildcard cmake/*.cmake */CMakeLists.txt */*/CMakeLists.txt) $(CPP_SOURCES) \
  $(wildcard engine/ddipp_engine/*.py magics/ddipp/*.py magics/ddipp/*/*.py)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# --- set-up -------------------------------------------------------------------------------------

# A stamp holds the list that it stands for: it is renewed, and with it what depends on it, when that
# list has changed, whatever else changes in this file.
.PHONY: always
always:

build/stamps/system: always
	@mkdir -p $(@D)
	@echo "$(SYSTEM_PACKAGES)" | cmp -s - $@ && exit; \
	missing=$$(for p in $(SYSTEM_PACKAGES); do \
	  dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  echo "Installing system packages:" $$missing; \
	  $(SUDO) apt-get update -qq && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null || exit; \
	fi; \
	echo "$(SYSTEM_PACKAGES)" > $@

# In the environment itself, so that a new one has none of its packages' stamps.
STAMPS := $(VENV)/stamps

$(STAMPS)/venv: | build/stamps/system
	@$(BIN)/python -c "" 2> /dev/null && mkdir -p $(@D) && touch $@ && exit; \
	python=$$(for p in python3 /usr/bin/python3; do \
	  $$p -c 'import os, sys, sysconfig; \
	    sys.exit(sys.version_info < (3, 10) or \
	             not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
	    2>/dev/null && echo $$p && break; done); \
	if [ -z "$$python" ]; then echo "Need Python 3.10 or later with Python.h: python3-dev"; exit 1; fi; \
	echo "Making $(VENV) with $$($$python --version)"; \
	$$python -m venv --clear $(VENV) && mkdir -p $(@D) && touch $@

# What an extra of pyproject.toml asks for, and what every build needs.
$(STAMPS)/packages-%: always $(STAMPS)/venv
	@$(BIN)/python cmake/requirements.py requires $* > $@.new
	@cmp -s $@.new $@ && rm $@.new && exit; \
	echo "Installing Python packages: $*"; \
	$(BIN)/pip install -q --disable-pip-version-check -r $@.new && mv $@.new $@
.PRECIOUS: $(STAMPS)/packages-%

# The same route as a user's `pip install .`, without isolation so that it is quick. The wheel stays
# for tests with other environments.
build/stamps/install: $(SOURCES) pyproject.toml $(STAMPS)/packages-demo
	@echo "Building and installing ddipp"
	@$(BIN)/pip wheel -q --disable-pip-version-check --no-build-isolation --no-deps -w build/dist \
	  $(if $(CI),-C cmake.define.DDIPP_WERROR=ON) .
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --force-reinstall build/dist/ddipp-*.whl
	@touch $@

.PHONY: install
install: build/stamps/install ## Build everything and install it into .venv

# --- what a user runs ---------------------------------------------------------------------------

.PHONY: demo
demo: install ## Train a network under DDP in IPython (all GPUs, else 2 CPU ranks)
	@$(BIN)/python examples/run_in_ipython.py examples/digits.ipynb

# --- checks -------------------------------------------------------------------------------------

.PHONY: test
test: sanitize pytest ## All tests

.PHONY: sanitize
sanitize: asan tsan ## C++ unit tests with the address, undefined and thread sanitizers

.PHONY: asan tsan
asan tsan: build/stamps/system
	@cmake --preset $@ > build/stamps/$@.log || (cat build/stamps/$@.log; false)
	@cmake --build --preset $@ -j $(JOBS) | tail -1
	@ctest --preset $@

.PHONY: pytest
pytest: install $(STAMPS)/packages-test ## Python tests: client, engine, magics, training
	@$(BIN)/python -m pytest $(PYTEST_ARGS) $(APP_TESTS:%=--ignore=%)

# Real libraries, notebooks and a browser, which take their time.
APP_TESTS := $(patsubst %,tests/python/test_%.py,apps fastai_v1 examples lab)

.PHONY: apps
apps: install $(STAMPS)/packages-test ## Tests of fastai, Lightning, accelerate, the example notebooks and JupyterLab
	@$(BIN)/python -m pytest $(PYTEST_ARGS) $(APP_TESTS)

.PHONY: unit
unit: build/stamps/system ## C++ unit tests, optimized
	@cmake --preset release > /dev/null && cmake --build --preset release -j $(JOBS) | tail -1
	@ctest --preset release

build/stamps/clang: build/stamps/system
	@command -v clang++ > /dev/null || \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq clang > /dev/null
	@touch $@

FUZZ_SECONDS ?= 15

.PHONY: fuzz
fuzz: build/stamps/clang ## Fuzz the parsers of what peers send, FUZZ_SECONDS=15 each
	@cmake --preset fuzz > build/stamps/fuzz.log || (cat build/stamps/fuzz.log; false)
	@cmake --build --preset fuzz -j $(JOBS) | tail -1
	@for name in frames metadata query pickle packing connection; do \
	  mkdir -p build/fuzz/corpus-$$name; \
	  build/fuzz/bin/fuzz_$$name -max_total_time=$(FUZZ_SECONDS) -verbosity=0 -print_final_stats=1 \
	    -artifact_prefix=build/fuzz/$$name- build/fuzz/corpus-$$name tests/fuzz/corpus/$$name \
	    > build/fuzz/$$name.log 2>&1 || { tail -40 build/fuzz/$$name.log; exit 1; }; \
	  echo "fuzz_$$name: $$(sed -n 's/stat::number_of_executed_units: //p' build/fuzz/$$name.log) inputs"; \
	done

# Programs of others that some tests need; without them those tests are skipped and say so.
PEER_PACKAGES := openssh-server openmpi-bin libopenmpi-dev iproute2 chromium \
  slurmctld slurmd slurm-client munge

.PHONY: peers
peers: $(STAMPS)/packages-test ## What the tests of ssh, MPI, Slurm, two hosts, JupyterLab, fastai 1 need
	@$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(PEER_PACKAGES) > /dev/null
	@$(BIN)/pip install -q --disable-pip-version-check mpi4py pyyaml kubernetes-validate jupyterlab \
	  ipywidgets playwright
	@$(BIN)/python compat/environments.py fastai_v1

FAULT_ROUNDS ?= 100

.PHONY: soak
soak: install $(STAMPS)/packages-test ## Faults at random moments of a training, FAULT_ROUNDS=100 of each kind (40 minutes)
	@DDIPP_FAULT_ROUNDS=$(FAULT_ROUNDS) $(BIN)/python -m pytest -q tests/python/test_random_faults.py

.PHONY: programs
programs: install $(STAMPS)/packages-test ## What people run, with two faults each (PROGRAMS=quick: 10 minutes; or names)
	@$(BIN)/python tests/programs/run.py $(if $(filter quick,$(PROGRAMS)),--quick,$(PROGRAMS) \
	  $(if $(PROGRAMS),,--table))

.PHONY: gpu-check
gpu-check: install ## What can only be checked on NVIDIA GPUs
	@$(BIN)/python gpu/check.py

.PHONY: gpu-bundle
gpu-bundle: install $(STAMPS)/packages-test ## All that gpu-check needs in one archive, for a GPU machine without a network
	@$(BIN)/python gpu/make_bundle.py --packages "$(filter-out help2man,$(SYSTEM_PACKAGES))" $(BUNDLE_ARGS)

.PHONY: gpu-rehearsal
gpu-rehearsal: ## Build that archive in a bare Debian without a network and try it on CPU ranks, as root
	@$(MAKE) --no-print-directory gpu-bundle BUNDLE_ARGS="--python 3.13"
	@gpu/rehearse.sh

.PHONY: compat
compat: install $(STAMPS)/packages-test ## ipyparallel's own test suite in all four pairings with ours (20 minutes)
	@$(BIN)/python compat/run_suite.py $(COMPAT_ARGS)

.PHONY: bench
bench: install $(STAMPS)/packages-test ## Ours and stock ipyparallel side by side (BENCH_ARGS="--only client")
	@cmake --preset release > /dev/null && \
	  cmake --build --preset release --target ddipp_load -j $(JOBS) | tail -1
	@$(BIN)/python bench/run.py $(BENCH_ARGS)

.PHONY: lint
lint: install $(STAMPS)/packages-dev ## ruff, mypy, clang-format and clang-tidy (the last two from your system)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy magics/ddipp
	clang-format --dry-run --Werror $(CPP_SOURCES) tests/unit/*.cpp
	cmake --preset release > /dev/null
	clang-tidy -quiet -p build/release $(filter %.cpp,$(CPP_SOURCES))

.PHONY: clean
clean: ## Remove everything that was built, the virtual environment included
	rm -rf build $(VENV)
