# One entry for everything: `make demo` and `make test` set up what they need by themselves.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ORDER  ?= examples/order_processing/orders/sample.json
export WORKFLOW_DIR ?= $(CURDIR)/.workflow

.DEFAULT_GOAL := help
.PHONY: help demo test lint types suite bench clean

help: ## Show this help
	@echo "pytest-workflow-core - make targets:"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'
	@echo
	@echo "  make demo ORDER=path/to/order.json   runs another order"
	@echo "  WORKFLOW_DIR=... make demo           keeps the state elsewhere"

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[cli]"
	@touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo ## Set up, and process the sample order on a real SQLite database
	@$(BIN)/python -m examples.order_processing $(ORDER)

test: lint types suite ## Set up, and run ruff, mypy --strict and the whole test suite

lint: $(VENV)/.dev ## Run ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## Run mypy --strict
	$(BIN)/mypy

suite: $(VENV)/.dev ## Run the test suite
	$(BIN)/python -m pytest -n auto

bench: $(VENV)/.dev ## Measure steps per second against raw sqlite3
	$(BIN)/python tests/bench/steps_per_second.py

clean: ## Remove the virtual environment and all caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
