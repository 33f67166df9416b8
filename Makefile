# Thin on purpose: every target is a line that you could type.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow check table bench docs docs-site format reproduce-demo reproduce-cifar100-same reproduce-cifar100-diff \
        reproduce-cifar100-crd reproduce-cifar100-lskd reproduce-imagenet reproduce-mcmi-lambda reproduce-mcmi-fewshot

help:  ## show this list
	@awk -F ':.*##' '/^[a-z0-9-]+:.*##/ {printf "  make %-26s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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
	@$(BIN)/kdbench table demo $(ARGS)

table:  ## run one table: make table T=demo ARGS="losses=kd jobs=4"
	@test -n "$(T)" || { echo "which one? make table T=demo; kdbench list tables shows them all"; exit 2; }
	@$(MAKE) --no-print-directory install
	@$(BIN)/kdbench table $(T) $(ARGS)

reproduce-demo: demo  ## the same

reproduce-cifar100-same: install  ## WTTM's tables on CIFAR-100, one family: 525 runs of 240 epochs
	@$(BIN)/kdbench table cifar100-same $(ARGS)

reproduce-cifar100-diff: install  ## WTTM's tables on CIFAR-100, different families: 270 runs
	@$(BIN)/kdbench table cifar100-diff $(ARGS)

reproduce-cifar100-crd: install  ## the CRD benchmark (RepDistiller), both tables
	@code=0; for T in same-crd diff-crd; do $(BIN)/kdbench table cifar100-$$T $(ARGS) || code=$$?; done; exit $$code

reproduce-cifar100-lskd: install  ## logit standardisation and MLKD, both families
	@code=0; for T in same-lskd diff-lskd same-mlkd diff-mlkd; do $(BIN)/kdbench table cifar100-$$T $(ARGS) || code=$$?; done; exit $$code

reproduce-imagenet: install  ## WTTM's table on ImageNet-1k: 20 runs of 100 epochs
	@$(BIN)/kdbench table imagenet $(ARGS)

reproduce-mcmi-lambda: install  ## students of MCMI teachers for each lambda
	@$(BIN)/kdbench table mcmi-lambda $(ARGS)

reproduce-mcmi-fewshot: install  ## MCMI teachers and few images
	@$(BIN)/kdbench table mcmi-fewshot $(ARGS)

check: install  ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

test: check  ## ruff, mypy and the fast tests (at most 6 minutes on 2 cores)
	@$(BIN)/pytest -n 2 --dist worksteal -m "not slow" --durations=20

test-slow: install  ## end-to-end tests, those that take minutes, and property tests with more examples (at most 30 minutes on 2 cores)
	@$(BIN)/pytest -n 2 --dist worksteal -m "slow or hypothesis" --hypothesis-profile=thorough --durations=20

bench: install  ## the speed of a step beside the literature's loop, all of it (about 20 minutes; wants KDBENCH_DATA)
	@$(BIN)/kdbench bench --json benchmarks/bench.json
	@$(BIN)/python scripts/render_performance.py

docs: install  ## write anew what the pages have from code and measured files
	@$(BIN)/python scripts/render_objectives.py
	@$(BIN)/python scripts/render_performance.py
	@$(BIN)/python scripts/render_lm.py
	@$(BIN)/python scripts/render_experiments.py
	@$(BIN)/python -m tools.docs.rooms

docs-site: install  ## build the documentation into site/ (open site/index.html; needs no network)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: install  ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .
