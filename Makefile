# Each target makes the environment it needs in $(VENV) when it is missing, and says so.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Python compiles a module on its first import and keeps that, unless told not to, which would cost each process seconds:
# the 18,000 modules that pip would compile at once take most of a minute.
unexport PYTHONDONTWRITEBYTECODE
PIP = $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

# The fast tier leaves out what needs TensorFlow, a browser, TeX, Slurm or a published package, starts processes, or is slow.
SLOW_TIERS = parity or processes or slurm or browser or tex or real or slow
# Two processes with a thread each; a file's tests stay together, for what they share.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: help quickstart test test-rest test-all test-real coverage check fuzz kills bench reports clean

help:
	@echo "make quickstart   draw digits from a DiT, score them beside real and damaged ones, run a small scaling study"
	@echo "make test         the fast tests, a few minutes"
	@echo "make test-all     all tests (installs TensorFlow as well, for parity with the original program)"
	@echo "make test-real    the true network on real pictures, against published numbers (brings 220 MB; 21 minutes of a core)"
	@echo "make coverage     the fast tests again, and the share of lines that they run"
	@echo "make check        lint, format, types and layering"
	@echo "make fuzz         1,000 damaged and hostile files for each reader, within 5 minutes"
	@echo "make kills        kill each command at 100 random moments, have it go on, and compare what it made"
	@echo "make bench        measure memory and speed on this machine"
	@echo "make reports      make the figures and tables in reports/ again"

$(VENV)/.core: pyproject.toml constraints.txt
	@echo "Installing dit-eval into $(VENV) (PyTorch with its CUDA packages: several GB, some minutes)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.core
	@echo "Installing what the tests need into $(VENV): pytest, scikit-learn, timm, submitit, ruff, mypy"
	$(PIP) --editable ".[test]"
	@touch $@

$(VENV)/.test-all: $(VENV)/.test
	@echo "Installing what all tests need into $(VENV): TensorFlow, selenium"
	$(PIP) --editable ".[test-all]"
	@touch $@

quickstart: $(VENV)/.core
	$(BIN)/dit-eval quickstart

test: $(VENV)/.test
	$(PYTEST) -m "not ($(SLOW_TIERS))"

# The same, with the share of each module's lines that these tests run; half as slow again.
coverage: $(VENV)/.test
	$(PYTEST) -m "not ($(SLOW_TIERS))" --cov=dit_eval --cov-report=term --cov-fail-under=80

# What `make test` leaves out, but for what takes long.
test-rest: $(VENV)/.test-all
	$(PYTEST) -m "($(SLOW_TIERS)) and not long"

test-all: test test-rest

# The features of the 10,000 pictures are kept (tests/support/real.py says where): a second run takes a minute.
test-real: $(VENV)/.test
	$(BIN)/python -m pytest -m "real"

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_layering.py

# SEED=1 tries other cases.
fuzz: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python tests/support/fuzz_readers.py --seed $(or $(SEED),0)

# KILLS=10 of each command; SEED=1 for other moments.
kills: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python tests/support/kill_runs.py --kills $(or $(KILLS),100) --seed $(or $(SEED),0)

# The short set, under ten minutes on two cores; benchmarks/README.md has the long runs.
bench: $(VENV)/.test-all
	$(BIN)/python benchmarks/speed_features.py --repeats 2
	$(BIN)/python benchmarks/speed_metrics.py --rows 5000 --repeats 1
	$(BIN)/python benchmarks/memory_of_evaluation.py
	$(BIN)/python benchmarks/speed_sampling.py --steps 4 --repeats 2
	$(BIN)/python benchmarks/coverage_of_intervals.py
	$(BIN)/python benchmarks/speed_flops.py --repeats 1

reports: $(VENV)/.core
	$(BIN)/python reports/make.py metric_response
	$(BIN)/python reports/make.py paper
	$(BIN)/python reports/make.py digits
	$(BIN)/python reports/make.py digits_samplers
	$(BIN)/python reports/make.py digits_seeds
	$(BIN)/python reports/make.py digits_sweep
	$(BIN)/python reports/make.py cifar10
	$(BIN)/python reports/make.py why

clean:
	rm -rf $(VENV)
