# make demo: set up, then masks of a few pictures.  make study: set up and run the notebooks.  make test: set up and run the tests.  make lint: check style, formatting, layers.
# make bench: measure speed.  make attack: damage files and kill trainings.  make gpu-check: train and time both models on a GPU.  make notebook: open the notebooks.
PYTHON ?= python3
# constraints-colab.txt, constraints-kaggle.txt: what these ship; constraints-oldest.txt: the floors (Python 3.11).
# Each has an environment of its own: .venv-colab, .venv-kaggle, .venv-oldest.
CONSTRAINTS ?= constraints.txt
PROFILE ?= quick
RESULTS ?= results/$(firstword $(PROFILE))
DATA ?=
INIT ?=
NOTEBOOKS ?=
SET ?=
FRESH ?=

VENV := .venv$(patsubst constraints%.txt,%,$(notdir $(CONSTRAINTS)))
BIN := $(VENV)/bin
READY := $(VENV)/ready
LIBRARY := $(VENV)/library
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)

# The data path is measured on real images where there are some.
VOCSEG_SHARED ?= ../shared
BENCH_DATA = $(firstword $(DATA) $(wildcard $(VOCSEG_SHARED)/voc2012/VOCdevkit))

.PHONY: setup demo study copies touch pages test lint bench attack notebook gpu-check

setup: $(READY)

$(READY): requirements.txt $(CONSTRAINTS) pyproject.toml
	@rm -f $@
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -r requirements.txt -e '.[dev]'
	@touch $@

# The library alone: a quarter less to install.
$(LIBRARY): requirements.txt $(CONSTRAINTS) pyproject.toml
	@rm -f $@
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

# Both models of the pilot, trained already.
demo: $(firstword $(wildcard $(READY)) $(LIBRARY))
	$(BIN)/vocseg predict --image $(wildcard vocseg_lib/study/demo/*.jpg) --out results/demo

study: $(READY)
	$(BIN)/python -m tools.run_notebooks --profile "$(PROFILE)" --data "$(DATA)" --results "$(RESULTS)" --init "$(INIT)" --only "$(NOTEBOOKS)" $(if $(SET),--set $(SET)) $(if $(FRESH),--fresh)

# Executed copies of the notebooks for readers, from a results folder on real images.
copies: study
	$(BIN)/python -m tools.executed_copies "$(RESULTS)" --out results/executed

# What the page docs/touch/index.html needs: the pilot's YOLACT as ONNX, its runtime (by npm), samples.
touch: $(READY)
	$(BIN)/python -W ignore -m tools.build_touch

# Static pages: docs/touch and the executed notebooks.
pages: touch
	$(BIN)/python -m tools.build_pages

# Two processes with a thread each are faster than one with two.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m benchmarks.bench --data "$(BENCH_DATA)" --out results/bench.json

attack: $(READY)
	$(BIN)/python -m benchmarks.attack --out results/attack.json

# Both models on a GPU with the study's config.
gpu-check: $(READY)
	$(BIN)/python -m benchmarks.gpu_check --profile paper --data "$(BENCH_DATA)" --out results/gpu_check.json

notebook: $(READY)
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks
