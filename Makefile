# Two commands: `make run` and `make test`. Both make .venv and install the versions of constraints.txt first.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/ready
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check --no-compile -c constraints.txt
# Most of the 310 MB of Python is never imported. What is, is compiled then and kept; to compile all of it takes a core two minutes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test lint bench gpu-check docs clean

run: $(READY)
	$(BIN)/palimpsest run suite=quick

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(READY)
	$(BIN)/python -m palimpsest.benchmark.bench

gpu-check: $(READY)
	$(BIN)/python -m palimpsest.benchmark.bench.gpu_check

docs: $(READY)
	$(BIN)/python -m palimpsest.benchmark.commands.cards
	$(BIN)/python -m palimpsest.benchmark.suite_page

$(READY): constraints.txt setup.cfg
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), f"Python 3.11 to 3.13 is needed, {sys.version.split()[0]} was found; set PYTHON=..."'
	@echo "Installing the versions of constraints.txt into .venv: 2 GB and more, some minutes (once). The quick suite follows by itself after 'make run'."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "1 of 2: PyTorch, the larger part"
	$(PIP) torch
	@echo "2 of 2: everything else"
	$(PIP) -e '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv build *.egg-info
