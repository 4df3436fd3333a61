# make demo and make test each set up what they need, then do the one thing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench bench-perturbations bench-pixel report-pixel catalogue clean

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

# the demo's ConvNets, a ResNet18 on the demo's galaxies, and ART in an environment of its own
bench-pixel: reports/demo/resnet18.pt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[attacks]'
	.venv-bench/bin/python -m pip install --quiet adversarial-robustness-toolbox
	.venv-bench/bin/python benchmarks/pixel.py --resnet18 $<

reports/demo/dann.pt: $(READY)
	$(BIN)/robustastro demo

reports/demo/resnet18.pt: reports/demo/dann.pt
	$(BIN)/robustastro simulate --depth Y10 -n 1500 --seed 1 --out reports/demo/y10.h5
	$(BIN)/robustastro train --source reports/demo/y10.h5 --arch resnet18 --epochs 12 --batch 32 --out $@

report-pixel: reports/demo/dann.pt
	$(BIN)/python reports/make_pixel.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[attacks,dev]'
	touch $@

catalogue: $(READY)
	$(BIN)/robustastro show --all --galaxies 3 --out reports/catalogue
	$(BIN)/robustastro list perturbations --markdown > docs/perturbations.md

clean:
	rm -rf $(VENV) .venv-bench build dist *.egg-info
