# make quickstart: environment and the main job.   make test: environment and all tests.   make docs: the documentation.
# make check: what CI runs.   make newest: the library's fast tests and those on devices, on the newest Python installed.
PYTHON ?= python3
VENV := .venv
EXTRA := dev
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: quickstart test fast newest lint types docs check clean

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

# The newest jax needs a newer Python than the oldest that is supported. Versions of pyenv are found too. What experiments do
# with a model is left to `make test`, and so is the rule of the cone solver on every layout of devices: they take most of the
# time, and a new version of jax breaks the library first.
PYENV := $(shell ls -d $$HOME/.pyenv/versions/3.1[23]*/bin/python 2>/dev/null | sort --reverse --version-sort)
NEWEST := $(shell for python in python3.13 $(PYENV) python3.12; do $$python -c "" 2>/dev/null && echo $$python && break; done)

newest:
ifeq ($(NEWEST),)
	@echo "newest: neither python3.13 nor python3.12 is installed: nothing was tested"
else
	$(MAKE) PYTHON=$(NEWEST) VENV=.venv-newest EXTRA=test newest-tests
endif

LIBRARY := $(addprefix tests/,base datasets driver forget gradients kernel metrics objectives report rules transform)

.PHONY: newest-tests
newest-tests: $(READY)
	$(BIN)/python -m hamu_jax.doctor
	$(BIN)/python -m pytest tests/devices $(PARALLEL) -k "not projected"
	$(BIN)/python -m pytest $(LIBRARY) hamu_jax $(PARALLEL) -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/basedpyright

# Executes the notebooks; a warning is an error.
docs: $(READY)
	$(BIN)/python -m sphinx --nitpicky --fail-on-warning --keep-going --quiet docs docs/_build/html

check: lint types docs test newest

clean:
	rm -rf $(VENV) .venv-newest

# `--without-pip` and `pip --python`: works where Python comes without ensurepip, as Debian's does.
$(READY): pyproject.toml
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --editable '.[$(EXTRA)]'
	touch $(READY)
