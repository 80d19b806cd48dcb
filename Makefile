# make quickstart: environment and the main job.   make test: environment and all tests.   make check: what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: quickstart test fast lint types check clean

quickstart: $(READY)
	$(BIN)/python -m experiments.quickstart

# Eight virtual devices need a process of their own; coverage is judged after both.
test: $(READY)
	$(BIN)/python -m pytest tests/devices --cov --cov-report= --cov-fail-under=0
	$(BIN)/python -m pytest --cov --cov-append

fast: $(READY)
	$(BIN)/python -m pytest -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/basedpyright

check: lint types test

clean:
	rm -rf $(VENV)

# `--without-pip` and `pip --python`: works where Python comes without ensurepip, as Debian's does.
$(READY): pyproject.toml
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(READY)
