# `make` sets up, trains the preset for this machine and writes some Python.
# PYTHON makes .venv, which stays that of the Python that made it, until you give another.
PYTHON ?= $(if $(wildcard .venv/base),.venv/bin/python,python3)
BIN = .venv/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: all train generate test test-all bite answers bench corpus portable book pdf epub pages module clean anew

all: train generate

train: .venv/base              ## train, or continue the run
	$(BIN)/python minigpt.py train --resume

generate: .venv/base           ## write Python with the newest run
	$(BIN)/python minigpt.py generate --prompt "def "

test: .venv/test               ## are files in their form? and the quick tests
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m pytest -m "not slow" -n auto

test-all: .venv/test           ## all tests
	$(BIN)/python -m pytest

bite: .venv/test               ## do the tests notice when code is broken?
	$(BIN)/python tests/bite.py

answers: .venv/test            ## do the tests of the exercises tell solved from unsolved?
	$(BIN)/python tests/answers.py

bench: .venv/hf                ## how fast, beside what others have made
	$(INSTALL) --no-deps llms-from-scratch
	$(BIN)/python tests/bench/peers.py --json _build/peers.json

corpus: .venv/test .venv/book .venv/browser .venv/hub .venv/hf  ## 50 MB of Python
	$(BIN)/python data/make_corpus.py

pages: .venv/test .venv/browser  ## the built book, looked at in Chromium
	REQUIRE_BROWSER=1 $(BIN)/python -m pytest tests/test_pages.py tests/test_drawings.py

book: .venv/book               ## the HTML book, in _build/html
	$(BIN)/python book/_tools/build.py

pdf: book .venv/browser         ## the book on paper: _build/minigpt.pdf
	$(BIN)/python book/_tools/pdf.py

epub: .venv/book               ## the book for a reader: _build/epub/MiniGPT.epub
	$(BIN)/jupyter-book build . --builder custom --custom-builder epub --warningiserror

portable: .venv/test .venv/book  ## do the pages hold on other machines? (SHIFTS=20)
	$(BIN)/python tests/portable.py $(if $(SHIFTS),--shifts $(SHIFTS))

module: .venv/test             ## minigpt.py from the chapters
	$(BIN)/python book/_tools/tangle.py

clean:                         ## remove what can be made again
	rm -rf .venv _build build *.egg-info

LACKS = $(shell $(PYTHON) book/_tools/environment.py check 2> /dev/null || \
	echo Python 3.11 or later is needed, and $(PYTHON) does not run: give another, as in make PYTHON=python3.12)
ifneq ($(origin PYTHON),file)
.venv/base: $(shell $(PYTHON) book/_tools/environment.py other .venv 2> /dev/null || echo anew)
anew:
endif

.venv/base: pyproject.toml constraints.txt
	$(if $(LACKS),$(error $(LACKS)))
	$(PYTHON) book/_tools/environment.py make .venv
	$(INSTALL) -e .
	@rm -f .venv/unfinished && touch $@

.venv/test .venv/book .venv/browser .venv/hub .venv/hf: .venv/%: .venv/base
	$(INSTALL) -e ".[$*]"
	@touch $@
