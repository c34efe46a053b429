# Two commands do all the set-up: `make quickstart` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
OUT    ?= quickstart-out
export TOKENIZERS_PARALLELISM := false

.PHONY: quickstart test lint docs bench clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z]+:.*##' Makefile | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

# torch first: the pin then decides its build, whatever else asks for it.
$(VENV)/.core: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing rewardsmith into $(VENV) (about two minutes) ..."
	@$(PIP) torch
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "Adding what the tests need ..."
	@$(PIP) -e '.[dev]'
	@touch $@

quickstart: $(VENV)/.core  ## the main job on the embedded sample: train, test, use; leaves quickstart-out/report.html
	@$(BIN)/rewardsmith quickstart --out $(OUT)

test: $(VENV)/.dev  ## all tests, every built claim among them
	@$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.dev  ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: $(VENV)/.dev  ## build the documentation into site/
	@$(PIP) -e '.[docs]' && $(BIN)/mkdocs build --strict

bench: $(VENV)/.dev  ## measure against the peers (minutes; not part of the tests)
	@$(BIN)/python benchmarks/scoring.py && $(BIN)/python benchmarks/training.py

clean:  ## remove everything that was built here
	@rm -rf $(VENV) $(OUT) build dist site .pytest_cache .ruff_cache .mypy_cache
