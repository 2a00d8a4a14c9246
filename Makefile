# make: set up, train on this machine, write Python. make help: the rest.
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
# Some virtual machines announce AMX instructions and then cannot run them.
export ONEDNN_MAX_CPU_ISA ?= AVX512_CORE_BF16

.PHONY: all train generate test book module bite clean help

all: train generate

train: $(VENV)/ready
	$(BIN)/python minigpt.py train --resume

generate: $(VENV)/ready
	$(BIN)/python minigpt.py generate --prompt "def "
	@echo

test: $(VENV)/ready-test
	$(BIN)/python -m pytest -q -m "not slow"

test-all: $(VENV)/ready-test
	$(BIN)/python -m pytest -q

book: $(VENV)/ready-book
	$(BIN)/jupyter-book build . --warningiserror --nitpick --keep-going
