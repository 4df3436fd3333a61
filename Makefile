# make demo and make test each set up what they need, then do the one thing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test gate lint bench bench-perturbations bench-pixel report-pixel report-seeds report-deepadversaries report-radio report-mocks zoo catalogue clean

demo: $(READY)
	$(BIN)/robustastro demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# a small model of our own is held to rules as a user's would be, and every line of docs/ci.md is run on it
gate: export OMP_NUM_THREADS = 1
gate: $(READY)
	rm -rf build/gate
	$(BIN)/robustastro simulate -n 800 --size 40 --seed 1 --out build/gate/mock.h5
	$(BIN)/robustastro train --source build/gate/mock.h5 --arch tiny --epochs 60 --patience 0 --batch 32 --learning-rate 0.05 \
		--out build/gate/model.pt
	$(BIN)/robustastro evaluate --model build/gate/model.pt --suite quick --out build/gate/run
	$(BIN)/robustastro gate build/gate/run --rules .ci/gate.toml
	$(BIN)/python tests/ci_recipes.py build/gate/model.pt build/gate/mock.h5 build/gate/recipes

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
	$(BIN)/robustastro demo --train --out build/demo
	mkdir -p reports/demo && cp build/demo/*.pt reports/demo/

reports/demo/resnet18.pt: reports/demo/dann.pt
	$(BIN)/robustastro simulate --depth Y10 -n 1500 --seed 1 --out reports/demo/y10.h5
	$(BIN)/robustastro train --source reports/demo/y10.h5 --arch resnet18 --epochs 12 --batch 32 --out $@

# five trainings of each method of the demo under the quick suite: what can be said of methods, and a page of three runs
SEEDS := 0 1 2 3 4
OF_SEEDS := reports/seeds/runs
report-seeds: $(READY)
	mkdir -p $(OF_SEEDS)
	for depth in Y10 Y1; do \
		test -f $(OF_SEEDS)/$$depth.h5 || $(BIN)/robustastro simulate --depth $$depth -n 1500 --seed 1 --out $(OF_SEEDS)/$$depth.h5 || exit; \
	done
	for seed in $(SEEDS); do for method in none mmd dann; do \
		model=$(OF_SEEDS)/$$method-$$seed; \
		test -f $$model.pt || $(BIN)/robustastro train --method $$method --seed $$seed --source $(OF_SEEDS)/Y10.h5 \
			--target $(OF_SEEDS)/Y1.h5 --epochs 40 --batch 32 --out $$model.pt || test $$? = 1 || exit; \
		$(BIN)/robustastro evaluate --model $$model.pt --suite quick --out $$model || exit; \
	done; done
	$(BIN)/robustastro figure comparison $(OF_SEEDS)/*-? --out reports/seeds/comparison.png
	$(BIN)/robustastro compare $(OF_SEEDS)/*-? --json > reports/seeds/comparison.json
	cat reports/seeds.md > reports/seeds/index.md
	$(BIN)/robustastro compare $(OF_SEEDS)/*-? --markdown >> reports/seeds/index.md
	$(BIN)/robustastro report $(OF_SEEDS)/none-0 $(OF_SEEDS)/mmd-0 $(OF_SEEDS)/dann-0 --title "Three models under the quick suite" \
		--out reports/example

# hours: each says first how long it takes, and the same command goes on where it stopped
report-deepadversaries: $(READY)
	$(BIN)/robustastro reproduce deepadversaries --workers 2

RADIO := radio
report-radio: $(READY)
	$(BIN)/python reports/make_radio.py --data $(RADIO) --workers 2

# the models that come with the package: the first seed of the study above, whatever it is worth
ZOO := reports/deepadversaries/runs/convnet
zoo: $(READY)
	$(BIN)/python reports/make_zoo.py --models none=$(ZOO)-none-0.pt mmd=$(ZOO)-mmd-0.pt dann=$(ZOO)-dann-0.pt uda=$(ZOO)-uda-0.pt

report-pixel: reports/demo/dann.pt
	$(BIN)/python reports/make_pixel.py

report-mocks: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python reports/make_mocks.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[attacks,dev]'
	touch $@

catalogue: $(READY)
	$(BIN)/robustastro show --all --galaxies 3 --out reports/catalogue
	$(BIN)/robustastro list perturbations --markdown > docs/perturbations.md

clean:
	rm -rf $(VENV) .venv-bench build dist *.egg-info
