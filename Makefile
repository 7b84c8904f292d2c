# `make demo` and `make test` set up the environment they need; a second call finds it and starts at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check slow docs lock clean

demo: $(READY)  ## run the main job on the demo data set
	$(BIN)/python main.py

test: $(READY) check  ## style, types, then all quick tests with coverage, one process per core
	$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered --cov-fail-under=90

check: $(READY)  ## style, types and the layers of the packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

slow: $(READY)  ## the tests that take long
	$(BIN)/python -m pytest -m "slow and not gpu"

docs: $(READY)  ## the documentation as a web site in outputs/site, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# One thread per process: several test processes run side by side, and threads that wait for each other are slow.
test slow: export OMP_NUM_THREADS = 1

# sam2 builds against the installed torch, so it comes after it and without a build environment of its own.
$(READY): requirements.lock requirements-sam2.lock pyproject.toml setup.py
	@echo "Setting up $(VENV): about 6 GB of packages, some minutes in which pip says little."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	SAM2_BUILD_CUDA=0 $(BIN)/python -m pip install --quiet --require-hashes --no-build-isolation --no-deps --requirement requirements-sam2.lock
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $(READY)

lock:  ## pin every dependency again, by version and hash (needs uv)
	SAM2_BUILD_CUDA=0 VIRTUAL_ENV=$(VENV) uv pip compile --universal --python-version 3.10 --extra dev --extra docs --extra sam2 \
		--no-build-isolation --no-emit-package sam2 --no-header --annotation-style line --generate-hashes --no-strip-extras --upgrade \
		pyproject.toml --output-file requirements.lock

clean:  ## remove the environment and all results
	rm -rf $(VENV) outputs
