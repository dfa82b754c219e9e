# What a person runs is what CI runs. Each target works alone on a fresh machine: it needs make and
# Python 3.11 or newer, and makes its own environment in .venv.
#
#   make demo                       upscale a real photograph at three values of realism, into demo/
#   make test                       run the tests
#   make check                      format, lint, types, import contract, tests: what CI runs
#   make bench                      speed and memory of the shipped model (RIVALS=1: against other tools too)
#   make docs                       build the documentation into site/
#   make demo PYTHON=python3.12     with another Python

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
RIVALS =

.PHONY: demo test check bench docs clean
.NOTPARALLEL:

demo: $(VENV)/.has/demo
	$(BIN)/python examples/demo.py

test: $(VENV)/.has/test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: $(VENV)/.has/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

bench: $(VENV)/.has/demo
	if [ -n "$(RIVALS)" ]; then sh benchmarks/rivals.sh $(BIN)/python; fi
	$(BIN)/onestep bench --rivals build/rivals -o build/bench.md

docs: $(VENV)/.has/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open site/index.html"

clean:
	rm -rf $(VENV) build demo dist site

# One rule for every environment: the name of the stamp is the name of the extra in pyproject.toml.
$(VENV)/.has/demo $(VENV)/.has/test $(VENV)/.has/docs: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "OneStep needs Python 3.11 or newer; name one, as in: make PYTHON=python3.12")'
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[$(@F)]'
	@mkdir -p $(@D)
	@touch $@
