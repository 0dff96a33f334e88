# Two commands matter: `make up` (a first answer through the gateway) and `make test`.
PYTHON ?= python3.11
BIN := .venv/bin
TORCH := 2.13.0
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
LOCKED := -m pip install --disable-pip-version-check --require-hashes --no-deps -qqr

.PHONY: help up install train-install test search check lint types imports format lock bench-gateway bench-soak bench-economics bench-report bench-perimeter bench-evals bench-strategies bench-cascade bench-distill docs clean

help:              ## What can be asked for
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 18

up: install        ## Start the gateway with the built-in model, send one real request, keep serving
	@$(BIN)/isthmus serve --greet

install: .venv/.installed ## Build .venv from hash-locked requirements; touches nothing else
.venv/.installed: requirements/dev.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Isthmus needs Python 3.11: install it, or say PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the locked requirements into .venv (a minute or two the first time)"
	@$(BIN)/python $(LOCKED) requirements/dev.lock
	@$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -qq --editable .
	@touch $@

train-install: .venv-train/.installed ## Build .venv-train: PyTorch for the CPU and what else training needs
.venv-train/.installed: requirements/train.lock requirements/torch-cpu.lock requirements/torch.lock
	@test -x .venv-train/bin/python || $(PYTHON) -m venv .venv-train
	@echo "Installing PyTorch and the locked requirements of training into .venv-train (about three minutes)"
	@.venv-train/bin/python $(LOCKED) requirements/torch-cpu.lock || \
	{ echo "PyTorch's build for the CPU cannot be had: taking the one for GPUs (some gigabytes)"; \
	.venv-train/bin/python $(LOCKED) requirements/torch.lock; }
	@.venv-train/bin/python $(LOCKED) requirements/train.lock
	@.venv-train/bin/python -c "import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'isthmus.pth').write_text('$(CURDIR)/src')"
	@touch $@

test: install train-install ## Run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
search: install    ## Try the laws on a thousand new inputs each (minutes to an hour)
	HYPOTHESIS_PROFILE=search $(BIN)/python -m pytest tests/laws

check: lint types imports ## All static checks
lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
types: install
	$(BIN)/mypy
imports: install
	$(BIN)/lint-imports

format: install    ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:              ## Resolve the requirements anew (needs the network)
	$(COMPILE) pyproject.toml --extra dev --no-emit-package isthmus --output-file requirements/dev.lock
	$(COMPILE) pyproject.toml --extra evals --extra parquet --extra signing --no-emit-package isthmus --output-file requirements/runtime.lock
	echo torch | $(COMPILE) pyproject.toml --excludes /dev/stdin --extra train --no-emit-package isthmus --output-file requirements/train.lock
	# PyTorch has a build for the CPU, which lies where PIP_FIND_LINKS says, and the common one for GPUs with their libraries.
	echo "torch==$(TORCH)+cpu" | UV_FIND_LINKS="$$PIP_FIND_LINKS" $(COMPILE) - --constraints requirements/train.lock --output-file requirements/torch-cpu.lock
	echo "torch==$(TORCH)" | $(COMPILE) - --constraints requirements/train.lock --output-file requirements/torch.lock

docs: install      ## Make the reference pages anew from the code
	$(BIN)/python -m isthmus.config.reference docs/reference
	$(BIN)/python -m isthmus.cli.reference docs/reference

bench-gateway: install ## Measure the gateway beside its peers (about 11 minutes)
	$(BIN)/python -m bench.gateway.run
bench-soak: install ## A million requests: is memory flat?
	$(BIN)/python -m bench.gateway.soak
bench-economics: install ## Judge the estimator of sizes by measured points (DATA=FILE: by others)
	$(BIN)/python -m bench.economics.run $(if $(DATA),--data $(DATA))
bench-report: install ## Measure the cost report over a year of ten million records (3 GB in /tmp for some minutes)
	$(BIN)/python -m bench.economics.report
bench-perimeter: install ## Measure what is found of people beside Presidio (about five minutes)
	$(BIN)/python -m bench.perimeter.run
bench-strategies: install ## Measure routers, cascades and votes on known outcomes (DATA=DIR: on others)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m bench.strategies.run $(if $(DATA),--data $(DATA))
bench-cascade: install ## Calibrate, serve and measure a cascade of real weights (about ten minutes)
	$(BIN)/python -m bench.strategies.served

bench-evals: install ## Judge intervals, tests and estimates by worlds whose truth is known (six minutes on idle cores)
	$(BIN)/python -m bench.evals.run

bench-distill: install train-install ## Measure what a student learns, through the gateway (up to half an hour)
	$(BIN)/python -m bench.distill.run

clean:             ## Remove what was built
	rm -rf .venv .venv-train build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
