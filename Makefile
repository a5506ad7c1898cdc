# `make` shows what there is. All of it runs in .venv, which holds exactly what the files of
# requirements/ name: what a server needs, and once a target asks for them the developers' tools.
# What only builds the page and the package, Node among it, lies apart in .build, as do the servers
# that only the bench runs.

PYTHON ?= python3
ARGS =

CLIENT := clients/typescript
AGENT := clients/agui
DRIVERS := tests/live/node
STEP := @sh scripts/step
INSTALL := sh scripts/install .venv/bin/python
NPM_CI := npm ci --ignore-scripts --no-audit --no-fund
GATES := page-gate mypy-gate collect-gate pyright-gate client-gate beside-gate lint-gate format-gate floors-gate
LAST := package-last lowest-last clients-last frameworks-last
AT_ONCE_IN_TWO := $(MAKE) --no-print-directory --jobs=2 --output-sync=target AT_ONCE=yes
# Processes that share the test files. More than a small machine has cores: tests wait a lot, and live
# tests wait more.
WORKERS ?=
FILES := --dist=loadfile --no-loadscope-reorder
SPREAD := --numprocesses=$(or $(WORKERS),4) $(FILES)
LIVE_SPREAD := --numprocesses=$(or $(WORKERS),6) $(FILES)

export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/.build/bin:$(PATH)
# Images of machines often forbid Python to keep what it compiles. Then every start of a server would
# compile all of it again, which takes longer than the rest of the start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# One after the other, but for the gates and the last live tests, which start this file anew and need
# nothing of one another.
ifndef AT_ONCE
.NOTPARALLEL:
endif
.PHONY: help setup run page test check orders live planted soak coverage bench benches versions newest lock release format clean $(GATES) $(LAST)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-10s%s\n", $$1, $$2 }' Makefile

setup: .venv/.developer ## make the environment (every target does when it must)

run: .venv/.installed page/dist/index.html ## serve the page, with a sign-in link for alice and one for bob
	.venv/bin/isolane serve --demo --log-format console $(ARGS)

page: page/dist/index.html ## build the chat page

test: check orders live ## every gate, then the orders, the live and the browser tests

check: .venv/.developer .build/.installed .venv/.servers $(CLIENT)/node_modules/.installed $(AGENT)/node_modules/.installed page/node_modules/.installed ## the gates: format, lint, types, floors, unit and contract tests, agent frameworks beside
	@$(AT_ONCE_IN_TWO) $(GATES)
	$(STEP) tests    pytest tests/unit tests/contracts tests/typing $(SPREAD) $(ARGS)

orders: .venv/.developer ## what holds in whatever order the tasks run
	$(STEP) orders   pytest tests/interleaving --numprocesses=$(or $(WORKERS),4) $(ARGS)

# Also keeps what pytest makes of the test files, which each of its processes would make anew.
collect-gate:
	$(STEP) collect  sh -c 'found=$$(pytest tests --collect-only -qqq) || { echo "$$found"; exit 1; }'
mypy-gate:
	$(STEP) mypy     mypy
pyright-gate:
	$(STEP) pyright  basedpyright
format-gate:
	$(STEP) format   ruff format --check
lint-gate:
	$(STEP) lint     ruff check
floors-gate:
	$(STEP) floors   lint-imports --no-logo
client-gate:
	$(STEP) client   npm --prefix $(CLIENT) run check
	$(STEP) client   npm --prefix $(CLIENT) test
	$(STEP) agui     npm --prefix $(AGENT) run check
	$(STEP) agui     npm --prefix $(AGENT) test
page-gate:
	$(STEP) page     npm --prefix page run check
	$(STEP) page     npm --prefix page test
beside-gate:
	$(STEP) beside   python scripts/beside.py

live: .venv/.developer .build/.installed .venv/.chromium .venv/.servers $(DRIVERS)/node_modules/.installed $(CLIENT)/node_modules/.installed $(AGENT)/node_modules/.installed page/dist/index.html ## the tests that start real servers, clients and browsers
	$(STEP) live     pytest tests/live -m "not soak and not alone" $(LIVE_SPREAD) --durations=20 $(ARGS)
	$(STEP) alone    pytest tests/live -m "alone and not soak" --durations=20 $(ARGS)
	$(STEP) browser  pytest tests/browser $(SPREAD) $(ARGS)
	@$(AT_ONCE_IN_TWO) $(LAST)

package-last:
	$(STEP) package  pytest tests/package -m "not soak" $(SPREAD) $(ARGS)
lowest-last:
	$(STEP) lowest   python scripts/versions.py --locked
clients-last:
	$(STEP) client   npm --prefix $(CLIENT) run test:live
	$(STEP) agui     npm --prefix $(AGENT) run test:live
frameworks-last:
	$(STEP) beside   python scripts/beside.py --try

planted: .venv/.developer ## put each mistake of tests/planted back, and show which test catches it
	$(STEP) planted  pytest tests/planted -o console_output_style=classic $(ARGS)

soak: .venv/.developer $(DRIVERS)/node_modules/.installed ## an hour of churn with faults, and the other live tests that take long
	$(STEP) soak     pytest tests/live tests/package -m soak -s $(ARGS)

coverage: .venv/.developer ## tell which lines no unit or contract test runs
	$(STEP) coverage pytest tests/unit tests/contracts $(SPREAD) --cov --cov-report=term $(ARGS)

bench: .venv/.developer .build/peers/.installed ## measure what the gateway costs beside other servers; ARGS=--quick takes two minutes
	.venv/bin/python bench/costs.py $(ARGS)

benches: .venv/.developer ## measure what a manager costs, what grows with what is stored, what long lists and the chat doors cost
	.venv/bin/python bench/manager.py
	.venv/bin/python bench/growth.py
	.venv/bin/python bench/lists.py
	.venv/bin/python bench/chats.py

versions: .venv/.developer ## the unit, contract and some live tests on each Python here, lowest and newest dependencies
	$(STEP) versions python scripts/versions.py $(ARGS)

newest: .venv/.developer .build/.installed page/node_modules/.installed $(CLIENT)/node_modules/.installed $(AGENT)/node_modules/.installed $(DRIVERS)/node_modules/.installed ## tell what the newest of everything foreign does; fails nothing
	sh scripts/newest npm

format: .venv/.developer ## mend what can be mended without thought
	.venv/bin/ruff check --fix-only
	.venv/bin/ruff format

release: .venv/.developer ## build sdist and wheel into dist, from the last commit, and try them
	$(STEP) release  sh scripts/release

# Keeps the versions that still fit; ARGS=--upgrade takes the newest.
lock: .venv/.developer ## write requirements/ anew after a change of pyproject.toml
	sh scripts/lock $(ARGS)

clean: ## remove what make and the tools made
	rm -rf .venv .venvs .build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis \
	    .coverage .coverage.* htmlcov dist build page/dist \
	    $(DRIVERS)/node_modules $(CLIENT)/node_modules $(AGENT)/node_modules page/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What a server needs, and nothing else.
.venv/.locked: requirements/server.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo >&2 \
	    "Isolane needs Python 3.11 or newer, and '$(PYTHON)' is not: make PYTHON=python3.12"; exit 1; }
	@echo "making .venv, which takes half a minute"
	@$(PYTHON) -m venv --clear .venv
	$(STEP) server   $(INSTALL) requirements/server.lock
	@touch $@

# The package itself is installed so that a change of src is there at once. What builds it is found by
# PYTHONPATH, so that a server's environment stays free of it.
.venv/.installed: .venv/.locked pyproject.toml hatch_build.py
	@$(MAKE) -s .build/.installed
	@PYTHONPATH="$(CURDIR)/.build/python" .venv/bin/python -m pip --disable-pip-version-check \
	    install -qq --no-input --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.developer: .venv/.installed requirements/dev.lock
	$(STEP) tools    $(INSTALL) requirements/dev.lock
	@.venv/bin/python -m pip --disable-pip-version-check check >.venv/check || { cat .venv/check >&2; \
	    echo >&2 "requirements/dev.lock lacks what pyproject.toml asks for: make lock"; exit 1; }
	@touch $@

# Node comes from the registry of Python packages, so that the page, the type checkers and the live
# tests run on one version everywhere, also where no Node is installed. Only targets that find their
# work undone ask for it: where the page is built, .build and node_modules may be deleted.
.build/.installed: requirements/build.lock | .venv/.locked
	@rm -rf .build
	$(STEP) build    $(INSTALL) requirements/build.lock --target .build/python
	@sh scripts/node .build
	@touch $@

# Other servers, which only the bench runs, in an environment that no tool of this one sees.
.build/peers/.installed: bench/peers.lock | .venv/.locked
	@$(PYTHON) -m venv --clear .build/peers
	$(STEP) peers    sh scripts/install .build/peers/bin/python bench/peers.lock
	@touch $@

%/node_modules/.installed: %/package-lock.json | .venv/.locked
	@$(MAKE) -s .build/.installed
	$(STEP) npm      $(NPM_CI) --prefix $*
	@touch $@

page/dist/index.html: page/package-lock.json page/index.html page/vite.config.ts \
    $(shell find page/src $(CLIENT)/src -type f)
	@$(MAKE) -s page/node_modules/.installed
	$(STEP) page     npm --prefix page run build --silent
	@touch $@

.venv/.chromium: .venv/.locked
	$(STEP) chromium sh scripts/chromium
	@touch $@

.venv/.servers: .venv/.locked scripts/servers
	$(STEP) servers  sh scripts/servers
	@touch $@
