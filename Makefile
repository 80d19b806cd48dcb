# make quickstart: environment and the main job.   make test: environment and all tests.   make docs: the documentation.
# make check: what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: quickstart test fast lint types docs check clean

quickstart: $(READY)
	$(BIN)/python -m experiments.quickstart

# Eight virtual devices need processes of their own; coverage is judged after both. A process takes whole files, since the
# tests of a file share what is compiled.
PARALLEL := --numprocesses auto --dist loadfile

test: $(READY)
	$(BIN)/python -m pytest tests/devices $(PARALLEL) --cov --cov-report= --cov-fail-under=0
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-append

fast: $(READY)
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/basedpyright

# Executes the notebooks; a warning is an error.
docs: $(READY)
	$(BIN)/python -m sphinx --nitpicky --fail-on-warning --keep-going --quiet docs docs/_build/html

check: lint types docs test

clean:
	rm -rf $(VENV)

# `--without-pip` and `pip --python`: works where Python comes without ensurepip, as Debian's does.
$(READY): pyproject.toml
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(READY)
