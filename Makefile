# Everything needs only Python >= 3.11, make and a C compiler (Ray's and torch's wheels bring the rest).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test chaos fuzz same rooms lint paper bench bench-gpu scale train clean

## demo: the main job on the bundled model; what a digit network expects to see
demo: $(STAMP)
	$(BIN)/wna run jobs/demo.yaml --out runs/demo
	$(BIN)/wna verify runs/demo

## test: lint, types and the whole test suite
test: lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadgroup

## chaos: the tests that kill, freeze and cut off whole hosts and a real S3 server, and crash at every storage operation
##        (Linux, root; .ci/install-servers installs what they start; what cannot run skips and says why)
chaos: $(STAMP)
	$(BIN)/python -m pytest -m chaos --numprocesses 2 --dist loadgroup --durations=20

## fuzz: hundreds of hostile specs, and thousands of broken runs of every kind; about a quarter of an hour on two cores (Linux)
##       (FUZZ_SEED=2: other ones; FUZZ_COUNT=20000: more runs)
FUZZ_SEED ?= 1
FUZZ_COUNT ?= 5200
fuzz: $(STAMP)
	$(BIN)/python tests/fuzz_specs.py --seed $(FUZZ_SEED); specs=$$?; \
	$(BIN)/python tests/fuzz_runs.py --seed $(FUZZ_SEED) --count $(FUZZ_COUNT) && exit $$specs

## same: proof that the working tree gives the same bytes as a commit, REF=HEAD; about seven minutes on two cores
##       (ONLY=demo,stc: these jobs alone; KEEP=DIR: leave what both trees made there)
same: $(STAMP)
	$(BIN)/python tools/same/same.py "$(REF)" $(if $(ONLY),--only $(ONLY)) $(if $(KEEP),--keep $(KEEP))

## rooms: draw the rooms of the package from its imports, for docs/architecture.md
rooms: $(STAMP)
	$(BIN)/python tools/draw_rooms.py

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports .importlinter.toml
	$(BIN)/python tools/house.py

## paper: every experiment of Borji & Lin again on real data, into paper/report.html; under an hour on two cores
##        (FULL=1: at the paper's size, into paper-full/). Data sets come from WNA_DATA, or are downloaded.
paper: $(STAMP)
	$(BIN)/wna paper $(if $(FULL),--full --out paper-full)

## bench: speed beside the limit and beside others, what each part costs, scaling; redraws benchmarks/README.md (a quarter of an hour);
##        pandas is for Ray Data, which is one of the others
bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pandas
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/parts.py
	$(BIN)/python benchmarks/scaling.py

## bench-gpu: the same of a CUDA device, without Ray
bench-gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py

## scale: a thousand simulated workers and a million shards, two real actors, and moments of ImageNet's size
scale: $(STAMP)
	$(BIN)/python benchmarks/scale.py simulate
	$(BIN)/python benchmarks/scale.py actors
	$(BIN)/python benchmarks/scale.py imagenet

## train: the bundled weights again (downloads MNIST unless WNA_DATA has it)
train: $(STAMP)
	$(BIN)/python jobs/train_mnist_cnn.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wna_ray needs Python 3.11 or newer; make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) runs build *.egg-info .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
