# PocketViT: `make export-tflite` is the main job, `make test` checks the tool itself.
# Both make a virtual environment in .venv and install what they need.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# Settings of the main job; each empty one keeps the tool's default. ARGS takes any further option.
DATA       ?=
MODEL      ?=
CHECKPOINT ?=
PRETRAINED ?=
IMG_SIZE   ?=
PATCH_SIZE ?=
BUDGET     ?=
NAME       ?=
RUNS       ?=
ARGS       ?=
OUT        ?= build/default

RUN_OPTIONS = $(if $(DATA),--data "$(DATA)") $(if $(MODEL),--model "$(MODEL)") \
	$(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)") $(if $(PRETRAINED),--pretrained) \
	$(if $(IMG_SIZE),--img-size "$(IMG_SIZE)") $(if $(PATCH_SIZE),--patch-size "$(PATCH_SIZE)") \
	$(if $(BUDGET),--budget "$(BUDGET)") $(if $(NAME),--name "$(NAME)") $(if $(RUNS),--runs "$(RUNS)") $(ARGS)

.PHONY: help export-tflite test test-devices check-gpu test-commands test-rooms boards-of-commands \
	boards-of-rooms lint docs bench gate default-artifacts clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

export-tflite: $(VENV)/.installed  ## Fine-tune, prune, recover, export, verify, bench and report (MODEL= CHECKPOINT= DATA= BUDGET= …)
	$(BIN)/pocketvit run --resume $(RUN_OPTIONS)

# the half of the tests that starts commands, boards and benchmarks, or times files; the other half takes about as long
COMMANDS := tests/pocketvit tests/extending tests/boards tests/benchmarks tests/runtime tests/device_bench

# in two processes side by side, since most tests keep one core busy; with ARGS, which may choose some, in one
test: $(VENV)/.installed-dev  ## Run all tests
ifeq ($(strip $(ARGS)),)
	$(MAKE) --no-print-directory -j2 test-commands test-rooms
else
	$(BIN)/python -m pytest $(ARGS)
endif

test-commands: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(COMMANDS)

test-rooms: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(COMMANDS:%=--ignore %)

test-devices: export POCKETVIT_BOARDS_REQUIRED = 1
test-devices: $(VENV)/.installed-dev  ## Run the tests on emulated boards, over real ssh and adb, on the software GPU and in a browser; fail where they cannot run
ifeq ($(strip $(ARGS)),)
	$(MAKE) --no-print-directory -j2 boards-of-commands boards-of-rooms
else
	$(BIN)/python -m pytest -m 'boards or gpu or browser' $(ARGS)
endif

boards-of-commands: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m 'boards or gpu or browser' $(COMMANDS)

boards-of-rooms: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m 'boards or gpu or browser' $(COMMANDS:%=--ignore %)

lint: $(VENV)/.installed-dev  ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# NO_MKDOCS_2_WARNING: the theme prints a notice about its successor otherwise
docs: $(VENV)/.installed-docs  ## Build the documentation site, build/site/index.html; fail on a dead link
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The site is build/site/index.html"

bench: $(VENV)/.installed  ## Run the benchmarks and print their tables
	$(BIN)/python benchmarks/speedup.py $(ARGS)

gate: default-artifacts  ## Hold our own default files against what is stored of them
	$(BIN)/pocketvit gate --baseline .ci/gate-baseline.json --config .ci/gate.toml $(foreach kind,fp32.tflite int8.tflite onnx,$(OUT)/default.$(kind))

check-gpu:  ## Check on a real GPU what can be checked, in at most 8 minutes, with what is installed; install nothing
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/check_gpu.py $(ARGS)

default-artifacts: $(VENV)/.installed  ## Write the default model's files to OUT=, for the gate
	$(BIN)/python .ci/default_artifacts.py $(OUT)

clean:  ## Remove the virtual environment and caches; runs stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,docs]'
	@touch $(VENV)/.installed $@
