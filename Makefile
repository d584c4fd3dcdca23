# Two commands: `make table2c` sets everything up and makes the table at demo scale; `make test` sets up and tests.
# Any target of the workflow works the same way: make table2a, make all. More options: make table2c ARGS="--config scale=lite"
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
ARGS ?=

.PHONY: help setup all test faults gpu-kit lint readme schema lock clean

help:
	@echo "make table2c   set up and make table 2c at demo scale (any table: make table<number>)"
	@echo "make fig4      a figure (any: make fig<number>)"
	@echo "make all       every table and figure"
	@echo "make test      set up, lint and test"
	@echo "make lint      set up, and check style and types, without tests"
	@echo "make faults    end trainings and snakemake, damage and forbid files, 50 times and more"
	@echo "make gpu-kit   fill .gpu/ (or KIT=folder) for a GPU machine without network, see benchmarks/gpu/"
	@echo "make setup     only set up .venv"
	@echo "make clean     remove .venv and caches, never results"
	@echo "make readme    for maintainers: make table 2c and put it into README.md"
	@echo "make schema    for maintainers: write config/schemas from the models in bkdsnn/config"
	@echo "make lock      for maintainers: write requirements.lock from pyproject.toml (needs uv)"
	@echo "Options for Snakemake: make table2c ARGS='--config scale=lite'"

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, found {v.major}.{v.minor}; set PYTHON=<path>")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	touch $(READY)

all: $(READY)
	$(BIN)/snakemake --cores all all $(ARGS)

table% fig%: $(READY)
	$(BIN)/snakemake --cores all $@ $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/mypy
	$(BIN)/snakemake --lint

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal $(ARGS)

faults: $(READY)
	BKDSNN_KILLS=50 OMP_NUM_THREADS=1 $(BIN)/pytest -s tests/faults $(ARGS)

KIT ?= .gpu
gpu-kit: $(READY)
	$(BIN)/python benchmarks/gpu/prepare.py --kit "$(KIT)" $(ARGS)

# Maintainers: put the generated demo table into README.md.
readme: table2c
	$(BIN)/python docs/insert.py results/demo/tables/table2c.md

# Maintainers: write the JSON schemas of config/ for editors.
schema: $(READY)
	$(BIN)/python -m bkdsnn schema

# Maintainers: resolve pyproject.toml anew for every supported Python (needs uv); names no index.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --output-file requirements.lock

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache *.egg-info
