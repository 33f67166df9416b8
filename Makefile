# Thin on purpose: every target is a line that you could type.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow check table bench docs format

help:  ## show this list
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("kdbench needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || echo "uv is not to be had; pip takes over"
	@if $(BIN)/python -c 'import uv' 2>/dev/null; \
	 then $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[dev]'; \
	 else $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'; fi
	@touch $(STAMP)

install: $(STAMP)  ## make .venv with the tested versions (once)

demo: install  ## distill on real images and print the comparison (at most 5 minutes on 2 cores)
	@$(BIN)/kdbench table demo

table: install  ## run one table: make table T=demo
	@$(BIN)/kdbench table $(T)

check: install  ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

test: check  ## the test suite
	@$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

test-slow: install  ## the tests that take minutes
	@$(BIN)/pytest -m slow

bench: install  ## the speed of a step beside the literature's loop, all of it (about 20 minutes; wants KDBENCH_DATA)
	@$(BIN)/kdbench bench --json benchmarks/bench.json
	@$(BIN)/python scripts/render_performance.py

docs: install  ## write docs/objectives.md, docs/performance.md and the list of losses in README anew
	@$(BIN)/python scripts/render_objectives.py
	@$(BIN)/python scripts/render_performance.py
	@$(BIN)/python scripts/render_lm.py

format: install  ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .
