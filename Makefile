# make demo and make test each set up what they need, then do the one thing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench bench-perturbations catalogue clean

demo: $(READY)
	$(BIN)/robustastro demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python benchmarks/training.py

# the peers need older versions of some libraries: an environment of their own
bench-perturbations:
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt --editable .
	.venv-bench/bin/python -m pip install --quiet imagecorruptions 'nrtk[pybsm,skimage]' 'setuptools<81'
	.venv-bench/bin/python benchmarks/perturbations.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[attacks,dev]'
	touch $@

catalogue: $(READY)
	$(BIN)/robustastro show --all --galaxies 3 --out reports/catalogue
	$(BIN)/robustastro list perturbations --markdown > docs/perturbations.md

clean:
	rm -rf $(VENV) .venv-bench build dist *.egg-info
