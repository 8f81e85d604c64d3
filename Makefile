# The commands of this repository. Each makes the environment in .venv first, if it is not there or
# the lock has changed; `make` alone says what there is.
#
#   TORCH=cpu       when the environment is made: torch without the 3 GB of CUDA that come with it on
#                   Linux. To change it later, delete .venv
#   ALL=1           for setup and lab: with the runtimes of notebook 10 and the tools of maintainers
#   PYTHON=...      the Python to make the environment with (3.10 or newer)
#   NOTEBOOKS=...   for run, test and notebooks: only these, e.g. NOTEBOOKS=notebooks/02_....ipynb
#   LAB=...         options for JupyterLab, e.g. LAB="--no-browser --port=9999"

.DEFAULT_GOAL := help
.PHONY: help setup lab run test check notebooks scenes book play browser

BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
RUN := $(BIN)/python
PIP := $(RUN) -m pip install --disable-pip-version-check -c requirements.txt
CPU_INDEX := https://download.pytorch.org/whl/cpu
FAST := $(addprefix notebooks/,02_naive_quantization.ipynb 03_quant_stubs.ipynb 08_error_gallery.ipynb)
STAMP = @$(RUN) -c "open('$@', 'w')"
FAILED = || $(RUN) -c "import sys; sys.exit('==> pip says above why this failed. The lock is for Python 3.10 to 3.14 on Linux, macOS (Apple silicon) and Windows (x86).')"

# An environment with the CPU build keeps it when the lock changes.
TORCH ?= $(if $(wildcard .venv/cpu),cpu,default)

# The first Python that is new enough: macOS, for one, still has a python3 that is not.
ifndef PYTHON
    PYTHON := $(shell for python in python3 python python3.14 python3.13 python3.12 python3.11 \
        python3.10; do $$python -c "import sys; sys.exit(sys.version_info < (3, 10))" \
        >/dev/null 2>&1 && echo $$python && break; done)
endif

# Names and links are the same on every system, and so are the bars that tqdm draws.
export PYTHONUTF8 := 1
# Kernels come from .venv, not from the reader's own Jupyter; JupyterLab does not ask about news.
export JUPYTER_PREFER_ENV_PATH := 1
export JUPYTER_CONFIG_PATH := $(CURDIR)/maintainers/lab

help:
	@echo "make lab        JupyterLab, opened at the first notebook"
	@echo "make run        execute all notebooks in order, pages under build/; then the table of results"
	@echo "make test       the unit tests, then every notebook against its stored outputs"
	@echo "make check      before a commit, under 3 minutes: lint, types, unit tests, three notebooks"
	@echo "make notebooks  execute all notebooks and store outputs, links, index, results"
	@echo "make scenes     draw the 3,000 scenes of data/train, for notebook 07's long run"
	@echo "make book       the series as pages with a search, under build/book; Python 3.11 or newer"
	@echo "make play       the page that finds faces in the browser, play/index.html; takes npm"
	@echo "make browser    every notebook in JupyterLab in Chromium, Run All Cells; NOTEBOOKS as for run"
	@echo "make setup      only the environment (TORCH=cpu: no CUDA, a much smaller download; ALL=1)"

.venv/made: requirements.txt
	@$(if $(PYTHON),,$(error Python 3.10 or newer is needed, and none was found. \
	    Install one, or name it: make setup PYTHON=path/to/python))
	@echo "==> Making the environment in .venv with the $(TORCH) build of torch (TORCH=cpu: 200 MB; default on Linux: 3 GB)"
	@$(PYTHON) -m venv .venv
ifeq ($(TORCH),cpu)
	@$(PIP) --no-deps --retries 0 --timeout 15 --index-url $(CPU_INDEX) torch torchvision \
	    && $(RUN) -c "open('.venv/cpu', 'w')" || echo "==> $(CPU_INDEX) has no such build, or cannot be reached. Going on with the default build; Ctrl-C if 3 GB are too much"
endif
	@$(PIP) -e . $(FAILED)
	$(STAMP)

.venv/made-all: .venv/made
	@$(PIP) -e ".[deploy,dev]" $(FAILED)
	$(STAMP)

setup: .venv/made$(if $(ALL),-all)
	@echo "==> The environment is ready"

lab: setup
	@echo "==> JupyterLab; it stops with Ctrl-C"
	@$(RUN) -m jupyterlab --ServerApp.root_dir=. $(LAB) notebooks/01_float_baseline.ipynb

run: .venv/made-all
	@$(RUN) -m maintainers.notebooks run $(NOTEBOOKS)
	@$(RUN) -m maintainers.results

# Two tests or notebooks at a time, each with one thread. Threads that wait sleep: where two programs
# share the cores, spinning ones slow both. (Elsewhere they may spin: waking costs what two threads gain.)
test check: export OMP_NUM_THREADS := 1
test check: export OMP_WAIT_POLICY := PASSIVE

test: .venv/made-all
	@echo "==> Unit tests"
	@$(RUN) -m pytest tests -n 2 --dist loadfile --durations=5
	@echo "==> Notebooks against their stored outputs"
	@$(RUN) -m maintainers.notebooks check $(NOTEBOOKS)

check: .venv/made-all
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) -m mypy
	@$(RUN) -m pytest tests -q -n 2 --dist loadfile
	@$(RUN) -m maintainers.notebooks check $(FAST)

notebooks: .venv/made-all
	@$(RUN) -m maintainers.notebooks store $(NOTEBOOKS)
	@$(RUN) -m maintainers.tables
	@$(RUN) docs/map.py
	@$(RUN) -m maintainers.results --readme
	@$(RUN) docs/picture.py

scenes: .venv/made
	@$(RUN) maintainers/draw.py data/train --count 3000 --seed 1

# The book has an environment of its own, without torch.
BOOK := .venv-book/$(notdir $(BIN))/python

.venv-book/made: docs/book/requirements.txt
	@$(PYTHON) -c "import sys; sys.exit('==> The book needs Python 3.11 or newer: make book PYTHON=path/to/python' if sys.version_info < (3, 11) else 0)"
	@echo "==> Making the book's environment in .venv-book"
	@$(PYTHON) -m venv .venv-book
	@$(BOOK) -m pip install --disable-pip-version-check --quiet -r $<
	@$(BOOK) -c "open('$@', 'w')"

book: .venv-book/made
	@$(BOOK) docs/book/sources.py build/book-source build/book
	@$(BOOK) -m sphinx -q -W --keep-going -E -j auto -c docs/book -d build/book-doctrees build/book-source build/book
	@$(BOOK) docs/book/links.py build/book
	@$(BOOK) docs/book/search.py build/book
	@echo "==> The book is in build/book: open index.html"

play: .venv/made-all
	@$(RUN) play/build.py

browser: .venv/made-all
	@$(RUN) play/lab.py $(NOTEBOOKS)
