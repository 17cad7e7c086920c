# Two commands are enough on a fresh machine with Python and make: `make demo` and `make test`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test test-all check bench docs clean environment

# uv from the machine, else from a private environment in .uv/.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .uv/bin/uv)
RUN := .venv/bin/python
DATA := $(wildcard ../shared/data)
export PYTHONPATH := $(CURDIR)
export RAY_USAGE_STATS_ENABLED ?= 0
export MLFLOW_DISABLE_TELEMETRY ?= true
export RAY_ENABLE_UV_RUN_RUNTIME_ENV ?= 0
ifneq ($(DATA),)
export AQA_TEST_DATA ?= $(abspath $(DATA))
endif

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

demo: environment  ## the whole pipeline on rendered athletes: videos, poses, training, evaluation
	$(RUN) -m pipelines demo

test: environment  ## the tests, without the slow ones
	$(RUN) -m pytest -m "not slow"

test-all: environment  ## every test
	$(RUN) -m pytest

check: environment  ## style, types, import rules, lock file
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	$(RUN) -m pytest tests/test_architecture.py tests/test_readme.py
	$(UV) lock --check --quiet

bench: environment  ## the benchmarks that need no data; hours on a laptop, best on a quiet machine
	$(RUN) benchmarks/bench_decode.py errors
	$(RUN) benchmarks/bench_decode.py memory --minutes 30
	$(RUN) benchmarks/bench_pose.py
	$(RUN) benchmarks/bench_appearance.py
	$(RUN) benchmarks/bench_plan.py

docs: environment  ## write docs/configuration.md and docs/tables.md from the schemas
	$(RUN) docs/generate.py

clean:  ## remove runs/ and caches; the environment (.venv, .uv) stays
	rm -rf runs mlruns mlflow.db dist build .pytest_cache .ruff_cache .hypothesis .metaflow
	find . -name __pycache__ -type d -not -path './.venv/*' -not -path './.uv/*' -prune -exec rm -rf {} +

environment: .venv/.synced

# Again only when the dependencies change; prints uv's own messages, so a long first download is visible.
.venv/.synced: pyproject.toml uv.lock
	@if [ "$(UV)" = .uv/bin/uv ] && [ ! -x .uv/bin/uv ]; then \
		echo "uv is not installed: putting it into .uv/"; \
		python3 -m venv .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check uv; \
	fi
	$(UV) sync --locked
	@touch $@
