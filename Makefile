# One entry for everything: each target sets up what it needs by itself, once.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
ORDER  ?= examples/order_processing/orders/sample.json
JOBS   ?= auto
KILLS  ?= 500
MODULE ?= circuit_breaker
SAMPLE ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint types suite docs links changelog pictures dist wheel-test extras storm bench startup mutants clean

help: ## Show this help
	@echo "pytest-workflow-core - make targets:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo
	@echo "  make demo ORDER=path/to/order.json     process another order"
	@echo "  make demo WORKFLOW_DIR=path/to/state   keep its state elsewhere than in ./.workflow"
	@echo "  make test JOBS=4                       run the tests in 4 processes"
	@echo "  make ... PYTHON=python3.12             set up $(VENV) with another Python (3.11 or newer)"

# Stamps: made when an installation is complete, and made again when pyproject.toml changes.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is missing or older than 3.11; choose another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Setting up $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing the project into $(VENV) ..."
	@$(PIP) install --quiet --editable ".[cli]"
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing the project and its development tools into $(VENV) ..."
	@$(PIP) install --quiet --editable ".[dev]"
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo ## Process the sample order on a real SQLite database; Ctrl-C, and again, to see it go on
	@$(if $(WORKFLOW_DIR),,echo "WORKFLOW_DIR is not set; the state goes to $(CURDIR)/.workflow";) \
	  WORKFLOW_DIR="$(or $(WORKFLOW_DIR),$(CURDIR)/.workflow)" $(BIN)/python -m examples.order_processing "$(ORDER)"

test: lint types suite ## Run ruff, mypy --strict and the whole test suite

lint: $(VENV)/.dev ## Run ruff, and check that imports point one way
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.dev ## Run mypy --strict
	$(BIN)/mypy

suite: $(VENV)/.dev ## Run the test suite
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

docs: $(VENV)/.dev ## Build the documentation site, dist/site/index.html; a broken link within it fails it
	$(BIN)/python -m tests.docs.cli_reference
	$(BIN)/python -m sphinx --quiet --builder html --fail-on-warning --keep-going --write-all docs dist/site
	@echo "The site is in dist/site; open dist/site/index.html"

links: $(VENV)/.dev ## Check the links of the documentation to other sites; needs the internet
	$(BIN)/python -m sphinx --quiet --builder linkcheck docs dist/links

pictures: $(VENV)/.dev ## Make the pictures of docs/images anew; needs Chromium
	$(BIN)/python -m tests.docs.pictures

changelog: $(VENV)/.dev ## Show what the next release changes, from changelog.d
	@$(BIN)/towncrier build --draft --version Unreleased --date "changes since then"

# Without git, as in an unpacked source distribution, the files tell the moment of the commit.
dist: $(VENV)/.dev ## Build the wheel and the source distribution into dist/
	SOURCE_DATE_EPOCH="$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || \
	  $(BIN)/python -c 'import os; print(int(os.stat("pyproject.toml").st_mtime))')}" $(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*.whl dist/*.tar.gz

wheel-test: $(VENV)/.dev ## Run the suite against the built wheel, in an environment of its own, without the source
	$(BIN)/python tests/wheel.py -n $(JOBS)

extras: $(VENV)/.dev ## Install the wheel with each extra alone, and look at what works and what is said
	$(BIN)/python tests/extras.py

storm: $(VENV)/.dev ## Kill workers 500 times, let 8 processes share 200 executions, and cut PostgreSQL off from workers
	WORKFLOW_STORM_EXECUTIONS=200 $(BIN)/python -m pytest -q -p no:cacheprovider tests/reliability/test_kills.py
	WORKFLOW_STORM_EXECUTIONS=400 WORKFLOW_STORM_BATCHES=8 WORKFLOW_WORKER_STRIKES=100 WORKFLOW_OUTAGE_SECONDS=12 \
	  $(BIN)/python -m pytest -q -p no:cacheprovider -o timeout=1200 --timeout=1200 tests/reliability/test_worker*.py
	$(BIN)/python -m tests.reliability.kill_storm --kills $(KILLS)

bench: $(VENV)/.dev ## Measure steps per second against raw sqlite3, group commit, and steps on PostgreSQL
	$(BIN)/python tests/bench/steps_per_second.py
	$(BIN)/python tests/bench/group_commit.py
	$(BIN)/python -m tests.bench.postgres_steps

startup: $(VENV)/.dev ## Measure how long imports, commands and pytest take to start
	$(BIN)/python -m tests.bench.startup

mutants: $(VENV)/.dev ## Change one module in hundreds of ways, and count the changes that fast tests find: MODULE=step
	@$(BIN)/python -c 'import mutmut' 2>/dev/null || $(PIP) install --quiet "mutmut>=3.8"
	$(BIN)/python tests/mutation/run.py $(MODULE) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED))

clean: ## Remove the virtual environment and all caches; .workflow stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks mutants dist build
