# `make demo` and `make test` need only Python >= 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile --constraint constraints.txt
DEMO := .venv/.demo
SETUP := .venv/.complete

# The oldest and the newest that pyproject.toml allows of what other people use beside us; constraints.txt has one between.
TRANSFORMERS := 5.0.0 5.24.0
TRITON := 3.5.0 3.8.0

.PHONY: demo test check format lint types docs aot versions fuzz clean
.DELETE_ON_ERROR:

demo: $(DEMO)
	@rm -rf runs/demo
	@$(BIN)/titans-dna pretrain --config configs/pretrain/lambda.yaml --out runs/demo

# A worker for each of two cores; a file's tests stay together, because they share what they made.
test: $(SETUP)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

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

# Mutated files of every kind to every reader for a minute and more; the tests do it for a few seconds.
fuzz: $(SETUP)
	TITANS_DNA_FUZZ_SECONDS=70 $(BIN)/python -m pytest -p no:cacheprovider tests/test_fuzz.py

# Each beside the packages of .venv, before them on the path. The interpreter of triton 3.5 wants a NumPy of its time.
versions: $(SETUP)
	@set -e; for one in $(TRANSFORMERS); do \
		echo "transformers $$one"; place=build/versions/transformers-$$one; \
		test -d $$place || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --target $$place transformers==$$one; \
		PYTHONPATH=$$place $(BIN)/python -m pytest -p no:cacheprovider tests/huggingface; \
	done
	@set -e; for one in $(TRITON); do \
		echo "triton $$one"; place=build/versions/triton-$$one; \
		test -d $$place || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --target $$place triton==$$one; \
		test $$one != 3.5.0 -o -d $$place/numpy || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --target $$place numpy==2.3.5; \
		PYTHONPATH=$$place $(BIN)/python -m pytest -p no:cacheprovider -W ignore::DeprecationWarning tests/kernels/test_triton.py \
			-k "gates_of_exactly or widths_and_chunks or any_cut or groups_of_packed"; \
		PYTHONPATH=$$place $(BIN)/python kernels/aot/compile.py --case L2-d64-e128-c64 --target sm_80 --target sm_90; \
	done

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
