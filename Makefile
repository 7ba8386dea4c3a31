# make study: set up and run the notebooks.  make test: set up and run the tests.  make bench: measure speed.
PYTHON ?= python3
PROFILE ?= quick
RESULTS ?= results/$(PROFILE)
DATA ?=
WEIGHTS ?=
FRESH ?=

BIN := .venv/bin
READY := .venv/ready

# The data path is measured on real images where there are some.
VOCSEG_SHARED ?= ../shared
BENCH_DATA = $(firstword $(DATA) $(wildcard $(VOCSEG_SHARED)/voc2012/VOCdevkit))

.PHONY: setup study test lint bench smoke notebook

setup: $(READY)

$(READY): requirements.txt constraints.txt pyproject.toml
	@rm -f $@
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements.txt -e '.[dev]'
	@touch $@

study: $(READY)
	$(BIN)/python notebooks/run_study.py --profile "$(PROFILE)" --data "$(DATA)" --results "$(RESULTS)" --weights "$(WEIGHTS)" $(if $(FRESH),--fresh)

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m vocseg_lib bench --data "$(BENCH_DATA)" --out results/bench.json

# What a GPU makes of both models at the study's settings.
smoke: $(READY)
	$(BIN)/python -m vocseg_lib smoke --profile paper --data "$(BENCH_DATA)" --out results/gpu_smoke.json

notebook: $(READY)
	$(BIN)/jupyter lab notebooks
