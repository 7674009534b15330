# `make demo` and `make test` need only Python >= 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.complete

.PHONY: demo test check format lint types docs aot clean
.DELETE_ON_ERROR:

demo: $(SETUP)
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

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"PYTHON: got Python {v[0]}.{v[1]}, want 3.11 or later; name one with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
