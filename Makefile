# make run, make test: each makes the virtual environment if it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two Ray workers on two cores must not start two threads each.
export OMP_NUM_THREADS ?= 1

.PHONY: run test test-fast test-slow check format install clean

run: install  ## the embedded default: base model, warm-up, training, evaluation
	$(BIN)/smt-ray run

test: test-fast test-slow  ## all tests

test-fast: install  ## without those that start Ray or train
	$(BIN)/python -m pytest -m "not slow"

test-slow: install
	$(BIN)/python -m pytest -m slow --durations=10

check: install  ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/architecture

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV)
