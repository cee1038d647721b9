# Needs python3 (3.11 or later) and make; everything else lands in .venv.
# Another interpreter: make install PYTHON=/path/to/python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --upgrade pyproject.toml

# Tests start the product thousands of times: what was compiled once is kept. They also wait, for
# processes and time limits: one process more than there are processors, up to 4, keeps those busy.
PROCESSES := $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 4 ? n + 1 : 4)))
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal

# What `make field` runs on a distribution's PostgreSQL, and again behind pgbouncer.
FIELD := tests/engine/test_submission.py tests/engine/test_execution.py tests/engine/test_backups.py

# Other queues to measure beside ours: apart, so that nothing they bring reaches ours.
BENCH := .venv-bench
BENCH_STAMP := $(BENCH)/.installed

# A .venv stays with its interpreter until another one is asked for by name.
ifneq ($(filter command environment,$(firstword $(origin PYTHON))),)
VERSION := import sys; print(sys.version)
ifneq ($(shell $(PYTHON) -c '$(VERSION)' 2>&1),$(shell $(BIN)/python -c '$(VERSION)' 2>&1))
REPLACE := yes
.PHONY: $(STAMP)
endif
endif

.DEFAULT_GOAL := help
.PHONY: help install demo test slow field chaos storm data bench soak docs lint types lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## make .venv with the locked dependencies and bin/orchestrator

demo: $(STAMP) ## start everything in a temporary directory and show it at work
	$(BIN)/python -m examples.demo

test: $(STAMP) ## run the tests; choose with ARGS="-k lease", one at a time with ARGS="-n 0"
	$(PYTEST) -m 'not slow and not field' $(ARGS)

slow: $(STAMP) ## run those that take long: killed processes, broken brokers, audits of damage, Ganeti's own code
	$(PYTEST) -m 'slow and not field' $(ARGS)

field: $(STAMP) ## run it on servers as a distribution installs them: PostgreSQL, pgbouncer, nginx, Redis
	$(PYTEST) -m field tests/field $(ARGS)
	$(PYTEST) -m 'not slow' --server debian --database postgresql $(FIELD) tests/engine/test_plans.py \
	  tests/engine/test_frozen.py tests/acceptance/test_http.py $(ARGS)
	$(PYTEST) -m 'not slow' --server pgbouncer $(FIELD) tests/engine/test_frozen.py \
	  -k 'postgresql or moved or every_row' $(ARGS)

chaos: $(STAMP) ## break everything at every step; one cell: STEP=claim.after_commit ARGS="-k …", a ninth: PART=0 to 8
	CHAOS_PART='$(PART)' CHAOS_STEP='$(STEP)' CHAOS_SEED='$(SEED)' $(BIN)/python -m tests.chaos $(ARGS)

storm: $(STAMP) ## kill, freeze and cut off anything at any moment: SEEDS=1-50
	CHAOS_SEEDS='$(or $(SEEDS),1-50)' $(BIN)/python -m pytest -m slow -k short_storm \
	  tests/chaos/test_product.py $(ARGS)

data: $(STAMP) ## do everything to volumes while others do everything to the storage; CELL='…' is one, PART=0 to 7 an eighth
	DATA_CELL='$(CELL)' DATA_PART='$(PART)' DATA_SEED='$(SEED)' $(BIN)/python -m tests.data $(ARGS)

bench: $(STAMP) $(BENCH_STAMP) ## measure it beside other queues; less with ARGS="--quick --only batch"
	$(BIN)/python -m benchmarks $(ARGS)

soak: $(STAMP) ## load it steadily and see whether anything grows; for an hour with MINUTES=60
	$(BIN)/python -m benchmarks.soak $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

docs: $(STAMP) ## write what is made from the code: reference pages, the client's methods
	$(BIN)/python -m tests.docs

lint: $(STAMP) ## check style and formatting (ruff), and that imports go down only (import-linter)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --cache-dir build/imports

types: $(STAMP) ## check types (mypy)
	$(BIN)/mypy

lock: $(STAMP) ## renew the lock files after a change to pyproject.toml
	$(LOCK) --output-file requirements.lock
	$(LOCK) --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	$(subst pyproject.toml,--group bench,$(LOCK)) --constraint requirements-dev.lock \
	  --output-file requirements-bench.lock

clean: ## remove .venv, caches and build results
	rm -rf $(VENV) $(BENCH) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or later is needed, and $(PYTHON) is not that." \
	       "Name one: make install PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: ensurepip is missing." \
	       "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@if [ -n "$(REPLACE)" ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(BENCH_STAMP): requirements-bench.lock | $(STAMP)
	rm -rf $(BENCH) && $(BIN)/python -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-bench.lock
	@touch $@
