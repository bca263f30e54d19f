# `make repro` and `make test` install what is missing, all of it inside this folder, and run. `make help` lists the rest.
# The README has the same commands for machines without make.

UV_VERSION := 0.13.9
UV := $(shell command -v uv || echo .uv/bin/uv)
RUN := $(UV) run --no-sync
export UV_PYTHON_DOWNLOADS := never
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help install repro summary report ablation test pipeline slow lint types contracts check format lock

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/.installed ## uv if it is missing, and the environment from requirements.lock

repro: install ## run what is out of date in the pipeline, then print a summary
	$(RUN) dvc repro
	@$(RUN) python -m naruto_add.summary

summary: install ## the figures of the last run, and where to look
	@$(RUN) python -m naruto_add.summary

report: install ## report.html: the last run's figures, grids, curves and health on one page, for offline reading
	@$(RUN) python -m stages.report && echo report.html

ablation: install ## train what each part of the distillation is compared with; metrics/ablation.json and its grid
	@$(RUN) python -m naruto_add.ablation

test: install ## the fast tests
	$(RUN) pytest -n auto

pipeline: install ## the pipeline itself at a tiny size: what reruns when, killed stages, experiments
	$(RUN) pytest -m slow tests/test_pipeline.py

slow: install ## all tests that take minutes: those, several processes, the ablation's queue
	$(RUN) pytest -m slow

lint: install ## style and formatting
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: install ## static types of src and stages
	$(RUN) mypy

contracts: install ## which module may import which
	$(RUN) lint-imports

check: lint types contracts test ## everything a commit must pass

format: install ## rewrite the code in the project's style
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

LOCK = $(UV) pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --no-header --quiet --group dev

lock: .uv-ready ## write both lock files anew from pyproject.toml
	$(LOCK) --output-file requirements.lock
	$(LOCK) --group base --constraints requirements.lock --output-file base/requirements.lock

.PHONY: .uv-ready
.uv-ready:
	@command -v $(UV) >/dev/null || { echo "uv is missing; installing it into .uv"; \
		python3 -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); }

.venv/.installed: requirements.lock pyproject.toml | .uv-ready
	$(UV) venv --quiet --allow-existing .venv
	$(UV) pip sync --quiet --python .venv --require-hashes requirements.lock
	$(UV) pip install --quiet --python .venv --no-deps --no-build-isolation --editable .
	@touch $@
