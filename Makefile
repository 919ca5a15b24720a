# Every task of the project. `make help` lists them. Works with plain Python and pip; uses uv if it is
# there (`make setup UV=` does without it).

.DEFAULT_GOAL := help
SHELL := /bin/sh
MAKEFLAGS += --no-print-directory

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV ?= $(shell command -v uv 2>/dev/null)
PIP_QUIET := -qq --disable-pip-version-check --no-input

# Dagster announces that its own `dg` supersedes `dagster`; not the reader's concern here.
QUIET_DAGSTER := PYTHONWARNINGS=ignore::FutureWarning

PORT ?= 3000
IMAGE ?= selfheal:latest

# No tool calls home.
export DO_NOT_TRACK = 1
export DAGSTER_DISABLE_TELEMETRY = yes
export DBT_SEND_ANONYMOUS_USAGE_STATS = false
export MLFLOW_DISABLE_TELEMETRY = true
export NML_DISABLE_USAGE_LOGGING = 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-z-]*:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- Use it ---------------------------------------------------------------------------------

.PHONY: setup
setup: $(STAMP) ## Make the environment in .venv (done by the other targets when needed)

$(STAMP): pyproject.toml requirements.lock
	@python=; for candidate in $(or $(PYTHON),python3.11 python3.12 python3 python); do \
	  if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; \
	  then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "selfheal needs Python 3.11 or 3.12, and none was found. Install one, or say where it is:" >&2; \
	  echo "  make setup PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	echo "Installing dependencies (a few minutes the first time)"; \
	if [ -n "$(UV)" ]; then \
	  "$(UV)" venv -q --seed --allow-existing --python "$$python" $(VENV) && \
	  "$(UV)" pip install -q --compile-bytecode --python $(BIN)/python -r requirements.lock && \
	  "$(UV)" pip install -q --python $(BIN)/python --no-deps -e .; \
	else \
	  "$$python" -m venv $(VENV) && \
	  $(BIN)/python -m pip install $(PIP_QUIET) -r requirements.lock && \
	  $(BIN)/python -m pip install $(PIP_QUIET) --no-deps -e .; \
	fi
	@touch $@

.PHONY: demo
demo: $(STAMP) ## Replay 2002-2012 on the shipped loans (ARGS=--fresh starts anew, ARGS=--full all loans)
	@$(BIN)/selfheal replay $(ARGS)

.PHONY: dev
dev: $(STAMP) ## Open the Dagster UI with the demo's history (PORT=3000)
	@$(QUIET_DAGSTER) $(BIN)/selfheal dev --port $(PORT)

.PHONY: serve
serve: $(STAMP) ## Start the prediction service
	@$(BIN)/selfheal serve $(ARGS)

# --- Test it --------------------------------------------------------------------------------

# Processes that share the tests; PARALLEL= runs them one after another in this one.
PARALLEL ?= -n logical --maxprocesses 8 --no-loadscope-reorder

.PHONY: test
test: $(STAMP) ## Run all tests (ARGS='-k promotion' chooses)
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

.PHONY: test-unit
test-unit: $(STAMP) ## Run the fast tests only
	@$(BIN)/python -m pytest -m "not integration and not e2e and not data and not long" $(ARGS)

.PHONY: test-integration
test-integration: $(STAMP) ## Run the tests that cross processes and databases, or drive the loop and the UI
	@$(BIN)/python -m pytest $(PARALLEL) -m "(integration or e2e) and not long" $(ARGS)

.PHONY: test-long
test-long: $(STAMP) ## Kill the daemon and promoters, type the tutorial, run the benches small (35 minutes)
	@$(BIN)/python -m pytest -m long $(ARGS)

.PHONY: test-data
test-data: $(STAMP) ## Validate the shipped data and the use cases' schemas
	@$(BIN)/python -m pytest -m data $(ARGS)

.PHONY: check
check: lint types dbt-parse definitions ## Run every static check

.PHONY: lint
lint: $(STAMP) ## Ruff, its formatting, and the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo

.PHONY: types
types: $(STAMP) ## Pyright
	@$(BIN)/pyright --pythonpath $(BIN)/python

.PHONY: dbt-parse
dbt-parse: $(STAMP) ## Parse the dbt project
	@$(BIN)/dbt --quiet --log-path dbt_project/logs parse --no-partial-parse \
	  --project-dir dbt_project --profiles-dir dbt_project
	@echo "dbt project parsed"

.PHONY: definitions
definitions: $(STAMP) ## Load Dagster's definitions as the daemon would
	@$(QUIET_DAGSTER) $(BIN)/dagster definitions validate -w workspace.yaml --log-level warning
	@echo "Dagster's definitions load"

.PHONY: ci
ci: ## Run what CI runs
	@bash .ci/run

# --- Measure it -----------------------------------------------------------------------------
# docs/benchmarks.md says how. Each ends with one line of JSON; ARGS=--help lists a program's options.

.PHONY: bench-serving
bench-serving: $(STAMP) ## Load the service, a plain peer and mlflow's server in turn (needs wrk; 7 minutes)
	@$(BIN)/python -m selfheal_assets_tests.bench.serving $(ARGS)

.PHONY: crash-log
crash-log: $(STAMP) ## Kill services under load 200 times and count what is missing (12 minutes)
	@$(BIN)/python -m selfheal_assets_tests.bench.crash_log $(ARGS)

.PHONY: bench-ingest
bench-ingest: $(STAMP) ## Ingest a million logged answers into a new warehouse (a minute)
	@$(BIN)/python -m selfheal_assets_tests.bench.ingest $(ARGS)

.PHONY: bench-estimators
bench-estimators: $(STAMP) ## Hold estimates without labels against the labels, on three data sets (3 minutes)
	@$(BIN)/python -m selfheal_assets_tests.bench.estimators $(ARGS)

.PHONY: bench-early-harm
bench-early-harm: $(STAMP) ## Date the alarm of 2006-2007 by labels so far and by matured ones (minutes; ARGS=--full)
	@$(BIN)/python -m selfheal_assets_tests.bench.early_harm $(ARGS)

.PHONY: bench-rollback
bench-rollback: $(STAMP) ## Live through 1,000 probations of an equally good champion, and some of a bad one (minutes)
	@$(BIN)/python -m selfheal_assets_tests.bench.rollback $(ARGS)

.PHONY: bench-maturity
bench-maturity: $(STAMP) ## Train on labels so far and on matured ones alone, 2003 to 2009 (minutes; ARGS=--no-full)
	@$(BIN)/python -m selfheal_assets_tests.bench.maturity $(ARGS)

.PHONY: bench-gates
bench-gates: $(STAMP) ## Promote equal, worse and better challengers: how often do the gates err? (6 minutes; ARGS=--full)
	@$(BIN)/python -m selfheal_assets_tests.bench.gates $(ARGS)

.PHONY: bench-policy
bench-policy: $(STAMP) ## Live through 50 simulated worlds under four policies, and 100 in which nothing happens (half an hour)
	@$(BIN)/python -m selfheal_assets_tests.bench.policy $(ARGS)

# Other tools that a benchmark measures beside this one; the product does not need them.
PEERS := $(VENV)/.peers

$(PEERS): $(STAMP) selfheal_assets_tests/bench/peers.txt
	@if [ -n "$(UV)" ]; then "$(UV)" pip install -q --python $(BIN)/python -c requirements.lock \
	  -r selfheal_assets_tests/bench/peers.txt; \
	else $(BIN)/python -m pip install $(PIP_QUIET) -c requirements.lock \
	  -r selfheal_assets_tests/bench/peers.txt; fi
	@touch $@

.PHONY: bench-alarms
bench-alarms: $(PEERS) ## Count false alarms and delays beside NannyML's and Evidently's (8 minutes)
	@$(BIN)/python -m selfheal_assets_tests.bench.alarms $(ARGS)

.PHONY: bench-monitoring
bench-monitoring: $(PEERS) ## Monitor 1e5 to 1e7 rows beside NannyML and Evidently (ARGS=--huge: 1e8 too)
	@$(BIN)/python -m selfheal_assets_tests.bench.monitoring $(ARGS)

# --- Work on it -----------------------------------------------------------------------------

.PHONY: fmt
fmt: $(STAMP) ## Format the code and mend what Ruff can
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

# Keeps the versions already locked where they still fit. ARGS=--upgrade takes the newest, and
# ARGS='--upgrade-package NAME' the newest of one.
.PHONY: lock
lock: ## Lock the dependencies again (ARGS=--upgrade for newer ones)
	@uv="$(UV)"; if [ -z "$$uv" ]; then \
	  [ -x $(BIN)/python ] || { echo "run 'make setup' first, or install uv" >&2; exit 1; }; \
	  $(BIN)/python -m pip install $(PIP_QUIET) uv && uv=$(BIN)/uv; \
	fi; \
	"$$uv" pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	  --no-emit-index-url --no-header --no-annotate --quiet --output-file requirements.lock $(ARGS)
	@! grep -nE '[:@/]' requirements.lock || { echo "requirements.lock names an address" >&2; exit 1; }

.PHONY: docker-build
docker-build: ## Build the image (where there is a Docker engine)
	@if docker info >/dev/null 2>&1; then docker build -f docker/Dockerfile -t $(IMAGE) .; \
	elif [ -n "$$CI" ]; then echo "no Docker engine answers" >&2; exit 1; \
	else echo "Skipped: no Docker engine answers on this machine."; fi

.PHONY: clean
clean: ## Remove caches and build output; keep .venv and data/run
	@rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist logs target \
	  dbt_project/target dbt_project/logs
	@find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## Remove .venv and everything a run wrote, too
	@rm -rf $(VENV) data/run
