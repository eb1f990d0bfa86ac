# SPDX-License-Identifier: GPL-2.0-or-later
# Everything a developer or CI does; `make help` lists it. Debian 12 or 13, as root.

SHELL := /bin/bash -o pipefail
PACKAGES := mmdebstrap debian-archive-keyring python3 python3-venv python3-dev gcc libc6-dev make \
	libslurm-dev binutils iproute2 util-linux shellcheck man-db zsh fish
VENV := .venv
BIN := $(VENV)/bin
FUZZ := build/fuzz/venv
FUZZ_PACKAGES := clang libclang-rt-dev
TIME := 60
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench faults fuzz load proofs build clean

help:  ## list what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/ready  ## install what the rest needs: Debian packages, and a venv for the tools

$(VENV)/ready: requirements-dev.txt
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null \
		| grep -qx installed || echo $$p; done); \
	if [ -n "$$missing" ]; then apt-get -q update && \
		DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install $$missing; fi
	/usr/bin/python3 -m venv $(VENV)
	$(BIN)/python -m pip -q install -r requirements-dev.txt
	@touch $@

demo: setup  ## 4 tasks on 2 nodes: vacated midway, restarted on other nodes
	@$(BIN)/python -m tests.demo

test: setup  ## the whole suite, on real clusters of both releases
	$(PYTEST) -n 3 --dist worksteal tests
	PYCR_RELEASE=forky $(PYTEST) tests/slurm/test_main.py tests/slurm/test_slurm_api.py

ROUNDS := 25
SEED := 1
faults: setup  ## ROUNDS=N rounds of injected faults, drawn from SEED=S
	@$(BIN)/python -m tests.faults --rounds $(ROUNDS) --seed $(SEED)

lint: setup  ## ruff, mypy, cython-lint, shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy pycr tests setup.py
	PATH=$(BIN):$$PATH cython-lint spank_cr pycr/c
	shellcheck .ci/run pycr/completion/pycr

bench: setup  ## ratios against plain srun and plain criu
	@$(BIN)/python -m tests.bench

fuzz: $(FUZZ)/ready  ## each fuzz target for TIME=60 seconds, or those in NAMES="frame words"
	$(FUZZ)/bin/python -m tests.fuzz --seconds $(TIME) $(NAMES)

# Not in `make setup`: clang is large, and there is no atheris for every Python.
$(FUZZ)/ready: requirements-fuzz.txt | setup
	@dpkg -s $(FUZZ_PACKAGES) >/dev/null 2>&1 || { apt-get -q update && \
		DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install $(FUZZ_PACKAGES); }
	/usr/bin/python3 -m venv $(FUZZ)
	$(FUZZ)/bin/python -m pip -q install -r requirements-fuzz.txt
	@touch $@

load: setup  ## many tasks, nodes, steps and checkpoints, and a large task; NAMES="rounds large"
	$(BIN)/python -m tests.load $(NAMES)

proofs: setup  ## jobs through all that ends them, next to unbroken runs; NAMES="slots array"
	$(BIN)/python -m tests.proofs $(NAMES)

build: setup  ## the plugin alone, for the Slurm whose headers are installed
	$(BIN)/python setup.py build_plugin

clean:  ## take the cluster down and remove what was built
	-/usr/bin/python3 -m tests.cluster down
	rm -rf build dist *.egg-info $(VENV) .pytest_cache .mypy_cache .ruff_cache
