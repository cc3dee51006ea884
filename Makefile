# `make play` walks through the shipped world, `make test` checks everything. Each sets .venv up on its first
# run and installs nothing on the next ones; all that a machine needs is make and Python 3.11 or newer.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
TYPES := build/types/worldsim
# A process for each core; the tests of a file share one.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile
LAY_OUT = rm -rf build/types && mkdir -p $(TYPES) && \
	ln -s $(CURDIR)/worldsim/* $(CURDIR)/agents $(CURDIR)/checkpoints $(CURDIR)/envs $(TYPES)/
INSTALLED := pyproject.toml setup.py constraints.txt $(wildcard worldsim/kernels/c/*)

# The first Python that runs, is new enough and can make an environment with pip in it.
USABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python3.13 python; do \
	$$p -c '$(USABLE)' >/dev/null 2>&1 && echo $$p && break; done)

.PHONY: play test quick network stress nightly lint types docs wheels clean

play: $(VENV)/play.stamp
	@$(BIN)/python play.py $(ARGS)

test: lint types
	$(PYTEST)

# What a change is tried with between two thoughts: all but slow tests. `test` stays the judge.
quick: $(VENV)/dev.stamp
	@$(BIN)/ruff check .
	$(PYTEST) -m 'not slow and not network and not gpu'

# Tests that install packages from an index: they are skipped where there is none.
network: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m network

# A server under hostile messages, kill -9, broken networks, churn and overload: minutes, or for hours.
stress: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.stress $(ARGS)

nightly: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.stress --night $(ARGS)

# What benchmarks/gpu/run.sh needs on a machine with a GPU and without a network, in .whl/.
wheels: $(VENV)/dev.stamp
	@$(BIN)/python -m benchmarks.gpu.wheels

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .

# mypy does not follow an editable install into envs/ and agents/: it is shown the tree that a wheel has.
types: $(VENV)/dev.stamp
	@$(LAY_OUT)
	cd build/types && \
		$(abspath $(BIN))/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p worldsim

# The documentation with its API reference, from the docstrings, in build/site.
docs: $(VENV)/dev.stamp
	@$(LAY_OUT)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "worldsim needs Python 3.11, 3.12 or 3.13 with venv and pip;" \
		"install one, or name it: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/play.stamp: $(INSTALLED) | $(BIN)/python
	$(PIP) --editable '.[play,doom]'
	@touch $@

$(VENV)/dev.stamp: $(INSTALLED) | $(BIN)/python
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/play.stamp

clean:
	rm -rf $(VENV) build dist *.egg-info
