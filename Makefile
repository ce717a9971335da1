# sdmobile: `make demo` and `make test` do all the set-up themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SITE_STAMP := $(VENV)/.installed-docs
DEMO ?= demo
JOBS ?= 2
PROMPT ?= a large red circle to the left of a small blue square on a white background
SEED ?= 0
CASES ?= 2000
CASE ?=

.PHONY: help setup gpu-setup demo test fast test-all fuzz lint type bench scheduler-tables structures docs clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## install sdmobile with everything it can use into .venv

# torch first and alone: asked for together with the rest, pip may choose a build with gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v < (3, 13) else f"sdmobile needs Python 3.10 to 3.12; this is {v[0]}.{v[1]}. Try: make PYTHON=python3.11 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip check
	@touch $@

gpu-setup: $(STAMP)  ## install what the GPU check needs: Chromium, the page for it, a software Vulkan driver
	$(BIN)/python -m sdmobile.validate.gpu.setup

demo: $(STAMP)  ## export both bundled checkpoints for both phones, validate, draw pictures, write the report
	$(BIN)/sdmobile export --target ios --output $(DEMO)/ios --overwrite
	$(BIN)/sdmobile export --target android --output $(DEMO)/android --overwrite
	$(BIN)/sdmobile validate $(DEMO)/ios --report-dir $(DEMO)/report-ios
	$(BIN)/sdmobile validate $(DEMO)/android --report-dir $(DEMO)/report-android
	$(BIN)/sdmobile generate --prompt "$(PROMPT)" --output $(DEMO)/torch.png --overwrite
	$(BIN)/sdmobile generate $(DEMO)/ios --prompt "$(PROMPT)" --output $(DEMO)/ios.png --overwrite
	$(BIN)/sdmobile generate $(DEMO)/android --prompt "$(PROMPT)" --output $(DEMO)/android.png --overwrite
	$(BIN)/sdmobile export shapes-64-mobile --target ios --output $(DEMO)/one-step-ios --overwrite
	$(BIN)/sdmobile export shapes-64-mobile --target android --output $(DEMO)/one-step-android --overwrite
	$(BIN)/sdmobile generate $(DEMO)/one-step-ios --prompt "$(PROMPT)" --output $(DEMO)/one-step-ios.png --overwrite
	$(BIN)/sdmobile generate $(DEMO)/one-step-android --prompt "$(PROMPT)" --output $(DEMO)/one-step-android.png --overwrite
	@echo
	@echo "Pictures:  $(DEMO)/torch.png  $(DEMO)/ios.png  $(DEMO)/android.png"
	@echo "One call:  $(DEMO)/one-step-ios.png  $(DEMO)/one-step-android.png"
	@echo "Reports:   $(DEMO)/report-ios/report.html  $(DEMO)/report-android/report.html"

# Pyright runs in one thread and needs nothing of the tests: beside them.
test: $(STAMP)  ## lint, types and the fast tests
	$(MAKE) lint
	$(MAKE) --jobs 2 type fast

fast: $(STAMP)  ## the fast tests alone
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

test-all: $(STAMP)  ## the slow tests too
	$(MAKE) lint type
	$(BIN)/python -m pytest

structures: $(STAMP)  ## make anew what is stale of the structures that come with the package; hours, if all of it is
	$(BIN)/python -m sdmobile.exporters.structures.shipping

fuzz: $(STAMP)  ## search for faults: CASES of them from SEED, at most ten minutes; CASE=kind:number repeats one
	$(BIN)/python -m tests.fuzz --seed $(SEED) --cases $(CASES) --jobs $(JOBS) $(if $(CASE),--case $(CASE))

lint: $(STAMP)  ## ruff, and the rule that a room imports only from rooms below it
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

type: $(STAMP)  ## pyright
	$(BIN)/pyright

bench: $(STAMP)  ## full-size benchmark: sdmobile beside the plain converters, measured in one run
	$(BIN)/python benchmarks/full_size.py
	$(BIN)/python -m benchmarks.streamed

scheduler-tables: $(STAMP)  ## make the tables of usual schedulers anew, which export without Diffusers takes
	$(BIN)/python -m sdmobile.families.usual_schedules

tflite-schema: $(STAMP)  ## take the .tflite schema out of ai-edge-litert again, so that files are read without it
	$(BIN)/python -m sdmobile.formats.tflite.schema_source

$(SITE_STAMP): $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

docs: $(SITE_STAMP)  ## write docs/cli.md from the commands themselves, and all pages as a site into site/
	$(BIN)/typer sdmobile.cli.app utils docs --name sdmobile --title sdmobile --output docs/cli.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "Site: site/index.html"

clean:  ## remove what the other targets made (not the training runs)
	rm -rf $(VENV) $(DEMO) build site *.egg-info .pytest_cache .ruff_cache .hypothesis
