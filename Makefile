# `make demo` and `make test` need only Python >= 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile --constraint constraints.txt
DEMO := .venv/.demo
SETUP := .venv/.complete

.PHONY: demo test check format lint types docs aot clean
.DELETE_ON_ERROR:

demo: $(DEMO)
	@rm -rf runs/demo
	@$(BIN)/titans-dna pretrain --config configs/pretrain/lambda.yaml --out runs/demo

# A worker for each of two cores; a file's tests stay together, because they share what they made.
test: $(SETUP)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: format lint types test

format: $(SETUP)
	$(BIN)/ruff format --check .

lint: $(SETUP)
	$(BIN)/ruff check .

types: $(SETUP)
	$(BIN)/pyright

docs: $(SETUP)
	$(BIN)/sphinx-build -W --keep-going -b html docs build/docs

aot: $(SETUP)
	$(BIN)/python kernels/aot/compile.py

clean:
	rm -rf .venv build dist runs/demo *.egg-info

# What the demo needs: torch and the package.
$(DEMO): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"PYTHON: got Python {v[0]}.{v[1]}, want 3.11 or later; name one with: make PYTHON=python3.12 ...")'
	@echo "set-up 1 of 3: a virtual environment in .venv"
	@$(PYTHON) -m venv .venv
	@echo "set-up 2 of 3: torch"
	@$(PIP) torch
	@echo "set-up 3 of 3: titans-dna and what it needs"
	@$(PIP) --editable .
	@touch $@

# The developers' tools beside it.
$(SETUP): $(DEMO)
	@echo "set-up: the tools for tests, types and documentation"
	@$(PIP) --quiet --editable '.[dev]'
	@touch $@
