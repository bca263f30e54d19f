# `make repro` and `make test` first install what is missing, inside this folder. `make help` lists all targets.
# The README has the same commands for machines without make.

UV_VERSION := 0.13.9
UV := $(shell command -v uv || echo .uv/bin/uv)
RUN := $(UV) run --no-sync
export UV_PYTHON_DOWNLOADS := never
export PYTHONUNBUFFERED := 1
# Without stored bytecode, every process would compile the sources of torch, diffusers and transformers again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install repro summary report demo ablation test test-extras slow-extras pipeline sd15 slow soak lint types contracts deps check format lock

help: ## print this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/.installed ## install uv if it is missing, and the environment of requirements.lock

repro: install ## run the stages that are out of date, then print a summary
	$(RUN) dvc repro
	@$(RUN) naruto-add summary

summary: install ## print the metrics of the last run and where its results are
	@$(RUN) naruto-add summary

report: install ## write report.html: metrics, curves and grids of the last run on one page, readable offline
	@$(RUN) naruto-add report

demo: ## build the page that export.formats demo fills; needs Node.js 20 or later, and npm's registry once
	cd demo && npm ci --ignore-scripts && npm run build

ablation: install ## train and compare variants of the distillation; writes metrics/ablation.json and a grid
	@$(RUN) naruto-add ablation

test: install ## run the fast tests
	$(RUN) pytest -n auto

EXTRAS_TESTS = $(shell grep -rl --include='test_*.py' 'from tests.extras import' tests)

test-extras: .venv-extras/.installed ## run the tests that need packages of extras, in an environment of their own
	TEST_EXTRAS=1 .venv-extras/bin/python -m pytest -n auto $(EXTRAS_TESTS)

slow-extras: .venv-extras/.installed ## run the tests that need packages of extras and take minutes, such as drawing on an emulated GPU
	TEST_EXTRAS=1 .venv-extras/bin/python -m pytest -m slow $(EXTRAS_TESTS)

pipeline: install ## test the pipeline at a tiny size: which stages rerun, killed stages, experiments
	$(RUN) pytest -m slow tests/test_pipeline.py

sd15: install ## test the pipeline on a base like Stable Diffusion 1.5, from a hub on this machine
	$(RUN) pytest -m slow tests/test_sd15.py

slow: install ## run the tests that take minutes: the pipeline, several processes, the ablation's queue
	$(RUN) pytest -m slow

soak: install ## as root, disturb the tiny pipeline for an hour (MINUTES=60): kills, full disks, damaged files; a later call continues
	$(RUN) python -m tests.soak --minutes $(or $(MINUTES),60) --folder .soak

lint: install ## check style and formatting
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: install ## check the static types of src and stages
	$(RUN) mypy

contracts: install ## check which modules import which
	$(RUN) lint-imports

deps: install ## write the dependencies of the stages on code and packages into dvc.yaml and packages.yaml
	$(RUN) naruto-add deps

check: lint types contracts test ## run all checks that a commit must pass

format: install ## format the code
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

LOCK = $(UV) pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --no-header --quiet --group dev

EXTRAS = --extra dvclive --extra onnx --extra tensorboard --extra wandb

lock: .uv-ready ## update the three lock files from pyproject.toml; then run `make deps`
	$(LOCK) --output-file requirements.lock
	$(LOCK) --group base --constraints requirements.lock --output-file base/requirements.lock
	$(LOCK) --group base --group s3 $(EXTRAS) --constraints requirements.lock --output-file tests/requirements.lock

.PHONY: .uv-ready
.uv-ready:
	@command -v $(UV) >/dev/null || { echo "uv is missing; installing it into .uv"; \
		python3 -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); }

define INSTALL
$(UV) venv --quiet --allow-existing $(@D)
$(UV) pip sync --quiet --python $(@D) --require-hashes $<
$(UV) pip install --quiet --python $(@D) --no-deps --no-build-isolation --editable .
@touch $@
endef

.venv/.installed: requirements.lock pyproject.toml | .uv-ready
	$(INSTALL)

.venv-extras/.installed: tests/requirements.lock pyproject.toml | .uv-ready
	$(INSTALL)
