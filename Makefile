# `make dev` runs everything on this machine, `make test` checks everything. `make help` lists the rest.
# Both keep to this folder: programs in .venv, state in .agentmail.

PYTHON ?= python3
BIN := .venv/bin
PINS := .ci/constraints.txt
SOURCES := agentmail_cp tests $(wildcard bench)
# Tests wait a good deal: one process more than a small machine has cores.
PROCESSES ?= 3
# Seconds after which a run that hangs ends by itself, and says what it found.
PATIENCE ?= 2700
MIGRATIONS := $(filter-out %_procrastinate.sql,$(wildcard agentmail_cp/migrations/*.sql))

.DEFAULT_GOAL := help
.PHONY: help dev test check format fuzz failure bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

dev: .venv/.runtime ## Run API, worker, PostgreSQL and a mail server here; PORT=8000
	@exec $(BIN)/agentmail-cp dev

test: check ## Linters, types, import rules and all tests, with a real PostgreSQL; PROCESSES=3
	@$(BIN)/python -m pytest -n $(PROCESSES) --session-timeout=$(PATIENCE) -m "not alone"
	@$(BIN)/python -m pytest --session-timeout=$(PATIENCE) -m alone

check: .venv/.dev ## Linters, type check and import rules only
	@$(BIN)/ruff format --check --quiet $(SOURCES)
	@$(BIN)/ruff check --quiet $(SOURCES)
	@$(BIN)/basedpyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/squawk --assume-in-transaction --pg-version 15 \
	  --exclude prefer-bigint-over-int,prefer-bigint-over-smallint \
	  --exclude require-lock-timeout,require-statement-timeout $(MIGRATIONS)
	@$(BIN)/codespell $(SOURCES) $(wildcard *.md) docs deploy stalwart-config

format: .venv/.dev ## Bring the code into the one format
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/ruff check --fix $(SOURCES)

fuzz: export FUZZ_MINUTES ?= 10
fuzz: .venv/.dev ## Generated requests to every operation with keys of every reach; FUZZ_MINUTES=10
	@$(BIN)/python -m pytest -q -k test_fuzz tests/api/test_schemathesis.py

failure: .venv/.dev ## Mail under way while everything is killed and cut, and an outage; 20 minutes, real Stalwart
	@$(BIN)/python -m tests.failure.storm
	@$(BIN)/python -m tests.failure.storm --outage --seconds 600

bench: .venv/.dev ## Measure against a real Stalwart; writes bench/latest.json
	@$(BIN)/python -m bench

clean: ## Remove .venv and .agentmail, all local data included
	@rm -rf .venv .agentmail

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is %d.%d." \
	  % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# What only runs the product: small, so that the first `make dev` is quick.
.venv/.runtime: .venv/bin/python pyproject.toml $(PINS)
	@echo "Installing the product into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(PINS) -e .
	@touch $@

# pip knows dependency groups since 25.1; Python's own is often older.
.venv/.dev: .venv/.runtime
	@echo "Installing the development tools into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(PINS) --upgrade pip
	@$(BIN)/python -m pip install --quiet -c $(PINS) --group dev
	@touch $@
