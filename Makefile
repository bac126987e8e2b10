# `make run` and `make test` create the virtual environment if it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two Ray workers on two cores must not start two threads each.
export OMP_NUM_THREADS ?= 1
# The number of processes that share the tests; tests/sharing.py defines the groups.
TEST_PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest -n $(TEST_PROCESSES)
# Bytecode is compiled at the first import. Compiling everything that is installed takes a minute.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-fast test-slow test-faults test-gpu check check-pins format install clean

run: install  ## run the embedded default: base model, warm-up, training, evaluation
	$(BIN)/smt-ray run

test: install  ## run all tests
	$(PYTEST) --durations=25

test-fast: install  ## run the tests that do not start Ray and do not train
	$(PYTEST) -m "not slow"

test-slow: install
	$(PYTEST) -m slow --durations=25

test-faults: install  ## run all tests of faults; `make test` runs a third, chosen by the commit
	SMT_RAY_FAULTS=all $(PYTEST) tests/faults --durations=50

test-gpu: install  ## run the tests that need a GPU, one at a time; without one they are skipped
	$(BIN)/python -m pytest tests/gpu --durations=25

check: install  ## check style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/architecture

LOCKS := constraints.txt $(wildcard infra/*/*requirements.txt) infra/docker/cuda-constraints.txt
check-pins: install  ## check that the package index has every locked version; install nothing
	$(BIN)/uv pip install --quiet --dry-run --no-deps --reinstall --python $(BIN)/python \
		$(addprefix --requirement ,$(LOCKS))

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
		-e '.[dev]' -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV)
