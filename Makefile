# `make` alone prints the sentence behind each target.
# Everything runs in .venv, which `make setup` builds once and every other target asks for.

DATASET         ?=
SEEDS           ?=
EPOCHS          ?=
SCALE           ?=
CPUS_PER_TRIAL  ?=
GPUS_PER_TRIAL  ?=
BUDGET          ?=
SWEEP           ?= beta
RESULTS         ?= results
SWEEP_ARGS      ?=
PORT            ?= 5000
PYTHON          ?= python3
PYTEST_ARGS     ?=
PARTS           ?=

BIN   := .venv/bin
STAMP := .venv/.ready
OPTIONS = $(if $(DATASET),--dataset '$(DATASET)') $(if $(SEEDS),--seeds $(SEEDS)) $(if $(EPOCHS),--epochs $(EPOCHS)) \
          $(if $(SCALE),--scale $(SCALE)) \
          $(if $(CPUS_PER_TRIAL),--cpus-per-trial $(CPUS_PER_TRIAL)) \
          $(if $(GPUS_PER_TRIAL),--gpus-per-trial $(GPUS_PER_TRIAL)) $(if $(BUDGET),--budget $(BUDGET)) \
          --results '$(RESULTS)' $(SWEEP_ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup plan sweep-beta sweep-projector sweep-datasets search methods table1 table2 resnet18 collapse sensitivity criteria report mlflow-ui docs bench bench-sweep test test-long lint format check clean

help: ## print this list
	@echo "CPLearn sweeps. On a fresh machine start with 'make sweep-beta'."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "Variables of the sweeps: DATASET=digits|svhn|cifar10|cifar100|stl10|tiny-imagenet|imagenet100|folder:PATH|parquet:PATH|npz:PATH|wds:PATTERN|hf:NAME SEEDS=3 EPOCHS=50 SCALE=small"
	@echo "  CPUS_PER_TRIAL=1 GPUS_PER_TRIAL=0.25 BUDGET=4h RESULTS=results SWEEP_ARGS=\"--set method.codes=16384 --force\""

setup: $(STAMP) ## build .venv with everything in it (once)

# The stamp depends on what is installed, so a second call does nothing and a changed dependency is installed.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which: make setup PYTHON=python3.12"; exit 1; }
	@echo "Building .venv; PyTorch is large, so the first time takes some minutes."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,docs]'
	@touch $@

plan: $(STAMP) ## say what a sweep would run, for how long and with how much disk (SWEEP=beta, table1, ...)
	@$(BIN)/cplearn plan $(firstword $(wildcard sweeps/$(SWEEP).yaml sweeps/presets/$(SWEEP).yaml) sweeps/$(SWEEP).yaml) $(OPTIONS)

sweep-beta: $(STAMP) ## the main job: CPLearn over β, then table and figure
	@$(BIN)/cplearn sweep sweeps/beta.yaml $(OPTIONS)

sweep-projector: $(STAMP) ## CPLearn over the dictionary size c
	@$(BIN)/cplearn sweep sweeps/projector.yaml $(OPTIONS)

sweep-datasets: $(STAMP) ## CPLearn on SVHN, CIFAR-10 and CIFAR-100
	@$(BIN)/cplearn sweep sweeps/datasets.yaml $(OPTIONS)

search: $(STAMP) ## β and the learning rate by Optuna, with early stopping
	@$(BIN)/cplearn sweep sweeps/search.yaml $(OPTIONS)

methods: $(STAMP) ## every method on one data set (SCALE=small: digits)
	@$(BIN)/cplearn sweep sweeps/presets/methods.yaml $(OPTIONS)

table1: $(STAMP) ## the paper's Table 1 (SCALE=small: digits, minutes on a CPU)
	@$(BIN)/cplearn sweep sweeps/presets/table1.yaml $(OPTIONS)

table2: $(STAMP) ## the paper's Table 2, ImageNet-100 with a ViT (SCALE=small: digits)
	@$(BIN)/cplearn sweep sweeps/presets/table2.yaml $(OPTIONS)

resnet18: $(STAMP) ## CIFAR with ResNet-18, the authors' configurations (SCALE=small: digits)
	@$(BIN)/cplearn sweep sweeps/presets/resnet18.yaml $(OPTIONS)

collapse: $(STAMP) ## diagnostics of the four collapses (SCALE=small: digits)
	@$(BIN)/cplearn sweep sweeps/presets/collapse.yaml $(OPTIONS)

sensitivity: $(STAMP) ## methods over their one weight: accuracy, collapses, regret of choices without labels (SCALE=small: digits)
	@$(BIN)/cplearn sweep sweeps/presets/sensitivity.yaml $(OPTIONS)

criteria: $(STAMP) ## which label-free criterion chooses well, from the runs of `make sensitivity` (same SCALE)
	@$(BIN)/cplearn report --table criteria --sweep sensitivity$(if $(filter small smoke,$(SCALE)),-$(SCALE)) \
		$(if $(DATASET),--where 'dataset=$(DATASET)') --results '$(RESULTS)'

report: $(STAMP) ## write tables and figures again from the tracking store
	@$(BIN)/cplearn report $(if $(DATASET),--dataset '$(DATASET)') --results '$(RESULTS)'

mlflow-ui: $(STAMP) ## compare the runs in a browser (PORT=5000)
	@$(BIN)/cplearn ui --port $(PORT)

docs: $(STAMP) ## build the documentation as a site, build/site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet && echo "Open build/site/index.html in a browser."

bench: $(STAMP) ## measure speed on this machine (PARTS="step dictionary": only these)
	@$(BIN)/cplearn bench $(PARTS) --results '$(RESULTS)'

bench-sweep: $(STAMP) ## measure what a sweep of 2,000 trials costs beside the training
	@$(BIN)/cplearn bench-sweep --results '$(RESULTS)'

PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP) ## run the tests, but those of test-long
	@$(PYTEST) -m 'not long' $(PYTEST_ARGS)

test-long: $(STAMP) ## run the long tests: sweeps whose processes are killed, clusters, servers
	@$(PYTEST) -m long $(PYTEST_ARGS)

lint: $(STAMP) ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## put the code into the common style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

check: test test-long lint ## what CI runs

clean: ## remove .venv and caches; data, runs and results stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache build *.egg-info
	find cplearn sweeps runner reports benchmarks tests -name __pycache__ -type d -exec rm -rf {} +
