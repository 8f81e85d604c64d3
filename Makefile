# The reader's commands. Each makes the environment in .venv first, if it is not there yet or the
# lock has changed; `make` alone says what there is.
#
#   TORCH=cpu       the CPU build of torch: without the 3 GB of CUDA that come with it on Linux.
#                   Once is enough: later commands keep what is there (back: TORCH=default)
#   PYTHON=...      the Python to make the environment with (3.10 or newer)
#   NOTEBOOKS=...   for run, test and notebooks: only these, e.g. NOTEBOOKS=notebooks/02_....ipynb
#   LAB=...         options for JupyterLab, e.g. LAB="--no-browser --port=9999"

.DEFAULT_GOAL := help
.PHONY: help setup lab run test notebooks

ifeq ($(OS),Windows_NT)
    VENV_PYTHON := .venv/Scripts/python.exe
else
    VENV_PYTHON := .venv/bin/python
endif

# The first Python that is new enough: macOS, for one, still has a python3 that is not.
ifndef PYTHON
    PYTHON := $(shell for python in python3 python python3.14 python3.13 python3.12 python3.11 \
        python3.10; do $$python -c "import sys; sys.exit(sys.version_info < (3, 10))" \
        >/dev/null 2>&1 && echo $$python && break; done)
endif

# Names and links are the same on every system, and so are the bars that tqdm draws.
export PYTHONUTF8 := 1
# Kernels come from .venv, not from the reader's own Jupyter.
export JUPYTER_PREFER_ENV_PATH := 1
# Threads that wait sleep: spinning ones make everything many times slower as soon as the machine has
# anything else to do.
export OMP_WAIT_POLICY := PASSIVE

help:
	@echo "make lab        JupyterLab, opened at the first notebook"
	@echo "make run        execute all notebooks in order; pages under build/, then the scoreboard"
	@echo "make test       the unit tests, then every notebook against its stored outputs"
	@echo "make notebooks  execute all notebooks; store outputs, links, scoreboard and the README's tables"
	@echo "make setup      only the environment (TORCH=cpu: without CUDA, a much smaller download)"

setup:
	@$(if $(PYTHON),,$(error Python 3.10 or newer is needed, and none was found. \
	    Install one, or name it: make setup PYTHON=path/to/python))
	@$(PYTHON) -m maintainers.environment --torch "$(TORCH)"

lab: setup
	@echo "==> JupyterLab; it stops with Ctrl-C"
	@$(VENV_PYTHON) -m jupyterlab --ServerApp.root_dir=. $(LAB) notebooks/01_float_baseline.ipynb

run: setup
	@$(VENV_PYTHON) -m maintainers.notebooks run $(NOTEBOOKS)
	@$(VENV_PYTHON) -m blaze_utils.measure.scoreboard

test: setup
	@echo "==> Unit tests"
	@$(VENV_PYTHON) -m pytest tests --durations=5
	@echo "==> Notebooks against their stored outputs"
	@$(VENV_PYTHON) -m maintainers.notebooks check $(NOTEBOOKS)

notebooks: setup
	@$(VENV_PYTHON) -m maintainers.notebooks store $(NOTEBOOKS)
	@$(VENV_PYTHON) -m maintainers.gallery
	@$(VENV_PYTHON) -m maintainers.results
